"""`agree`: makes sure that all nodes of a run were launched with the same settings.

The first node writes down its own in the run's store, every later one compares. Called by
`dynamic`, before a node announces itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack

from asyncrpc.store import Store
from launcher.errors import RendezvousError, RendezvousStateError
from launcher.rendezvous.keys import TERMS

__all__ = ("agree",)


async def agree(store: Store, label: str, settings: Mapping[str, str]) -> None:
    """Compare the settings of a node with those that the run has.

    Args:
        store: that the agents share.
        label: of the node.
        settings: by name, in the user's words; those that the first node has not are not compared.

    Raises:
        RendezvousError: one differs; names it, both values, and the node that has the other one.
        RendezvousStateError: the store holds something else.
        StoreError: the store was lost.
    """
    own: bytes = msgpack.packb([label, dict(settings)])
    found = await store.compare_set(TERMS, b"", own)
    first, theirs = _read(found)
    for name, value in settings.items():
        if theirs.get(name, value) != value:
            raise RendezvousError(
                f"{name}={value}: expected {theirs[name]}, which {first} was launched with: "
                "all nodes of a run need the same"
            )


def _read(data: bytes) -> tuple[str, dict[str, str]]:
    try:
        found: Any = msgpack.unpackb(data)
    except ValueError:
        found = None
    match found:
        case [str(label), dict(settings)]:
            return label, settings
    raise RendezvousStateError(f"the store holds no settings of a run: {data[:64]!r}")
