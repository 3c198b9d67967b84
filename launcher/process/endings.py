"""How the workers of a context end: who failed, and whether the one to blame is still missing.

Asked by the contexts, while workers run and when all have ended or been given up.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from launcher.errors import NOT_AVAILABLE, ProcessFailure
from launcher.process.guardian import Exit

if TYPE_CHECKING:
    from launcher.process.guardian import GuardedProcess
    from launcher.process.termination import Termination

__all__ = ("Endings",)


_TRACEBACK = "Traceback (most recent call last):"


class Endings:
    """How the workers of one context end.

    Args:
        processes: the workers by local rank.
        termination: stops them.
        error_files: where each writes its error, by local rank.
        stderr_tail: gives the last lines that a worker wrote to stderr.
    """

    def __init__(
        self,
        processes: Mapping[int, GuardedProcess],
        termination: Termination,
        error_files: Mapping[int, str],
        stderr_tail: Callable[[int], tuple[str, ...]],
    ) -> None:
        self._processes = processes
        self._termination = termination
        self._error_files = error_files
        self._stderr_tail = stderr_tail

    @property
    def is_success(self) -> bool:
        """Whether no worker that has ended failed."""
        return next(self._failed(), None) is None

    @property
    def is_cause_missing(self) -> bool:
        """Whether all that failed did so because of another one that still runs."""
        is_over = not any(process.is_running for process in self._processes.values())
        return not is_over and all(self.failure(rank).is_consequence() for rank in self._failed())

    @property
    def is_cause_leaving(self) -> bool:
        """Whether one of those that still run has told why it fails, and not for another."""
        return self.is_cause_missing and any(
            process.is_running and self._is_leaving(rank)
            for rank, process in self._processes.items()
        )

    def failures(self) -> dict[int, ProcessFailure]:
        """Return the failures by local rank; a worker that still runs cannot be killed."""
        return {
            rank: self.failure(rank)
            for rank, process in self._processes.items()
            if process.is_running or process.exited.result().code
        }

    def failure(self, rank: int) -> ProcessFailure:
        """Return the failure of one worker, which may have ended with 0 all the same."""
        process = self._processes[rank]
        if process.is_running:
            end = Exit(-signal.SIGKILL, was_signalled=True, at=time.monotonic())
        else:
            end = process.exited.result()
        failure = ProcessFailure(
            rank,
            process.pid,
            end.code,
            self._error_files[rank],
            exited_at=end.at,
            stopped_by_us=rank in self._termination.signalled and end.was_signalled,
            stderr_tail=self._stderr_tail(rank),
            asked_at=self._termination.asked_at,
        )
        if process.is_running:
            state = self._termination.stuck.get(rank) or "unknown"
            failure.message = f"PID {process.pid} survives SIGKILL, in state {state}"
        return failure

    def _is_leaving(self, rank: int) -> bool:
        """Return whether a worker has an error file, or a traceback on stderr, of its own."""
        tail = self._stderr_tail(rank)
        pid, path = self._processes[rank].pid, self._error_files[rank]
        failure = ProcessFailure(rank, pid, 1, path, stderr_tail=tail)
        has_told = failure.error_file != NOT_AVAILABLE or any(_TRACEBACK in line for line in tail)
        return has_told and not failure.is_consequence()

    def _failed(self) -> Iterator[int]:
        for rank, process in self._processes.items():
            if not process.is_running and process.exited.result().code:
                yield rank
