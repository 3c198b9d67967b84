"""`guide`: sends on those who look for a run where its store was before it moved.

A node that comes back to the endpoint which all were given finds nobody there, and begins a run of
the same name. It and those who meet there are told where the run is. Called by `membership`, on
the node that has the store.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from asyncrpc.errors import AuthenticationError
from asyncrpc.store import PrefixStore, StoreError
from launcher.errors import RendezvousStateError
from launcher.rendezvous.keys import PREFIX, RECORD
from launcher.rendezvous.leader import move
from launcher.rendezvous.place import HostedPlace
from launcher.rendezvous.state import decode_record, encode

__all__ = ("guide",)

_PATIENCE = 1.0  # seconds to reach what may not be there
_ATTEMPTS = 16  # each fails only if another record was written meanwhile

_logger = logging.getLogger("launcher.rendezvous")


async def guide(place: HostedPlace, timeout: float) -> None:
    """Tell whoever meets at the endpoint that was given where the store is now, once.

    Args:
        place: of the store.
        timeout: seconds to try at most.
    """
    with suppress(StoreError, AuthenticationError, RendezvousStateError):
        async with await place.reach(place.given, min(_PATIENCE, timeout)) as store:
            await _tell(PrefixStore(PREFIX, store), place.endpoint)


async def _tell(store: PrefixStore, endpoint: str) -> None:
    for _ in range(_ATTEMPTS):
        values, _version = await store.snapshot(RECORD)
        stored = values.get(RECORD, b"")
        record = decode_record(stored)
        if record.moved == endpoint:
            return
        last = move(record, endpoint, "the run goes on elsewhere")
        data = encode(last._replace(revision=record.revision + 1))
        if await store.compare_set(RECORD, stored, data) == data:
            _logger.info("told those who meet at the first endpoint that the run is here")
            return
