"""`VirtualClock`: time that moves only when a test says so.

It is a `asyncrpc.observe.Clock` and works on every loop, since it replaces the library's clock and
not the loop's: ``asyncio.sleep``, ``asyncio.timeout`` and real sockets stay in real time.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import math
from collections.abc import Callable
from typing import Any

from asyncrpc.observe import Timer

__all__ = ("VirtualClock",)

# How many turns in a row the loop must look idle. Where its ready queue can be seen, one turn more
# lets it poll its sockets; where it cannot (uvloop), chains of callbacks without a task show
# only by what they end in, so they get room to run.
_IDLE_TURNS_SEEN = 2
_IDLE_TURNS_UNSEEN = 16
_UNKNOWN: Any = object()  # a task of another kind does not show what it waits for
_MAX_TURNS = 100_000  # a loop that is still busy then polls, or two tasks wake each other for ever


class VirtualClock:
    """A clock that stands still until `advance` moves it.

    Args:
        start: what `now` gives at first, in seconds.

    Used on one loop's thread only.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = float(start)
        self._timers: list[tuple[float, int, _VirtualTimer]] = []  # heap, by time then by age
        self._ages = itertools.count()
        self._is_advancing = False

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def time(self) -> float:
        """Return the virtual time in seconds; the name a `Clock` has for it."""
        return self._now

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
        """Return once time has been advanced by that much; after one turn for 0 or less."""
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
        meanwhile run too if they fall due. Work in other threads or processes is not awaited.

        Args:
            seconds: 0 or more; 0 runs what is due and lets the loop come to rest.

        Raises:
            ValueError: ``seconds`` is negative, nan or infinite.
            RuntimeError: another task is advancing this clock, or the loop never comes to rest.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be a finite number >= 0, got {seconds!r}")
        if self._is_advancing:
            raise RuntimeError("another task is advancing this clock")
        self._is_advancing = True
        try:
            await self._advance_to(self._now + seconds)
        finally:
            self._is_advancing = False

    async def _advance_to(self, target: float) -> None:
        loop = asyncio.get_running_loop()
        await _settle(loop)
        while self._timers and self._timers[0][0] <= target:
            when, _, timer = heapq.heappop(self._timers)
            if timer.is_cancelled:
                continue
            self._now = max(self._now, when)
            timer.fire(loop)
            await _settle(loop)
        self._now = target


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


async def _settle(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop turn until nothing in it is ready to run."""
    idle_turns = 0
    enough = _IDLE_TURNS_SEEN if hasattr(loop, "_ready") else _IDLE_TURNS_UNSEEN
    for _ in range(_MAX_TURNS):
        await asyncio.sleep(0)
        idle_turns = idle_turns + 1 if _is_idle(loop) else 0
        if idle_turns >= enough:
            return
    raise RuntimeError(f"the loop did not come to rest in {_MAX_TURNS} turns")


def _is_idle(loop: asyncio.AbstractEventLoop) -> bool:
    ready = getattr(loop, "_ready", None)
    if ready is not None:
        return not ready
    current = asyncio.current_task(loop)
    return not any(_is_runnable(task) for task in asyncio.all_tasks(loop) if task is not current)


def _is_runnable(task: asyncio.Task[object]) -> bool:
    """Whether a task waits only for its turn."""
    awaited = getattr(task, "_fut_waiter", _UNKNOWN)
    return awaited is None or (awaited is not _UNKNOWN and awaited.done())
