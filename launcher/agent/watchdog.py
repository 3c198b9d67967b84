"""`Watchdog`: the agent's watch over blocks of its workers' code, see `launcher.timer.expires`.

Ends the worker of a block that took too long, and remembers which block it was, for the report.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from launcher.agent.group import Worker
from launcher.logs import temporary_folder
from launcher.process import Guardian, RunProcsResult
from launcher.timer import TIMER_FILE_VARIABLE, Expired, TimerServer

__all__ = ("Watchdog",)

_NO_PIPES = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # file systems that know none

_log = logging.getLogger("launcher.agent")


class Watchdog:
    """Watches over the workers of one node for a run; leaving it as a context ends that.

    Args:
        guardian: removes the pipe if this process cannot.
    """

    def __init__(self, guardian: Guardian) -> None:
        self._workers: Sequence[Worker] = ()  # of the round
        self._expired: dict[int, Expired] = {}  # by local rank, in the round
        path = os.path.join(temporary_folder(os.environ), f"launcher_timer_{os.urandom(8).hex()}")
        guardian.remove_at_end(path)
        self._server: TimerServer | None = None
        try:
            self._server = TimerServer(path, self._on_expired, asyncio.get_running_loop())
        except OSError as error:
            if error.errno not in _NO_PIPES:
                raise
            _log.info("%s: no named pipes there, workers cannot use launcher.timer", path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    @property
    def variables(self) -> dict[str, str]:
        """What workers need in their environment to be watched."""
        return {TIMER_FILE_VARIABLE: "" if self._server is None else self._server.path}

    def begin(self, workers: Sequence[Worker]) -> None:
        """Watch over the workers of a new round.

        Args:
            workers: by local rank; their process ids come later.
        """
        self._workers = workers
        self._expired = {}

    def end(self, ended: RunProcsResult) -> None:
        """Forget the blocks of a round, and say of its failures which were our doing.

        Args:
            ended: how the round ended; its failures are changed.
        """
        if self._server is not None:
            self._server.clear()
        for rank, failure in ended.failures.items():
            if (expired := self._expired.get(rank)) is not None:
                failure.overran = str(expired)
                failure.message = f"killed by the launcher: {expired}"

    def _on_expired(self, expired: Expired) -> None:
        worker = self._worker(expired)
        if worker is None:
            _log.warning("%s; killed process %d", expired, expired.pid)
            return
        _log.warning("%s; killed rank %d (pid %d)", expired, worker.global_rank, expired.pid)
        self._expired.setdefault(worker.local_rank, expired)
        if worker.id is not None and worker.id != expired.pid:  # it ran in a child of the worker
            with suppress(ProcessLookupError):
                os.kill(worker.id, signal.SIGKILL)

    def _worker(self, expired: Expired) -> Worker | None:
        """Return the worker that the process is, else the one it says that it belongs to."""
        for worker in self._workers:
            if worker.id == expired.pid:
                return worker
        return next((w for w in self._workers if w.global_rank == expired.rank), None)
