"""`WatchStream`: a watch of a range of keys in etcd, which outlives connections and members.

Resumes after the last event that it has passed on. What etcd has compacted meanwhile is lost to it;
it says so and goes on behind the gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from asyncrpc.errors import StoreConnectionError, StoreError
from asyncrpc.store.etcd.gateway import Gateway
from asyncrpc.store.etcd.keys import revision_from, version_at, version_of
from asyncrpc.store.etcd.messages import Row, row_of, watch

__all__ = ("Happened", "WatchStream")

_FIRST_PAUSE = 0.02  # seconds before a watch is asked for again
_MAX_PAUSE = 0.5


class Happened(NamedTuple):
    """One change of one key."""

    is_put: bool
    row: Row
    version: int


class WatchStream:
    """Passes on what happens to keys.

    Args:
        gateway: to etcd.
        start: first key.
        end: behind the last key.
        version: after which changes are told.
        take: is called with each change.
        compacted: is called when changes up to a revision can no longer be told.
    """

    def __init__(
        self,
        gateway: Gateway,
        start: bytes,
        end: bytes,
        version: int,
        take: Callable[[Happened], None],
        compacted: Callable[[int], None],
    ) -> None:
        self._gateway = gateway
        self._range = start, end
        self._version = version  # everything up to it has been passed on, or was not asked for
        self._take = take
        self._compacted = compacted
        self._counted = 0, 0  # a revision, and its events that came by the present connection
        self._heard_at = 0.0

    async def run(self, patience: float) -> None:
        """Pass on what happens, for good.

        Args:
            patience: seconds to try when the stream has broken.

        Raises:
            StoreConnectionError: no member could be reached for so long.
            StoreError: etcd refuses, or the callbacks do.
        """
        loop = asyncio.get_running_loop()
        self._heard_at = loop.time()
        pause = _FIRST_PAUSE
        while True:
            heard_at = self._heard_at
            request = watch(*self._range, revision_from(self._version))
            self._counted = 0, 0
            await self._gateway.stream("/v3/watch", request, self._read)
            if self._heard_at != heard_at:
                self._heard_at, pause = loop.time(), _FIRST_PAUSE  # it worked until now
            elif loop.time() - heard_at > patience:
                raise StoreConnectionError(
                    f"store at {self._gateway} lost: no member has served a watch for "
                    f"{patience:g} s"
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_PAUSE)

    def _read(self, result: dict[str, Any]) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if result.get("canceled"):
            self._end(result)
            return
        for event in result.get("events", ()):
            self._pass_on(event.get("type") != "DELETE", row_of(event["kv"]))
        if not result.get("events") and not result.get("created"):
            # a sign of life says how far etcd has come without anything for us
            revision = int(result.get("header", {}).get("revision", 0))
            self._version = max(self._version, version_at(revision))

    def _pass_on(self, is_put: bool, row: Row) -> None:
        revision, count = self._counted
        index = count if row.modified == revision else 0
        self._counted = row.modified, index + 1
        version = version_of(row.modified, index)
        if version > self._version:  # else it came before the connection broke
            self._version = version
            self._take(Happened(is_put, row, version))

    def _end(self, result: dict[str, Any]) -> None:
        compacted = int(result.get("compact_revision", 0))
        if not compacted:  # no leader, for one: the stream ends, and is asked for again
            reason = str(result.get("cancel_reason", ""))
            if "permission denied" in reason:
                raise StoreError(f"etcd at {self._gateway} refused a watch: {reason}")
            return
        self._version = max(self._version, version_at(compacted))
        self._compacted(compacted)
