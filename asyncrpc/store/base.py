"""What a store is: the `Store` protocol that all of them fulfil and users are written against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from asyncrpc.store.arguments import UNSET, Timeout, Value
from asyncrpc.store.commands import StoreEvent
from asyncrpc.store.lease import Lease

__all__ = ("Store", "StoreWatch")


class StoreWatch(Protocol):
    """An asynchronous iterator of changes that can be closed."""

    def __aiter__(self) -> Self:
        """Iterate over the events."""
        ...

    async def __anext__(self) -> StoreEvent:
        """Wait for the next event."""
        ...

    async def aclose(self) -> None:
        """Withdraw the watch."""
        ...

    async def __aenter__(self) -> Self:
        """Return the watch itself."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Withdraw the watch."""
        ...


@runtime_checkable
class Store(Protocol):
    """Keys with values, counters, queues, barriers, leases and watches, shared by many.

    Every operation is atomic and they are linearizable: they happen in one order, each between
    its call and its return. Those of one client happen in the order of their calls.

    Values are bytes; str is encoded as UTF-8. Times are seconds; a ``timeout`` not given is the
    store's own (300 s unless it was made with another), ``None`` is no limit, 0 asks only once.
    Wrong argument types and values raise TypeError and ValueError at the call. Every operation
    may raise `StoreConnectionError` when the store is lost, with its ``delivery``.
    """

    async def set(self, key: str, value: Value, *, lease: Lease | None = None) -> None:
        """Write a value. The key then hangs on ``lease`` alone, or on none."""
        ...

    async def get(self, key: str, timeout: Timeout = UNSET) -> bytes:
        """Wait until a key exists and return its value.

        A key that is only a queue with something in it has the value ``b""``.

        Raises:
            StoreTimeoutError: it did not appear in time.
        """
        ...

    async def add(self, key: str, n: int, *, lease: Lease | None = None) -> int:
        """Add to a counter, 0 if the key is absent, and return the new value.

        The value is stored as decimal text. Without ``lease`` the key keeps the one it has.

        Raises:
            StoreError: the value is no integer, or would leave the range of 64 bits.
        """
        ...

    async def compare_set(
        self, key: str, expected: Value, desired: Value, *, lease: Lease | None = None
    ) -> bytes:
        """Write ``desired`` if the key has the value ``expected``; an absent key has ``""``.

        Returns:
            ``desired`` if it was written; else the value the key has, or ``expected`` if it is
            absent and ``expected`` is not empty.
        """
        ...

    async def wait(self, keys: Iterable[str], timeout: Timeout = UNSET) -> None:
        """Wait until all keys exist; a queue with something in it exists.

        Raises:
            StoreTimeoutError: some did not appear in time; ``keys`` names them.
        """
        ...

    async def check(self, keys: Iterable[str]) -> bool:
        """Return whether all keys exist now; a queue with something in it exists."""
        ...

    async def delete_key(self, key: str) -> bool:
        """Remove a key and the queue of that name; return whether there was one."""
        ...

    async def num_keys(self) -> int:
        """Return the number of keys of the whole store, queues not counted."""
        ...

    async def append(self, key: str, value: Value) -> None:
        """Add to the end of a value, creating it; the key keeps its lease."""
        ...

    async def multi_get(self, keys: Iterable[str], timeout: Timeout = UNSET) -> list[bytes]:
        """Wait until all keys exist and return their values of that one moment.

        Raises:
            StoreTimeoutError: some did not appear in time; ``keys`` names them.
        """
        ...

    async def multi_set(self, keys: Iterable[str], values: Sequence[Value]) -> None:
        """Write one value to each key, all or nothing.

        Raises:
            ValueError: there are not as many values as keys.
        """
        ...

    async def list_keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with ``prefix``, sorted, queues not counted."""
        ...

    async def queue_push(self, key: str, value: Value) -> None:
        """Put a value at the end of a queue."""
        ...

    async def queue_pop(self, key: str, block: bool = True, timeout: Timeout = UNSET) -> bytes:
        """Take the first value of a queue; those who wait are served in order of arrival.

        Raises:
            QueueEmptyError: it is empty and ``block`` is false.
            StoreTimeoutError: nothing came in time.
        """
        ...

    async def queue_len(self, key: str) -> int:
        """Return the number of values in a queue."""
        ...

    async def barrier(self, key: str, world_size: int, timeout: Timeout = UNSET) -> None:
        """Wait until ``world_size`` have arrived at ``key``.

        Then it starts afresh, so the same key serves any number of rounds. Whoever gives up,
        is cancelled or loses its connection has not arrived.

        Raises:
            StoreTimeoutError: not all arrived in time; the message says how many had.
            StoreError: others wait at this key for another ``world_size``.
        """
        ...

    async def snapshot(self, prefix: str = "") -> tuple[dict[str, bytes], int]:
        """Return keys and values under a prefix and the version of that moment.

        ``watch(prefix, since=version)`` then reports exactly what happened after it.
        """
        ...

    def watch(self, prefix: str = "", since: int | None = None) -> StoreWatch:
        """Report the changes of keys that start with ``prefix``.

        A plain call: the watch stands from here on, in order with the other operations of this
        client, and misses nothing later.

        Args:
            prefix: of the keys; empty for all.
            since: report first what happened after this version; ``None`` for later changes only.

        Raises (from the iteration):
            StoreError: events after ``since`` are no longer kept, or the reader fell behind.
            StoreConnectionError: the store was lost.
        """
        ...

    def lease(self, ttl: float) -> Lease:
        """Return a lease, to be entered with ``async with``; see `Lease`.

        Args:
            ttl: seconds above 0 without renewal after which it lapses.
        """
        ...
