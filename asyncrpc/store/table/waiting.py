"""Requests that wait in a store's table: found by key, by session and by deadline.

Pure: no clock, no I/O; used by the parts of the table.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncrpc.errors import StoreTimeoutError
    from asyncrpc.store.commands import Barrier, Get, MultiGet, QueuePop, Wait

__all__ = ("Deadlines", "Horizon", "KeyIndex", "Waiter")

_COMPACT_AT = 64  # below this many dead heap entries rebuilding costs more than it frees


class Waiter:
    """One request that waits, its session and how many of its keys are still missing."""

    __slots__ = (
        "command",
        "deadline",
        "index",
        "is_waiting",
        "keys",
        "missing",
        "request",
        "session",
    )

    def __init__(
        self,
        session: Hashable,
        request: int,
        command: Get | Wait | MultiGet | QueuePop | Barrier,
        deadline: float,
        index: KeyIndex,
        keys: tuple[str, ...],
    ) -> None:
        self.session = session
        self.request = request
        self.command = command
        self.deadline = deadline
        self.index = index
        self.is_waiting = True  # until it was answered or withdrawn
        self.keys = keys  # under which it stands in the index
        self.missing = len(keys)  # invariant: counts the keys that have not appeared since


class KeyIndex:
    """Waiters by key, in order of arrival.

    Args:
        late: makes the error for one whose deadline has come, while it still stands here.
    """

    __slots__ = ("_by_key", "late")

    def __init__(self, late: Callable[[Waiter], StoreTimeoutError]) -> None:
        self.late = late
        self._by_key: dict[str, dict[Waiter, None]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def add(self, waiter: Waiter) -> None:
        """Enter a waiter under each of its keys."""
        for key in waiter.keys:
            self._by_key.setdefault(key, {})[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Take a waiter out from under every key it still stands under."""
        for key in waiter.keys:
            waiters = self._by_key.get(key)
            if waiters is not None:
                waiters.pop(waiter, None)
                if not waiters:
                    del self._by_key[key]

    def take(self, key: str) -> list[Waiter]:
        """Take out all waiters of one key, in order of arrival."""
        return list(self._by_key.pop(key, ()))

    def first(self, key: str) -> Waiter | None:
        """Return the waiter of a key that came first."""
        return next(iter(self._by_key.get(key, ())), None)

    def count(self, key: str) -> int:
        """Return how many wait for a key."""
        return len(self._by_key.get(key, ()))


class Horizon:
    """Whether something may come due earlier than what was known to come first."""

    __slots__ = ("is_nearer",)

    def __init__(self) -> None:
        self.is_nearer = False  # set by whoever enters a deadline, cleared by whoever looks


class Deadlines:
    """Waiters by deadline: a heap in which the answered ones are dropped when they surface.

    Args:
        horizon: told of new deadlines.
    """

    __slots__ = ("_dead", "_heap", "_horizon", "_order")

    def __init__(self, horizon: Horizon) -> None:
        self._horizon = horizon
        self._heap: list[tuple[float, int, Waiter]] = []
        self._order = itertools.count()
        self._dead = 0  # invariant: at least the number of answered waiters in the heap

    def add(self, waiter: Waiter) -> None:
        """Enter a waiter, unless it may wait for ever."""
        if waiter.deadline != math.inf:
            heapq.heappush(self._heap, (waiter.deadline, next(self._order), waiter))
            self._horizon.is_nearer = True

    def forget(self, waiter: Waiter) -> None:
        """Note that a waiter was answered; rebuild the heap when most of it is such."""
        if waiter.deadline == math.inf:
            return
        self._dead += 1
        if self._dead > _COMPACT_AT and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].is_waiting]
            heapq.heapify(self._heap)
            self._dead = 0

    def next(self) -> float:
        """Return the earliest deadline, infinity if there is none."""
        while self._heap and not self._heap[0][2].is_waiting:
            heapq.heappop(self._heap)
            self._dead -= 1
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[Waiter]:
        """Yield the waiters whose deadline has come; the caller answers each."""
        while self.next() <= now:
            yield self._heap[0][2]
