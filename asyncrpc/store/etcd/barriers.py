"""Barriers.

Theory of operation: who arrives writes a key on its session, with the number it waits for. The one
who completes the number marks the others' keys as released, all at once: that is the moment the
barrier opens. Of several who arrive at the same time it is the one whose key came last. Each takes
its own key away. A client that died vanishes from the barrier when its session lapses.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import NamedTuple

from asyncrpc.errors import StoreTimeoutError
from asyncrpc.store.commands import Barrier
from asyncrpc.store.etcd.core import Core
from asyncrpc.store.etcd.hub import Inbox
from asyncrpc.store.etcd.lane import Turn
from asyncrpc.store.etcd.messages import (
    SESSION,
    Row,
    delete,
    modified_by,
    prefix_end,
    put,
    read,
    read_prefix,
    rows_of,
    txn,
    value_is,
)
from asyncrpc.store.etcd.refusals import RefusedError
from asyncrpc.store.failures import barrier_error, mismatch_error

__all__ = ("Barriers",)

_RELEASED = b"released"


class _Crowd(NamedTuple):
    """Who is at a barrier, as one of them sees it."""

    waiting: list[Row]
    """For the same number and not released, in order of arrival."""
    own: Row | None
    revision: int


class Barriers:
    """Carries out barriers.

    Args:
        core: of the client.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._layout = core.layout

    async def barrier(self, command: Barrier, turn: Turn, deadline: float) -> None:
        """Wait until all have arrived."""
        folder = self._layout.arrivals(command.key)
        with self._core.hub.listen(lambda place: place.startswith(folder)) as inbox:
            while True:
                crowd = await self._look(command, folder)
                if len(crowd.waiting) + 1 < command.world_size:
                    break
                if await self._release(folder, crowd, crowd.waiting[: command.world_size - 1]):
                    return
            if deadline <= asyncio.get_running_loop().time():
                raise barrier_error(command, len(crowd.waiting) + 1)
            await self._wait(command, folder, inbox, turn, deadline)

    async def _wait(
        self, command: Barrier, folder: bytes, inbox: Inbox, turn: Turn, deadline: float
    ) -> None:
        """Arrive, and wait to be released, or to be the one who releases."""
        own = folder + secrets.token_hex(8).encode()
        try:
            crowd = await self._arrive(command, folder, own)
            turn.leave()
            while not await self._is_open(command, folder, own, crowd, inbox, deadline):
                crowd = await self._look(command, folder, own)
        except BaseException as error:
            leaving = self._leave(self._core.lane.join(), command, own)
            if isinstance(error, TimeoutError) and not isinstance(error, StoreTimeoutError):
                arrived = await leaving
                if arrived:
                    raise barrier_error(command, arrived) from None
                return  # it opened in the last moment
            self._core.spawn(leaving)
            raise

    async def _is_open(
        self,
        command: Barrier,
        folder: bytes,
        own: bytes,
        crowd: _Crowd,
        inbox: Inbox,
        deadline: float,
    ) -> bool:
        """Open it or wait for a change; say whether it is open now."""
        if crowd.own is None:  # this client was silent for too long
            async with self._core.lane.join():
                await self._arrive(command, folder, own)
            return False
        if crowd.own.value != _RELEASED:
            if _is_last(crowd.waiting, command.world_size, own):
                async with self._core.lane.join():
                    first = crowd.waiting[: command.world_size - 1]
                    return await self._release(folder, crowd, first, own)
            self._core.hub.begin(crowd.revision)
            if not await self._is_released(command, inbox, own, crowd, deadline):
                return False
        self._core.spawn(self._depart(self._core.lane.join(), own))
        return True

    async def _arrive(self, command: Barrier, folder: bytes, own: bytes) -> _Crowd:
        """Write the own key; return who is there then."""
        arriving = put(own, b"%d" % command.world_size, SESSION)
        written = await self._core.writer.write([], [arriving, read_prefix(folder)])
        if not written.responses:  # it was sent twice, and the first answer is lost
            return await self._look(command, folder, own)
        return _crowd_of(command, rows_of(written.responses[1][1]), written.revision, own)

    async def _depart(self, turn: Turn, own: bytes) -> None:
        """Take the own key away once it is released."""
        async with turn:
            await self._core.writer.write([], [delete(own)])

    async def _leave(self, turn: Turn, command: Barrier, own: bytes) -> int:
        """Take the own key away; say how many had arrived, 0 if the barrier has opened."""
        folder = own.rpartition(b"/")[0] + b"/"
        async with turn:
            crowd = await self._look(command, folder, own)
            waits = value_is(own, b"%d" % command.world_size)
            written = await self._core.writer.write([waits], [delete(own)], [read(own)])
            if written.is_done:
                return len(crowd.waiting)
            rows = rows_of(written.responses[0][1])
            if rows:
                await self._core.writer.write([], [delete(own)])
            return 0 if rows and rows[0].value == _RELEASED else len(crowd.waiting) + 1

    async def _release(
        self, folder: bytes, crowd: _Crowd, others: list[Row], own: bytes = b""
    ) -> bool:
        """Open the barrier, if nobody has come or gone since it was looked at."""
        demand = modified_by(folder, crowd.revision, prefix_end(folder))
        marks = [put(row.key, _RELEASED, keeps_lease=True) for row in others]
        try:
            written = await self._core.writer.write(
                [demand], [txn([], marks), *([delete(own)] if own else [])]
            )
        except RefusedError as error:
            if "key not found" in str(error):  # one of them has gone
                return False
            raise
        return written.is_done

    async def _look(self, command: Barrier, folder: bytes, own: bytes = b"") -> _Crowd:
        """Return who is there; see `_crowd_of`."""
        (found,), revision = await self._core.look([read_prefix(folder)])
        return _crowd_of(command, rows_of(found), revision, own)

    async def _is_released(
        self, command: Barrier, inbox: Inbox, own: bytes, crowd: _Crowd, deadline: float
    ) -> bool:
        """Wait until there is something for this one to do; say whether that is to go on."""
        waiting = {row.key: row for row in crowd.waiting}
        while not _is_last([*waiting.values()], command.world_size, own):
            events = await inbox.take(deadline)
            if not events:
                return False
            for event in events:
                row = event.row
                if row.modified <= crowd.revision:
                    continue
                if row.key == own:
                    return event.is_put and row.value == _RELEASED
                if event.is_put and row.value == b"%d" % command.world_size:
                    waiting[row.key] = row
                else:
                    waiting.pop(row.key, None)
        return False


def _crowd_of(command: Barrier, rows: list[Row], revision: int, own: bytes) -> _Crowd:
    """Return who is there.

    Raises:
        StoreError: others were there earlier who wait for another number.
    """
    rows.sort(key=lambda row: row.created)
    size = b"%d" % command.world_size
    waiting = [row for row in rows if row.value == size]
    mine = next((row for row in rows if row.key == own), None)
    for row in rows:
        is_earlier = mine is None or row.created < mine.created
        if row.value not in (size, _RELEASED) and is_earlier:
            raise mismatch_error(command, int(row.value))
    return _Crowd(waiting, mine, revision)


def _is_last(waiting: list[Row], world_size: int, own: bytes) -> bool:
    """Return whether there are enough, and it is for this one to open the barrier."""
    return len(waiting) >= world_size and waiting[world_size - 1].key == own
