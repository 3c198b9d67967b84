"""Calls that are out: their futures, and the deadlines of everything that has one.

`RpcFuture` is what a caller awaits. `Deadlines` is the one timer structure of an agent: a heap with
a single timer of the loop behind it, so that a call costs a push and no timer of its own. Entries
of finished calls stay until their time or until half of the heap is dead, then it is rebuilt.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from types import CodeType
from typing import Any, Generic, Protocol, TypeVar

from asyncrpc.observe import Clock

__all__ = ("Deadlines", "RpcFuture")

T = TypeVar("T")

_SPARE = 1024  # dead entries below this are not worth a rebuild


class _Owner(Protocol):
    def withdraw(self, future: RpcFuture[Any]) -> None:
        """Forget a call that its caller gave up, and tell the callee."""
        ...


class RpcFuture(asyncio.Future[T], Generic[T]):
    """The outcome of one call; an `asyncio.Future` whose cancelling cancels the callee.

    Attributes:
        call_id: unique among this agent's calls.
        owner: the peer it went to.
        function: name of the function.
        timeout: seconds it was given, 0 for no limit.
        deadline: when it is over on the agent's clock, 0 for never.
        request: what to send again after a broken connection, ``None`` if it must not be.
        site: code object and instruction of the call, for reports.
        is_sent: whether it was handed to a link, so that its function may have run.
        is_user: whether it is a user's call, not one of the agents' own messages.
        counts: whether it holds one of its peer's places in flight.
    """

    __slots__ = (
        "call_id",
        "counts",
        "deadline",
        "function",
        "is_sent",
        "is_user",
        "owner",
        "request",
        "site",
        "timeout",
    )

    call_id: int
    owner: _Owner
    function: str
    timeout: float
    deadline: float
    request: Any
    site: tuple[CodeType, int] | None
    counts: bool
    is_sent: bool
    is_user: bool

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the call: the future at once, the callee's function as soon as it hears."""
        if not super().cancel(msg):
            return False
        self.owner.withdraw(self)
        return True

    def __repr__(self) -> str:
        where = ""
        if self.site is not None:
            code, instruction = self.site
            line = _line(code, instruction)
            where = f" called at {code.co_filename}:{line} in {code.co_name}"
        return f"<RpcFuture {self._state.lower()} {self.function} on {self.owner}{where}>"


def _line(code: CodeType, instruction: int) -> int:
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end and number is not None:
            line = number
    return line


class Deadlines:
    """Fires ``expire(key)`` when the time of a key that is still live has come.

    Args:
        clock: gives the time and the one timer.
        is_live: whether a key still matters; dead ones are skipped.
        expire: called on the loop with a live key whose time has come.
    """

    def __init__(
        self, clock: Clock, is_live: Callable[[int], bool], expire: Callable[[int], None]
    ) -> None:
        self._clock = clock
        self._is_live = is_live
        self._expire = expire
        self._heap: list[tuple[float, int]] = []
        self._armed = math.inf  # when the timer fires
        self._timer: Any = None
        self._limit = _SPARE  # heap length at which to look for dead entries

    def add(self, when: float, key: int) -> None:
        """Watch ``key`` until ``when`` on the clock."""
        heap = self._heap
        heappush(heap, (when, key))
        if when < self._armed:
            self._arm(when)
        elif len(heap) > self._limit:
            self._rebuild()

    def close(self) -> None:
        """Forget everything; nothing fires afterwards."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._armed = math.inf

    def __len__(self) -> int:
        return len(self._heap)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = when
        self._timer = self._clock.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._armed = math.inf
        now = self._clock.time()
        heap = self._heap
        while heap and (heap[0][0] <= now or not self._is_live(heap[0][1])):
            _, key = heappop(heap)
            if self._is_live(key):
                self._expire(key)
        if heap and heap[0][0] < self._armed:
            self._arm(heap[0][0])

    def _rebuild(self) -> None:
        """Drop dead entries; the next look comes when the heap has doubled again."""
        self._heap[:] = [entry for entry in self._heap if self._is_live(entry[1])]
        heapify(self._heap)
        self._limit = 2 * len(self._heap) + _SPARE
