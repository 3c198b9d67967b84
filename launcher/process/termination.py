"""Stopping workers: a signal to each process group, one deadline for all, then SIGKILL.

Called by the process contexts. Exits are reported by the guardian; nothing is polled, and every
wait is bounded, since a process in uninterruptible sleep survives even SIGKILL.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import Mapping

from launcher.process.guardian import GuardedProcess, Guardian, process_state

__all__ = ("KILL_TIMEOUT", "Termination")

KILL_TIMEOUT = 5.0  # for the kernel to end a process after SIGKILL, on a host that is swapping

_log = logging.getLogger("launcher.process")


class Termination:
    """Ends the workers of one context.

    Args:
        guardian: their parent.
        processes: the workers by local rank.
    """

    def __init__(self, guardian: Guardian, processes: Mapping[int, GuardedProcess]) -> None:
        self.signum = signal.SIGTERM
        """The signal asked for last."""
        self.signalled: set[int] = set()
        """Local ranks that had not ended, as far as we knew, when they were signalled."""
        self.stuck: dict[int, str] = {}
        """Local ranks that outlived SIGKILL, with the state the kernel gave."""
        self._guardian = guardian
        self._processes = processes
        self._loop = asyncio.get_running_loop()
        self._deadline = math.inf
        self._changed = asyncio.Event()
        for process in processes.values():
            process.exited.add_done_callback(lambda _: self._changed.set())

    @property
    def time_left(self) -> float:
        """Seconds until SIGKILL; infinite before the first `request`."""
        return max(0.0, self._deadline - self._loop.time())

    def request(self, signum: signal.Signals, timeout: float) -> None:
        """Signal all workers that run; the earliest deadline of all requests counts.

        Args:
            signum: the signal; workers that have it already do not get it again.
            timeout: seconds until SIGKILL.
        """
        is_new = not self.signalled or signum != self.signum
        self.signum = signum
        self._deadline = min(self._deadline, self._loop.time() + timeout)
        if is_new:
            self._send(signum)
        self._changed.set()

    def hurry(self) -> None:
        """Let the deadline be now."""
        self._deadline = self._loop.time()
        self._changed.set()

    async def run(self) -> None:
        """Return when all workers have ended, or outlived SIGKILL by `KILL_TIMEOUT`."""
        while self._is_any_running() and self.time_left:
            await self._wait_for_change(self.time_left)
        if not self._is_any_running():
            return
        self._send(signal.SIGKILL)
        killed_at = self._loop.time()
        while self._is_any_running() and (left := killed_at + KILL_TIMEOUT - self._loop.time()) > 0:
            await self._wait_for_change(left)
        self._note_stuck()

    def _send(self, signum: signal.Signals) -> None:
        for local_rank, process in self._processes.items():
            if process.is_running:
                self.signalled.add(local_rank)
                self._guardian.signal(process, signum)
                if signum != signal.SIGKILL:
                    self._guardian.signal(process, signal.SIGCONT)  # a stopped one cannot react

    def _is_any_running(self) -> bool:
        return any(process.is_running for process in self._processes.values())

    async def _wait_for_change(self, timeout: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout if timeout < math.inf else None):
                await self._changed.wait()
        except TimeoutError:
            return

    def _note_stuck(self) -> None:
        for local_rank, process in self._processes.items():
            if process.is_running:
                state = process_state(process.pid)
                self.stuck[local_rank] = state
                _log.error(
                    "worker %d (pid %d) is still there %g s after SIGKILL, in state %s",
                    local_rank,
                    process.pid,
                    KILL_TIMEOUT,
                    state or "unknown",
                )
