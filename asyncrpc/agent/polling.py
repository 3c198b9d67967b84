"""Busy polling: after traffic the loop goes on looking for more instead of sleeping in the system.

What a sequential call costs is mostly the kernel waking an idle core, on either side. An agent with
`RpcOptions.busy_poll` has one `Poller`, which keeps the loop turning for that long after the last
bytes that came or went; an agent without has none, and nothing of this in its path.

Theory of operation. One callback puts itself in the loop's queue again, once per turn, so that the
loop looks at its descriptors without waiting and runs all other callbacks and timers as ever. Now
and then it offers the core to other processes: both ends may be pinned to one. A thread that wants
the interpreter may get it from a busy one only after `sys.getswitchinterval`, so the poller leaves
it alone while a plain function runs in the agent's pool, and rests while other threads of this
process use much of a processor: it would slow down what the calls are for.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable
from time import monotonic, process_time, thread_time
from typing import TypeVar

from asyncrpc.execution import ThreadPool

__all__ = ("Poller",)

_PATIENCE = 8  # most turns without traffic between offers of the core; one costs as much as a turn
_SWITCH = 5e-6  # seconds from which an offer was taken: maybe by who is to answer
_LOOK = 200e-6  # seconds between looks at what other threads do: two system calls each
_SHARE = 0.05  # of a processor, used by other threads, above which they are at work
_REST = 0.01  # seconds until the next look once they are

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Poller:
    """Keeps one loop awake after traffic.

    Args:
        loop: the loop that is running here.
        span: seconds after the last traffic, above 0.
        threads: the agent's pool.
    """

    __slots__ = (
        "_call_soon",
        "_idle",
        "_is_polling",
        "_is_touched",
        "_look",
        "_offer",
        "_others",
        "_patience",
        "_rested",
        "_span",
        "_threads",
        "_until",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, span: float, threads: ThreadPool) -> None:
        self._call_soon = loop.call_soon
        self._span = span
        self._threads = threads
        self._is_polling = False
        self._is_touched = False  # whether there was traffic since the last turn
        self._idle = 0  # turns since then
        self._patience = _PATIENCE  # turns between offers of the core
        self._offer = 0  # how many turns without traffic until the next one
        self._until = 0.0
        self._look = 0.0  # when to look at the other threads again
        self._others = 0.0  # processor seconds they had used at the last look
        self._rested = 0.0  # no polling before

    def waking(self, function: Callable[[Argument], Result]) -> Callable[[Argument], Result]:
        """Return ``function``, which is called for each piece of traffic, so that it wakes this."""

        def wake(argument: Argument) -> Result:
            self._is_touched = True
            if not self._is_polling:
                self._start()
            return function(argument)

        return wake

    def stop(self) -> None:
        """Let the loop sleep from now on."""
        self._span, self._rested = 0.0, math.inf  # the one for now, the other for good

    def _start(self) -> None:
        now = monotonic()
        if now >= self._rested:
            self._is_polling = True
            self._idle = 0
            self._offer = self._patience
            self._look = now + _LOOK
            self._others = _used_by_others()
            self._call_soon(self._turn)

    def _turn(self) -> None:
        """Stay in the loop's queue for another turn, or leave it."""
        if self._is_touched:
            self._is_touched = False
            self._idle = 0
            self._offer = self._patience
        else:
            now = monotonic()
            if not self._idle:
                self._until = now + self._span
            elif now >= self._until or self._is_unwanted(now):
                self._is_polling = False
                return
            self._idle += 1
            if self._idle >= self._offer:
                self._yield(now)
        self._call_soon(self._turn)

    def _yield(self, now: float) -> None:
        """Offer the core; the sooner again if somebody waited for it."""
        os.sched_yield()
        is_shared = monotonic() - now >= _SWITCH
        self._patience = 1 if is_shared else min(2 * self._patience, _PATIENCE)
        self._offer = self._idle + self._patience

    def _is_unwanted(self, now: float) -> bool:
        """Whether other threads are at work; if they are not the agent's, rest for a while."""
        if self._threads.idle < self._threads.size:
            return True
        if now < self._look:
            return False
        used = _used_by_others()
        since = now - self._look + _LOOK
        is_shared = used - self._others > _SHARE * since
        self._look, self._others = now + _LOOK, used
        if is_shared:
            self._rested = now + _REST
        return is_shared


def _used_by_others() -> float:
    """Return the processor seconds that the other threads of this process have used."""
    return process_time() - thread_time()
