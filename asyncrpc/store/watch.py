"""The receiving end of a watch: a bounded queue of events, and the iterator users hold.

Filled by the stores, which keep only the `Feed`: so a `Watch` that nobody holds any more is
collected, and withdraws itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from asyncrpc.errors import StoreError
from asyncrpc.store.commands import NO_VERSION, StoreEvent

__all__ = ("Feed", "Watch")

MAX_QUEUED = 1 << 16
MAX_QUEUED_BYTES = 64 << 20


class Feed:
    """Events that arrived and were not taken yet.

    Full, it ends with a `StoreError` behind the last event it took: the reader knows then how
    far it came, and may resume after that version.
    """

    __slots__ = ("_events", "_size", "_waiter", "error", "is_ended", "prefix", "version")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.version = NO_VERSION  # everything up to it has arrived here
        self.error: Exception | None = None
        self.is_ended = False
        self._events: deque[StoreEvent] = deque()
        self._size = 0  # bytes of values in it
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: StoreEvent) -> bool:
        """Take in an event; false when the feed has ended and wants no more."""
        if self.is_ended:
            return False
        if len(self._events) >= MAX_QUEUED or self._size > MAX_QUEUED_BYTES:
            self.end(
                StoreError(
                    f"watch of prefix {self.prefix!r} fell behind by {len(self._events)} events, "
                    f"later ones were dropped: resume with since={self._events[-1].version}"
                )
            )
            return False
        self._events.append(event)
        self._size += len(event.value)
        self.version = event.version
        self._wake()
        return True

    def note_version(self, version: int) -> None:
        """Learn that everything up to a version has arrived."""
        self.version = max(self.version, version)

    def end(self, error: Exception | None) -> None:
        """Let the reader take what is here, then stop, or raise ``error``."""
        if not self.is_ended:
            self.is_ended = True
            self.error = error
            self._wake()

    async def take(self) -> StoreEvent:
        """Wait for the next event and take it."""
        while not self._events:
            if self.error is not None:
                raise self.error
            if self.is_ended:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError(f"watch of prefix {self.prefix!r} is read by another task")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event = self._events.popleft()
        self._size -= len(event.value)
        return event

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Watch:
    """Iterates over the changes under a prefix; close it, leave it, or let it go.

    Raises, from the iteration:
        StoreError: it fell behind too far, or was asked to resume after a version too old.
        StoreConnectionError: the store was lost, so that changes may have been missed.
    """

    __slots__ = ("__weakref__", "_cancel", "_feed", "_loop")

    def __init__(self, feed: Feed, cancel: Callable[[], None]) -> None:
        self._feed = feed
        self._cancel = cancel
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoreEvent:
        return await self._feed.take()

    async def aclose(self) -> None:
        """Withdraw the watch; iterating over it then stops. Idempotent."""
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def __del__(self) -> None:
        if not self._feed.is_ended:
            # Collection may happen in any thread, and after the loop is gone.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_withdraw, self._feed, self._cancel)

    def _close(self) -> None:
        _withdraw(self._feed, self._cancel)


def _withdraw(feed: Feed, cancel: Callable[[], None]) -> None:
    if not feed.is_ended:
        feed.end(None)
        cancel()
