"""This worker's place in its group's part of the store: its record, the lease on it, its last word.

Used by the `Roster`, which says when. The store may fail at any time; where it is gone for good
another one is found, or served here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncrpc.agent.liveness import ask_alive
from asyncrpc.discovery import (
    OVER,
    WORKERS,
    Record,
    StoreLink,
    Verdict,
    claim,
    find_entry,
    key_of,
    name_key,
    worker_key,
)
from asyncrpc.errors import RpcError, StoreConnectionError
from asyncrpc.identity import WorkerInfo
from asyncrpc.store import Lease, Store, StoreError, StoreTimeoutError

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("Place",)

_log = logging.getLogger("asyncrpc.members")

_LEAST_TTL = 2.0  # seconds; a lease must outlive a busy moment, whatever heartbeats do
_FAREWELL = 1.0  # seconds for the last words to the store, which may be gone already


class Place:
    """One worker's keys in its group's part of the store.

    Args:
        agent: the worker.
        link: the store.
        scope: gives the group's part of a store.
        world_size: number of workers, 0 for a dynamic group.
    """

    def __init__(
        self, agent: Agent, link: StoreLink, scope: Callable[[Store], Store], world_size: int
    ) -> None:
        self._agent = agent
        self._link = link
        self._scope = scope
        self._is_dynamic = not world_size
        self._mending = asyncio.Lock()
        options = agent.options
        self._ttl = max(options.heartbeat_interval * options.heartbeat_misses, _LEAST_TTL)
        self.group = scope(link.store)
        """The group's part of the store."""
        self.record: Record | None = None
        """This worker's, once it was claimed."""
        self.lease: Lease | None = None
        self.claimed: list[str] = []
        """Keys that are this worker's."""
        self.keep_lease: Callable[[Store, Lease], object] = lambda _store, _lease: None
        """Has the lease renewed while the loop is blocked, if there is a thread to do it."""

    @property
    def where(self) -> str:
        """The store's address, empty where it has none."""
        return self._link.where

    async def claim(self, record: Record) -> None:
        """Put this worker's record under its keys, on a new lease.

        Raises:
            DuplicateNameError: a worker that lives has the name or the id.
            PeerLostError: the group holds this incarnation for lost.
        """
        self.record = record
        lease = self.lease = self.group.lease(self._ttl)
        try:
            await lease.__aenter__()
            self.keep_lease(self._link.store, lease)
            await self._claim_keys(record, lease)
        except BaseException:
            lease.mark_lost()  # it holds no place, or half of one
            raise

    async def _claim_keys(self, record: Record, lease: Lease) -> None:
        self.claimed = []
        names = [name_key(record.info.name)] if self._is_dynamic else []
        for key in (*names, worker_key(record.info.id)):  # the last one is what others see
            old = await claim(self.group, key, record, lease, self.is_alive, self.is_void)
            self.claimed.append(key)
            if old is not None and old.info.id != record.info.id:
                await self.judge(old, f"another run of {old.info.name} took its place")

    async def claim_again(self) -> None:
        """Put the record back after its lease was lost; errors are those of `claim`."""
        assert self.record is not None  # it was claimed once
        if self.lease is not None:  # what hangs on it goes, should the store have it still
            await self.lease.__aexit__(None, None, None)
        await self.claim(self.record)

    async def release(self) -> None:
        """End the lease, and so free all keys of this worker. Idempotent."""
        lease, self.lease = self.lease, None
        if lease is not None:
            await lease.__aexit__(None, None, None)

    async def is_alive(self, record: Record) -> bool:
        """Whether the worker of a record answers; this worker itself does not count."""
        if record.incarnation == self._agent.incarnation:
            return False  # put there before the lease lapsed
        try:
            await ask_alive(self._agent, record, timeout=self._agent.options.heartbeat_interval)
        except (RpcError, OSError):  # TimeoutError is one
            return False
        return True

    def is_void(self, verdict: Verdict) -> bool:
        """Whether a verdict does not count, since the group judged its judge before."""
        judge = self._agent.members.of(verdict.by)
        return judge is not None and judge.is_judged

    async def judge(self, record: Record, reason: str) -> None:
        """Put a verdict in the place of a record, if that is still there or nothing is."""
        by = self._agent.incarnation
        verdict = Verdict("lost", reason, record.incarnation, by).encode()
        key, expected = worker_key(record.info.id), record.encode()
        held = await self.group.compare_set(key, expected, verdict, lease=self.lease)
        if held == expected:  # there was nothing
            await self.group.compare_set(key, b"", verdict, lease=self.lease)

    async def look_up(self, to: str | int | WorkerInfo) -> Record | None:
        """Return the record that the store has of a worker, ``None`` if it has none.

        Raises:
            StoreError: it does not answer.
        """
        try:
            entry = find_entry(await self.group.get(key_of(to), 0))
        except StoreTimeoutError:
            return None
        return entry if isinstance(entry, Record) else None

    async def mend(self, error: StoreError) -> None:
        """Wait a moment after a failure of the store; if it is gone for good, reach another."""
        broken = self.group
        pause = self._agent.options.heartbeat_interval
        if self._link.place is None or not isinstance(error, StoreConnectionError):
            await self._agent.clock.sleep(pause)
            return
        async with self._mending:
            if self.group is not broken:  # another task has seen to it
                return
            try:
                await self._link.reopen(self._agent.options.init_timeout)
            except (RpcError, OSError) as failure:
                _log.warning("%s has no store: %s", self._agent.info.name, failure)
                await self._agent.clock.sleep(pause)
                return
            self.group = self._scope(self._link.store)
            _log.info("%s has another store at %s", self._agent.info.name, self._link.where)

    async def say_goodbye(self, kind: str, reason: str) -> None:
        """Say in place of the record that this worker goes, and how."""
        if self.record is None or self.lease is None:
            return
        own = self._agent.incarnation
        verdict = Verdict("left" if kind == "left" else "lost", reason, own, own).encode()
        key, expected = worker_key(self.record.info.id), self.record.encode()
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                # on the lease: it vanishes with it, and a newer worker's record does not
                await self.group.compare_set(key, expected, verdict, lease=self.lease)

    async def clear_group(self) -> None:
        """Empty the group's part of the store, and let nobody new find a store served here."""
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self.group.set(OVER, Verdict("over", "all have shut down").encode())
                keys = await self.group.list_keys(WORKERS)
                await asyncio.gather(*[self.group.delete_key(key) for key in keys])
        await self._link.retire()

    async def close(self) -> None:
        """Release the place, if the store still answers."""
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self.release()
