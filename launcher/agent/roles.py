"""How the agents of a round learn what the others bring to it, in one round trip each.

Every agent writes its own line in the round's store and reads all of them at once; what comes of
them is the same arithmetic everywhere (`ranks`), so nobody has to wait for one who computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from launcher.agent.ranks import NodeRole
from launcher.errors import RendezvousStateError
from launcher.rendezvous import RendezvousHandler, RendezvousInfo

__all__ = ("IDENTICAL_VARIABLE", "exchange_roles")

IDENTICAL_VARIABLE = "TORCH_ELASTIC_WORKER_IDENTICAL"  # torchrun's: 1 promises that all are alike
_NOTICE = 1.0  # seconds for the handler to notice too what failed the exchange


async def exchange_roles(
    handler: RendezvousHandler, info: RendezvousInfo, node: NodeRole, environ: Mapping[str, str]
) -> list[NodeRole] | None:
    """Tell the others what this node brings to a round, and learn what they bring.

    Args:
        handler: that the round was joined by.
        info: the round.
        node: what this node brings.
        environ: variables; ``TORCH_ELASTIC_WORKER_IDENTICAL=1`` promises that all nodes bring the
            same.

    Returns:
        What each node brings, by group rank; ``None`` if the round was over before all had told.

    Raises:
        RendezvousStateError: a node wrote something else.
        RendezvousConnectionError: the place where agents meet was lost.
        StoreError: the round's store was lost, and is not that place.
    """
    if info.world_size == 1 or environ.get(IDENTICAL_VARIABLE) == "1":
        return [node] * info.world_size
    exchange = asyncio.ensure_future(_exchange(info, node))
    over = asyncio.ensure_future(handler.round_over())
    try:
        await asyncio.wait({exchange, over}, return_when=asyncio.FIRST_COMPLETED)
        if exchange.done() and exchange.exception() is not None:
            await asyncio.wait({over}, timeout=_NOTICE)
    finally:
        exchange.cancel()
        over.cancel()
        results = await asyncio.gather(exchange, over, return_exceptions=True)
    if isinstance(results[0], list):
        return results[0]
    for error in reversed(results):  # that of the handler tells more
        if isinstance(error, Exception):
            raise error
    return None


async def _exchange(info: RendezvousInfo, node: NodeRole) -> list[NodeRole]:
    keys = [f"role/{rank}" for rank in range(info.world_size)]
    _, lines = await asyncio.gather(
        info.store.set(keys[info.rank], f"{node.local_world_size} {node.role}"),
        info.store.multi_get(keys, None),
    )
    return [_node(line) for line in lines]


def _node(line: bytes) -> NodeRole:
    size, _, role = line.decode("utf-8", "replace").partition(" ")
    if not (size.isdigit() and int(size) > 0 and role):
        raise RendezvousStateError(f"expected workers and role of a node, got {line[:64]!r}")
    return NodeRole(role=role, local_world_size=int(size))
