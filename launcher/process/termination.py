"""Stopping workers: a signal to each process group, one deadline for all, then SIGKILL.

Called by the process contexts. Exits are reported by the guardian; nothing is polled, and every
wait is bounded, since a process in uninterruptible sleep survives even SIGKILL. A wait that people
would notice is told to them, and who had to be killed in the end.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from collections.abc import Mapping, Sequence

from launcher.process.guardian import GuardedProcess, Guardian, process_state

__all__ = ("KILL_TIMEOUT", "SILENCE", "Termination")

KILL_TIMEOUT = 5.0  # for the kernel to end a process after SIGKILL, on a host that is swapping
SILENCE = 1.0  # after which somebody at a terminal begins to wonder
_MAX_NAMED = 8  # workers named in one line of a log
_WORTH_TELLING = 0.5  # seconds until SIGKILL, below which it is here before a line about it is read

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
        self.asked_at = math.inf
        """When the first signal was asked for, seconds of the loop's clock; infinite before."""
        self._asked_for = signal.SIGTERM  # that signal
        self._has_grace = False  # whether anything else than SIGKILL at once was asked for
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
        now = self._loop.time()
        self.signum = signum
        if self.asked_at == math.inf:
            self.asked_at, self._asked_for = now, signum
        self._has_grace |= signum != signal.SIGKILL and timeout > 0
        self._deadline = min(self._deadline, now + timeout)
        if is_new:
            self._send(signum)
        self._changed.set()

    def hurry(self) -> None:
        """Let the deadline be now."""
        self._deadline = self._loop.time()
        self._changed.set()

    async def run(self) -> None:
        """Return when all workers have ended, or outlived SIGKILL by `KILL_TIMEOUT`."""
        notice = self._loop.call_later(SILENCE, self._tell_who_is_waited_for)
        try:
            while self._running() and self.time_left:
                await self._wait_for_change(self.time_left)
        finally:
            notice.cancel()
        if killed := self._running():
            await self._kill(killed)

    async def _kill(self, running: Sequence[int]) -> None:
        self._send(signal.SIGKILL)
        killed_at = self._loop.time()
        while self._running() and (left := killed_at + KILL_TIMEOUT - self._loop.time()) > 0:
            await self._wait_for_change(left)
        self._note_stuck()
        killed = [local_rank for local_rank in running if local_rank not in self.stuck]
        if killed and self._has_grace:
            waited, name = killed_at - self.asked_at, self._asked_for.name
            _log.warning(
                "killed with SIGKILL %.1f s after %s: %s", waited, name, self._names(killed)
            )

    def _send(self, signum: signal.Signals) -> None:
        for local_rank, process in self._processes.items():
            if process.is_running:
                self.signalled.add(local_rank)
                self._guardian.signal(process, signum)
                if signum != signal.SIGKILL:
                    self._guardian.signal(process, signal.SIGCONT)  # a stopped one cannot react

    def _running(self) -> list[int]:
        return [rank for rank, process in self._processes.items() if process.is_running]

    def _tell_who_is_waited_for(self) -> None:
        if self.time_left < _WORTH_TELLING:
            return
        _log.warning(
            "waiting for %s to end on %s; SIGKILL in %g s, or at once when told a second time "
            "(another signal, Ctrl-C)",
            self._names(self._running()),
            self.signum.name,
            round(self.time_left, 1),
        )

    def _names(self, local_ranks: Sequence[int]) -> str:
        named = [f"worker {i} (pid {self._processes[i].pid})" for i in local_ranks[:_MAX_NAMED]]
        more = len(local_ranks) - len(named)
        return ", ".join(named) + (f" and {more} more" if more else "")

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
