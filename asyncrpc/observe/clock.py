"""Where time comes from: the `Clock` protocol and the real one, over the running loop.

Shells take a clock and pass ``clock.time()`` into the pure cores as ``now``; tests put
`asyncrpc.testing.VirtualClock` in its place. Nothing here reads the wall clock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ("Clock", "LoopClock", "Timer")

# uvloop rounds a delay to whole milliseconds, down as well as up, and calls back in the same turn
# for 0: a rest below 1 ms would fire early or spin. The stock loop's epoll waits in whole
# milliseconds too, so rounding up costs nothing there.
_TICK = 0.001
# The loops cap or refuse longer delays (and infinity); a longer wait is made of several.
_LONGEST_DELAY = 86400.0


class Timer(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> None:
        """Do not call back; idempotent, and harmless afterwards."""


class Clock(Protocol):
    """A monotonic clock with timers. Used on the loop's thread only."""

    def time(self) -> float:
        """Return seconds since some fixed moment; never decreases."""

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call back from the loop once ``time() >= when``, never before and never from here."""

    async def sleep(self, seconds: float) -> None:
        """Return once that many seconds have passed; at once for 0 or less."""


class LoopClock:
    """The real clock: ``time.monotonic`` with the running loop's timers.

    A timer is never early and up to a millisecond late on an idle loop.
    """

    __slots__ = ()

    # not a method: read once per call, and it does not stand still within a turn of the loop
    time = staticmethod(time.monotonic)

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call back once ``time() >= when``; see `Clock.call_at`.

        Args:
            when: point on this clock, in seconds; infinity never comes.
            callback: called with ``args``, in the context of this call.
            args: its arguments.

        Raises:
            RuntimeError: no loop runs in this thread.
        """
        return _LoopTimer(asyncio.get_running_loop(), when, callback, args)

    async def sleep(self, seconds: float) -> None:
        """Return once that many seconds have passed; see `Clock.sleep`."""
        await sleep_on(self, seconds)


async def sleep_on(clock: Clock, seconds: float) -> None:
    """Sleep by one timer of ``clock``; for 0 or less let the loop turn once."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    woken = asyncio.get_running_loop().create_future()
    timer = clock.call_at(clock.time() + seconds, _wake, woken)
    try:
        await woken
    finally:
        timer.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _LoopTimer:
    """Arms the loop's timer again until the time has really come."""

    __slots__ = ("_args", "_callback", "_handle", "_loop", "_when")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        when: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        self._loop = loop
        self._when = when
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._handle: asyncio.Handle = self._arm()

    def _arm(self) -> asyncio.Handle:
        remaining = self._when - time.monotonic()
        if remaining <= 0:
            return self._loop.call_soon(self._fire)
        delay = min(remaining, _LONGEST_DELAY)
        return self._loop.call_later(math.ceil(delay / _TICK) * _TICK, self._fire)

    def _fire(self) -> None:
        callback, args = self._callback, self._args
        if callback is None:
            return
        if time.monotonic() < self._when:
            self._handle = self._arm()
            return
        self._callback, self._args = None, ()
        callback(*args)

    def cancel(self) -> None:
        """See `Timer.cancel`."""
        self._callback, self._args = None, ()  # a cancelled timer keeps nothing alive
        self._handle.cancel()
