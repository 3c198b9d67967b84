"""`MemoryStore`: a store within one process and loop, over the same table as the server's.

For tests, notebooks, and groups whose workers share a loop.
"""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from types import TracebackType
from typing import Any, Self

from asyncrpc.errors import Delivery, StoreConnectionError, StoreError
from asyncrpc.observe import Clock
from asyncrpc.store.commands import (
    Cancel,
    Command,
    QueuePop,
    QueueReturn,
    StoreEvent,
)
from asyncrpc.store.commands import Watch as WatchCommand
from asyncrpc.store.expiry import Expiry
from asyncrpc.store.operations import Operations
from asyncrpc.store.table import BEHIND, DEFAULT_MAX_VALUE, PENDING, Table
from asyncrpc.store.watch import Feed, Watch

__all__ = ("MemoryStore",)


class MemoryStore(Operations):
    """A store in this process; hand the same object to all that share it.

    An async context manager; `close` ends what waits. Belongs to the loop it is first used in.

    Args:
        timeout: seconds for operations that are given none; ``None`` for no limit.
        max_value: largest value, in bytes.
        clock: tells the time; ``None`` for the real one.
    """

    def __init__(
        self,
        timeout: float | None = 300.0,
        *,
        max_value: int = DEFAULT_MAX_VALUE,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(timeout, max_value, clock)
        self._table = Table(max_value=max_value)
        self._expiry = Expiry(self._table, self.clock, self._deliver)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Any], Command]] = {}
        self._feeds: dict[int, Feed] = {}
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Fail what waits and every later operation. Idempotent."""
        self._is_closed = True
        self._expiry.close()
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(_closed())
        self._waiting.clear()
        for feed in self._feeds.values():
            feed.end(_closed())
        self._feeds.clear()

    def debug_info(self) -> dict[str, int]:
        """Return the sizes of all tables, for leak checks."""
        return self._table.debug_info()

    async def _call(
        self,
        command: Command,
        timeout: float | None = None,  # noqa: ARG002 -- the table keeps the deadlines
        size: int = 0,  # noqa: ARG002 -- nothing is packed here
    ) -> Any:
        number = next(self._numbers)
        result = self._apply(number, command)
        if result is PENDING:
            return await self._wait_for(number, command)
        try:
            await asyncio.sleep(0)  # others get their turn, as with any store
        except asyncio.CancelledError:
            self._give_back(command, result)
            raise
        return result

    async def _wait_for(self, number: int, command: Command) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = (future, command)
        try:
            return await future
        except asyncio.CancelledError:
            if self._waiting.pop(number, None) is not None and not self._is_closed:
                self._apply(next(self._numbers), Cancel(number))
            elif future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(command, future.result())
            raise

    def _apply(self, number: int, command: Command) -> object:
        if self._is_closed:
            raise _closed()
        try:
            return self._table.apply(self, number, command, self.clock.time())
        except StoreError as error:
            error.delivery = Delivery.EXECUTED
            raise
        finally:
            self._deliver()
            self._expiry.update()

    def _deliver(self) -> None:
        while self._table.outbox:
            for _, number, outcome in self._table.take_outbox():
                self._take(number, outcome)

    def _take(self, number: int, outcome: object) -> None:
        """Give an outcome to who waits for it, and an event to its watch."""
        if isinstance(outcome, StoreEvent):
            feed = self._feeds.get(number)
            if feed is not None and not feed.put(outcome):
                self._end_watch(number)
            return
        if outcome is BEHIND:
            self._table.replay(self, number)  # no link has to take it first
            return
        future, command = self._waiting.pop(number)
        if future.done():  # cancelled in this very turn
            self._give_back(command, outcome)
        elif isinstance(outcome, StoreError):
            outcome.delivery = Delivery.EXECUTED
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _give_back(self, command: Command, result: object) -> None:
        """Undo a pop that was cancelled when it had happened already."""
        if isinstance(command, QueuePop) and isinstance(result, bytes) and not self._is_closed:
            self._apply(next(self._numbers), QueueReturn(command.key, result))

    def _watch(self, prefix: str, since: int) -> Watch:
        number = next(self._numbers)
        feed = self._feeds[number] = Feed(prefix)
        try:
            self._apply(number, WatchCommand(prefix, since))
        except StoreError as error:
            del self._feeds[number]
            feed.end(error)
        return Watch(feed, partial(self._end_watch, number))

    def _end_watch(self, number: int) -> None:
        if self._feeds.pop(number, None) is not None and not self._is_closed:
            self._apply(next(self._numbers), Cancel(number))

    def _arrival_token(self) -> bytes:
        return b""  # no connection can break here


def _closed() -> StoreConnectionError:
    return StoreConnectionError("the store was closed", delivery=Delivery.NOT_SENT)
