"""Operations on queues.

Theory of operation: the items of a queue are numbered keys; the number of the last one lies beside
them. Who waits at an empty queue draws a ticket, a key on its session; the holder of the oldest one
takes the first item. So they are served in order of arrival, whichever client they are of. A holder
that died keeps the others waiting until its session lapses.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import Any, NamedTuple

from asyncrpc.errors import QueueEmptyError, StoreTimeoutError
from asyncrpc.store.commands import QueueLen, QueuePop, QueuePush
from asyncrpc.store.etcd.core import Core
from asyncrpc.store.etcd.hub import Inbox
from asyncrpc.store.etcd.lane import Turn
from asyncrpc.store.etcd.messages import (
    SESSION,
    Row,
    delete,
    exists,
    is_absent,
    is_empty,
    modified_by,
    prefix_end,
    put,
    read,
    read_prefix,
    rows_of,
)
from asyncrpc.store.failures import missing_error

__all__ = ("Queues",)

_MAX_TAILS = 1024  # of queues whose last number is remembered


class _State(NamedTuple):
    first: Row | None
    """The item that is to be taken next."""
    tickets: dict[bytes, int]
    """Of those who wait, and the revisions they were drawn at."""
    revision: int


class Queues:
    """Carries out commands on queues.

    Args:
        core: of the client.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._layout = core.layout
        # Number and revision of the last item of queues that this client pushes to: a guess.
        self._tails: dict[str, tuple[int, int]] = {}

    async def push(self, command: QueuePush) -> None:
        """Put a value at the end of a queue."""
        key, value = command
        tail, items = self._layout.tail(key), self._layout.items(key)
        number, modified = self._tails.pop(key, (0, 0))
        while True:
            demand = modified_by(tail, modified) if modified else is_absent(tail)
            new = b"%016x" % (number + 1)
            written = await self._core.writer.write(
                [demand], [put(items + new, value), put(tail, new)], [read(tail)]
            )
            if written.is_done:
                if written.responses and len(self._tails) < _MAX_TAILS:
                    self._tails[key] = number + 1, written.revision
                return
            rows = rows_of(written.responses[0][1])
            number, modified = (int(rows[0].value, 16), rows[0].modified) if rows else (0, 0)

    async def length(self, command: QueueLen) -> int:
        """Return the number of values in a queue."""
        count = read_prefix(self._layout.items(command.key), count_only=True)
        (found,), _ = await self._core.look([count])
        return int(found.get("count", 0))

    async def pop(self, command: QueuePop, turn: Turn, deadline: float) -> bytes:
        """Take the first value of a queue."""
        key = command.key
        items, tickets = self._layout.items(key), self._layout.tickets(key)
        with self._core.hub.listen(lambda place: place.startswith((items, tickets))) as inbox:
            while True:
                state = await self._look(key)
                if state.first is None or state.tickets:
                    break
                nobody = is_empty(tickets, prefix_end(tickets))
                if await self._take(state.first, nobody, [], turn):
                    return state.first.value
            if not command.block:
                raise QueueEmptyError(f"queue {key!r} is empty")
            try:
                if deadline <= asyncio.get_running_loop().time():
                    raise TimeoutError
                return await self._wait(key, inbox, turn, deadline)
            except TimeoutError as error:
                if isinstance(error, StoreTimeoutError):
                    raise
                raise missing_error([key], command.timeout) from None

    async def _wait(self, key: str, inbox: Inbox, turn: Turn, deadline: float) -> bytes:
        """Draw a ticket and wait until it is its turn and there is an item."""
        ticket = self._layout.tickets(key) + secrets.token_hex(8).encode()
        try:
            await self._draw(ticket)
            turn.leave()
            while True:
                state = await self._look(key)
                if ticket not in state.tickets:  # this client was silent for too long
                    async with self._core.lane.join():
                        await self._draw(ticket)
                    continue
                drawn = state.tickets[ticket]
                ahead = {other for other, at in state.tickets.items() if at < drawn}
                if not ahead and state.first is not None:
                    async with self._core.lane.join() as taking:
                        also = [delete(ticket)]
                        if await self._take(state.first, exists(ticket), also, taking):
                            return state.first.value
                    continue
                self._core.hub.begin(state.revision)
                await self._await_turn(inbox, ticket, ahead, state, deadline)
        except BaseException:
            withdrawing = self._core.lane.join()  # before whatever this client asks for next
            self._core.spawn(self._withdraw(withdrawing, ticket))
            raise

    async def _draw(self, ticket: bytes) -> None:
        await self._core.writer.write([], [put(ticket, b"", SESSION)])

    async def _withdraw(self, turn: Turn, ticket: bytes) -> None:
        async with turn:
            await self._core.writer.write([], [delete(ticket)])

    async def _await_turn(
        self, inbox: Inbox, ticket: bytes, ahead: set[bytes], state: _State, deadline: float
    ) -> None:
        """Wait until there may be an item and nobody ahead."""
        is_filled = state.first is not None
        folder = ticket.rpartition(b"/")[0]
        while ahead or not is_filled:
            events = await inbox.take(deadline)
            if not events:
                return
            for event in events:
                place = event.row.key
                if event.row.modified <= state.revision:
                    continue
                if event.is_put:
                    is_filled |= not place.startswith(folder)
                elif place == ticket:
                    return
                else:
                    ahead.discard(place)

    async def _look(self, key: str) -> _State:
        items, tickets = self._layout.items(key), self._layout.tickets(key)
        (first, waiting), revision = await self._core.look(
            [read_prefix(items, limit="1"), read_prefix(tickets, keys_only=True)]
        )
        rows = rows_of(first)
        drawn = {row.key: row.created for row in rows_of(waiting)}
        return _State(rows[0] if rows else None, drawn, revision)

    async def _take(
        self, item: Row, demand: dict[str, Any], also: list[dict[str, Any]], turn: Turn
    ) -> bool:
        """Take an item if it is still there; who is cancelled meanwhile has not taken it.

        Args:
            item: which.
            demand: what must hold besides.
            also: what is done along with it.
            turn: of the caller.
        """
        demands = [modified_by(item.key, item.modified), demand]
        try:
            written = await self._core.writer.write(demands, [delete(item.key), *also])
        except BaseException:
            back = partial(self._give_back, turn.follow(), self._core.writer.number, item)
            self._core.spawn(back())
            raise
        return written.is_done

    async def _give_back(self, turn: Turn, number: int, item: Row) -> None:
        async with turn:
            await self._core.writer.undo(number, [put(item.key, item.value)])
