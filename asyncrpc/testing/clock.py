"""`VirtualClock`: time that moves only when a test says so.

It is a `asyncrpc.observe.Clock` and works on every loop, since it replaces the library's clock and
not the loop's: ``asyncio.sleep``, ``asyncio.timeout`` and real sockets stay in real time.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import time
from collections.abc import Callable, Iterator

from asyncrpc.observe import Timer
from asyncrpc.testing.arguments import is_finite
from asyncrpc.testing.lockstep import Lockstep
from asyncrpc.testing.rest import is_idle, turns_to_rest

__all__ = ("VirtualClock",)

_MAX_TURNS = 100_000  # a loop that is still busy then polls, or two tasks wake each other for ever
_PATIENCE = 2.0  # seconds of real time for work in threads: more, and it waits for time to move
_ROUNDING = 1e-9  # seconds: ten steps of 0.1 reach a timer at 1.0, though their sum is less
_POLL = 0.001  # seconds of real time between two looks at it; uvloop rounds less to none


class VirtualClock:
    """A clock that stands still until `advance` moves it.

    Args:
        start: what `now` gives at first, in seconds.

    Used on one loop's thread only.

    Raises:
        ValueError: ``start`` is no finite number.

    Example:
        ```python
        async def main():
            clock = VirtualClock()
            async with cluster(2, clock=clock) as workers:
                call = workers[0].rpc_async("worker1", asyncio.sleep, args=(9999,), timeout=3600)
                await clock.advance(3600)  # an hour passes in no time
                assert isinstance(call.exception(), TimeoutError)
        ```
    """

    def __init__(self, start: float = 0.0) -> None:
        if not is_finite(start):
            raise ValueError(f"start must be a finite number of seconds, got {start!r}")
        self._now = float(start)
        self._timers: list[tuple[float, int, _VirtualTimer]] = []  # heap, by time then by age
        self._ages = itertools.count()
        self._is_advancing = False
        self._holds: list[_Hold] = []
        self.lockstep = Lockstep()
        """Orders what plain functions return in the groups of this clock; see `cluster`."""

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def time(self) -> float:
        """Return the virtual time in seconds; the name a `Clock` has for it."""
        return self._now

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due, in seconds of virtual time; ``None`` if there is none."""
        while self._timers and self._timers[0][2].is_cancelled:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call back from the loop once time has been advanced to ``when``.

        Args:
            when: virtual time in seconds; one that has passed is due at the next `advance`.
            callback: called with ``args``, in the context of this call; what it raises goes to
                the loop's exception handler.
            args: its arguments.
        """
        timer = _VirtualTimer(callback, args)
        heapq.heappush(self._timers, (when, next(self._ages), timer))
        return timer

    async def sleep(self, seconds: float) -> None:
        """Return once time has been advanced by that much; after one turn for 0 or less.

        Args:
            seconds: of virtual time.
        """
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        timer = self.call_at(self._now + seconds, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()

    async def advance(self, seconds: float) -> None:
        """Move time on, timer by timer, letting the loop come to rest after each.

        Timers run in the order of their times, equal ones in the order they were made; those made
        meanwhile run too if they fall due. Work in other threads or processes is not awaited, but
        for what `hold_while` names.

        Args:
            seconds: 0 or more; 0 runs what is due and lets the loop come to rest.

        Raises:
            ValueError: ``seconds`` is negative, nan or infinite.
            RuntimeError: another task is advancing this clock, or the loop never comes to rest.
        """
        if not is_finite(seconds) or seconds < 0:
            raise ValueError(f"seconds must be a finite number >= 0, got {seconds!r}")
        if self._is_advancing:
            raise RuntimeError("another task is advancing this clock")
        self._is_advancing = True
        try:
            await self._advance_to(self._now + seconds)
        finally:
            self._is_advancing = False

    @contextlib.contextmanager
    def hold_while(self, is_busy: Callable[[], bool]) -> Iterator[None]:
        """Let `advance` wait for work that the loop does not show, as that of threads.

        It waits for 2 s of real time at most: work that takes longer may wait for time to move, and
        is not waited for again until it has ended.

        Args:
            is_busy: asked on the loop whether such work is being done.
        """
        hold = _Hold(is_busy)
        self._holds.append(hold)
        try:
            yield
        finally:
            self._holds.remove(hold)

    async def _advance_to(self, target: float) -> None:
        loop = asyncio.get_running_loop()
        await self._come_to_rest(loop)
        while self.next_timer is not None and self.next_timer <= target + _ROUNDING:
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
            timer.fire(loop)
            await self._come_to_rest(loop)
        self._now = max(self._now, target)

    async def _come_to_rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the loop turn until nothing in it is ready to run, and no work elsewhere holds."""
        idle_turns = 0
        enough = turns_to_rest(loop)
        for _ in range(_MAX_TURNS):
            await asyncio.sleep(0)
            if any(hold.is_on() for hold in self._holds):
                idle_turns = 0  # what it ends with has to be seen to as well
                await asyncio.sleep(_POLL)
                continue
            idle_turns = idle_turns + 1 if is_idle(loop) else 0
            if idle_turns >= enough:
                return
        raise RuntimeError(f"the loop did not come to rest in {_MAX_TURNS} turns")


class _Hold:
    """Work that virtual time waits for, within reason."""

    __slots__ = ("_deadline", "_is_busy")

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._deadline: float | None = None  # real time; set while it is busy

    def is_on(self) -> bool:
        if not self._is_busy():
            self._deadline = None
            return False
        if self._deadline is None:
            self._deadline = time.monotonic() + _PATIENCE
        return time.monotonic() < self._deadline


class _VirtualTimer:
    """A callback in the heap, later in the loop's queue; cancellable in both."""

    __slots__ = ("_args", "_callback", "_context", "_handle")

    def __init__(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self._callback: Callable[..., object] | None = callback  # None once cancelled
        self._args = args
        self._context = contextvars.copy_context()
        self._handle: asyncio.Handle | None = None

    @property
    def is_cancelled(self) -> bool:
        return self._callback is None

    def fire(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._callback is not None
        self._handle = loop.call_soon(self._callback, *self._args, context=self._context)

    def cancel(self) -> None:
        self._callback, self._args = None, ()  # it may lie in the heap for long
        if self._handle is not None:
            self._handle.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
