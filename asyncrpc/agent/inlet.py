"""The caller's end of a stream: items in order, room for more, the end.

An `Inlet` belongs to one `StreamFuture`, the call that is out; the user's handle is in `streaming`.
Items carry their numbers, so that copies and changes of place do no harm.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from asyncrpc.agent.pending import RpcFuture
from asyncrpc.errors import Delivery, RemoteProtocolError, RpcError, RpcTimeoutError
from asyncrpc.observe import Timer
from asyncrpc.wire import LENGTH, MessageType, encode_frame

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("NUMBERS", "HeldItem", "Inlet", "StreamFuture")

NUMBERS = 1 << 32
"""Items are numbered modulo this."""
_CREDIT = int(MessageType.STREAM_CREDIT)


class Looker(Protocol):
    """Ends streams of which all items are here."""

    def look(self, connection: Connection, future: StreamFuture) -> None:
        """See whether this one is such."""
        ...


class StreamFuture(RpcFuture[int]):
    """The call behind a stream; its result is the number of items."""

    __slots__ = ("inlet",)

    inlet: Inlet


class Inlet:
    """What came of one stream and was not read yet.

    Args:
        agent: whose stream.
        future: the call.
        window: items that may be unread, at least 1.
        timeout: seconds to wait for each item, 0 for no limit.
    """

    def __init__(self, agent: Agent, future: StreamFuture, window: int, timeout: float) -> None:
        self._agent = agent
        self._future = future
        self._window = window
        self._timeout = timeout
        self.items: deque[Any] = deque()
        """Items to read."""
        self._next = 0  # number of the next item to come
        self._early: dict[int, Any] = {}  # items that overtook others
        self._read = 0
        self._granted = window
        self.total: int | None = None
        """How many items there are, once that is known."""
        self._waiter: asyncio.Future[None] | None = None
        self._waits_since = 0.0
        self._timer: Timer | None = None
        self._is_over = False  # whether its end was told
        future.add_done_callback(self._wake)

    # -- from the link

    def check(self, number: int) -> None:
        """Refuse an item for which there is no room.

        Raises:
            RemoteProtocolError: that is so.
        """
        ahead = (number - self._next) % NUMBERS
        if self._granted - self._next <= ahead < NUMBERS // 2:
            raise RemoteProtocolError(f"stream item {number} came without room for it")

    def put(self, number: int, item: object) -> None:
        """Take in an item that was checked."""
        ahead = (number - self._next) % NUMBERS
        if ahead >= NUMBERS // 2:
            return  # a copy of one that came before
        if ahead:
            self._early[self._next + ahead] = item
            return
        self.items.append(item)
        self._next += 1
        while self._early and self._next in self._early:
            self.items.append(self._early.pop(self._next))
            self._next += 1
        if self._waiter is not None:
            self._wake()

    @property
    def is_complete(self) -> bool:
        """Whether all items of the stream have come."""
        return self._next == self.total

    # -- from the user

    def take(self) -> Any:
        """Return the next item, of which there is one; make room for more from time to time."""
        item = self.items.popleft()
        self._read += 1
        if self._granted - self._read <= self._window // 2:
            self._grant()
        return item

    def _grant(self) -> None:
        self._granted = self._read + self._window
        future = self._future
        connection = future.owner.connection  # type: ignore[attr-defined]  # a Peer
        if connection is not None and not future.done():
            limit = LENGTH.pack(self._granted)
            connection.send(encode_frame(_CREDIT, future.call_id, limit))

    async def wait(self) -> None:
        """Wait until there is an item.

        Raises:
            StopAsyncIteration: the stream is over.
            RuntimeError: another task waits already.
            Exception: what ended the stream, once.
        """
        if self._waiter is not None:
            raise RuntimeError("two tasks wait for items of one stream: only one may")
        while not self.items:
            if self._future.done():
                self._tell_end()
            self._waiter = self._agent.loop.create_future()
            self._watch()
            try:
                await self._waiter
            except asyncio.CancelledError:  # ends the producer, as it would a local generator
                self._future.cancel()
                raise
            finally:
                self._waiter = None

    def _tell_end(self) -> None:
        is_first, self._is_over = not self._is_over, True
        if is_first and not self._future.cancelled():
            self._future.result()
        raise StopAsyncIteration

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._future.done():
            self._stop_timing()
            self._early.clear()
            if self._future.cancelled():
                self.items.clear()

    def _stop_timing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- time: one timer for all waits, that looks whether the present one began early enough

    def _watch(self) -> None:
        if self._timeout and not self._future.done():
            self._waits_since = self._agent.clock.time()
            if self._timer is None:
                self._arm(self._waits_since + self._timeout)

    def _arm(self, when: float) -> None:
        self._timer = self._agent.clock.call_at(when, self._check_time)

    def _check_time(self) -> None:
        self._timer = None
        if self._waiter is None or self._future.done():
            return
        due = self._waits_since + self._timeout
        if self._agent.clock.time() < due:
            self._arm(due)
            return
        future = self._future
        future.owner.withdraw(future)
        if not future.done():
            future.fail(
                RpcTimeoutError(
                    f"RPC ran for more than set timeout ({self._timeout:g} s) and will now be "
                    f"marked with an error: item {self._next} of the stream {future.function} on "
                    f"{future.owner}, in phase execute",
                    phase="execute",
                )
            )


class HeldItem:
    """An item whose references are not confirmed yet; those behind it wait, too.

    Args:
        streams: told when it is read, or cannot be.
        connection: on which it came.
        future: its stream.
        number: its number.
        item: the item.
    """

    __slots__ = ("_connection", "_future", "_item", "_number", "_streams")

    def __init__(
        self,
        streams: Looker,
        connection: Connection,
        future: StreamFuture,
        number: int,
        item: object,
    ) -> None:
        self._streams = streams
        self._connection = connection
        self._future = future
        self._number = number
        self._item = item

    def run(self) -> None:
        """See `Waiting.run`."""
        if not self._future.done():
            self._future.inlet.put(self._number, self._item)
            self._streams.look(self._connection, self._future)

    def fail(self, error: RpcError) -> None:
        """See `Waiting.fail`."""
        future = self._future
        if not future.done():
            error.delivery = Delivery.EXECUTED
            future.owner.withdraw(future)
            future.fail(error)
