"""`Processes`: what runs the workers of this node, round after round.

Starts them with what their ranks demand, waits for them, stops them, and remembers how those of the
last round ended. Called by the agent, which decides when.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
from collections.abc import Mapping

from launcher.agent.group import RunResult, WorkerGroup
from launcher.agent.ranks import NodeRanks
from launcher.agent.variables import RunFacts, worker_variables
from launcher.agent.watchdog import Watchdog
from launcher.errors import ChildFailedError, ProcessFailure, one_line
from launcher.logs import LogsSpecs, line_prefix
from launcher.process import Guardian, ProcessContext, RunProcsResult, start_processes

__all__ = ("Processes",)

_GLOO = "GLOO_SOCKET_IFNAME"  # torch's
_HOPELESS = (  # to try again: somebody has to change something first
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ENOEXEC,
    errno.E2BIG,
)

_logger = logging.getLogger("launcher.agent")


class Processes:
    """The processes of one group of workers.

    Args:
        group: the workers; a start gives them their process ids.
        logs_specs: where their output goes.
        log_line_prefix_template: prefix of teed lines, see `launcher.logs.line_prefix`.
        shutdown_timeout: seconds between the signal that stops workers and SIGKILL, from 0.
        stdin: local rank of the worker that gets our standard input; ``None``: nobody.
        start_method: how workers that run a function are started.
    """

    def __init__(
        self,
        group: WorkerGroup,
        logs_specs: LogsSpecs,
        *,
        log_line_prefix_template: str | None,
        shutdown_timeout: float,
        stdin: int | None,
        start_method: str,
    ) -> None:
        self._group = group
        self._logs_specs = logs_specs
        self._template = log_line_prefix_template
        self.grace = shutdown_timeout
        """Seconds between the signal that stops workers and SIGKILL."""
        self._stdin = stdin
        self._start_method = start_method
        self.context: ProcessContext | None = None
        """Of the current round, once started."""
        self.start_error: OSError | None = None
        """Why the last start failed; ``None``: it did not."""
        self._ended: RunProcsResult | None = None  # of the last round that was started

    async def start(
        self, facts: RunFacts, ranks: NodeRanks, watchdog: Watchdog, guardian: Guardian
    ) -> bool:
        """Start the workers of a round.

        Args:
            facts: of the run.
            ranks: of the workers in the round.
            watchdog: looks after blocks of their code.
            guardian: the process that starts them.

        Returns:
            Whether they run; if not, `start_error` says why, and another try may succeed.

        Raises:
            OSError: they could not be started, and another try would fail alike.
            GuardianError: the guardian died.
        """
        workers, spec = self._group.workers, self._group.spec
        watchdog.begin(workers)
        self.start_error = None
        try:
            self.context = await start_processes(
                spec.role,
                spec.entrypoint,
                {worker.local_rank: spec.args for worker in workers},
                await self._variables(facts, ranks, watchdog),
                self._logs_specs,
                self._prefixes(),
                self._start_method,
                spec.numa_options,
                spec.duplicate_stdout_filters,
                spec.duplicate_stderr_filters,
                guardian=guardian,
                shutdown_timeout=self.grace,
                stdin=self._stdin,
                signals_to_handle=(),  # they come to the agent
            )
        except OSError as error:
            if error.errno in _HOPELESS:
                raise
            self.start_error = error
            return False
        for local_rank, pid in self.context.pids().items():
            workers[local_rank].id = pid
        self._announce_files(self.context)
        return True

    async def _variables(
        self, facts: RunFacts, ranks: NodeRanks, watchdog: Watchdog
    ) -> dict[int, dict[str, str]]:
        info = self._group.info
        assert info is not None
        shared = watchdog.variables
        if info.world_size > 1 and _GLOO not in os.environ:
            from launcher.agent.interface import gloo_interface  # noqa: PLC0415 -- one node is quick

            if interface := await gloo_interface(info.bootstrap_store_info.master_addr):
                shared = {**shared, _GLOO: interface}
        return {
            worker.local_rank: {
                **worker_variables(
                    facts,
                    info,
                    ranks,
                    local_rank=worker.local_rank,
                    restarts=info.restarts,
                    environ=os.environ,
                ),
                **shared,
            }
            for worker in self._group.workers
        }

    def _prefixes(self) -> dict[int, str]:
        return {
            worker.local_rank: line_prefix(
                self._template,
                role_name=self._group.spec.role,
                rank=worker.global_rank,
                local_rank=worker.local_rank,
            )
            for worker in self._group.workers
        }

    def _announce_files(self, context: ProcessContext) -> None:
        """Say where output goes that is not shown, if nobody has chosen the place."""
        is_first_round = self._ended is None
        paths = {*context.stdouts.values(), *context.stderrs.values()} - {"", os.devnull}
        if is_first_round and paths and self._logs_specs.temporary_dir is not None:
            _logger.warning(
                "output of workers is written to files in %s; --log-dir names another folder",
                self._logs_specs.root_log_dir,
            )

    async def wait(self, watchdog: Watchdog) -> RunProcsResult:
        """Wait until the workers have ended and their output has been passed on.

        Args:
            watchdog: knows which of them it has ended.

        Returns:
            How they ended, by local rank.

        Raises:
            GuardianError: the guardian died.
        """
        assert self.context is not None
        self._ended = ended = await self.context.wait()
        assert ended is not None
        watchdog.end(ended)
        return ended

    async def clear(self) -> None:
        """End what workers that have ended left behind."""
        assert self.context is not None
        await self.context.close()

    def send_signal(self, number: signal.Signals) -> None:
        """Pass a signal on to the workers, if there are any.

        Args:
            number: the signal.
        """
        if self.context is not None:
            self.context.send_signal(number)

    def fence_at(self, deadline: float) -> None:
        """Have the workers killed at a time, if this process is stopped then.

        Args:
            deadline: seconds of ``time.monotonic``; infinite: never.
        """
        if self.context is not None:
            self.context.fence_at(deadline)

    async def stop(self, number: signal.Signals, within: float = math.inf) -> None:
        """End the workers, if there are any; a second call while one is under way kills them.

        Args:
            number: the signal that comes before SIGKILL, unless there is no grace.
            within: seconds until SIGKILL at most, if that is less than the grace.
        """
        if self.context is not None:
            grace = min(self.grace, within)
            # Without a grace nobody shall see another signal first.
            await self.context.close(number if grace > 0 else signal.SIGKILL, grace)

    def failure(self) -> tuple[str, int]:
        """Say in a few words why the round failed here, and with which exit status; "": it did not.

        Returns:
            Reason and exit status, -N for signal N; ("", 0) if the workers succeeded.
        """
        if self.start_error is not None:
            return f"workers could not be started: {one_line(self.start_error)}", 1
        if self._ended is None or not self._ended.is_failed():
            return "", 0
        rank, failure = self._first_failure(self._ended)
        return f"rank {rank} (pid {failure.pid}) {failure.ending()}", failure.status

    def is_consequence(self) -> bool:
        """Return whether the round failed here because of a worker that is not ours."""
        if self.start_error is not None or self._ended is None or not self._ended.is_failed():
            return False
        return self._first_failure(self._ended)[1].is_consequence()

    def _first_failure(self, ended: RunProcsResult) -> tuple[int, ProcessFailure]:
        ranks = self._global_ranks()
        failures = {ranks[local]: failure for local, failure in ended.failures.items()}
        return ChildFailedError(
            self._group.spec.get_entrypoint_name(), failures
        ).get_first_failure()

    def complete(self, result: RunResult) -> RunResult:
        """Add to the result of a run what the workers of its last round came to.

        Args:
            result: how the run ended.

        Returns:
            The result, with values, failures, exit statuses and log files by global rank.
        """
        ended = self._ended
        if ended is None:  # nothing was ever started
            return result
        ranks = self._global_ranks()
        failures = {ranks[local]: failure for local, failure in ended.failures.items()}
        return result._replace(
            return_values={ranks[local]: value for local, value in ended.return_values.items()},
            failures=failures if result.elsewhere is None else {},
            exit_codes={ranks[local]: code for local, code in ended.exit_codes.items()},
            log_paths=self._log_paths(ranks),
            log_dir=self.log_dir,
        )

    @property
    def log_dir(self) -> str | None:
        """Folder of the run's logs; ``None``: there is none."""
        path = self._logs_specs.root_log_dir
        # A temporary folder that nothing was written to is gone by now.
        return path if path is not None and os.path.isdir(path) else None

    def _global_ranks(self) -> dict[int, int]:
        return {worker.local_rank: worker.global_rank for worker in self._group.workers}

    def _log_paths(self, ranks: Mapping[int, int]) -> dict[int, dict[str, str]]:
        context = self.context
        assert context is not None
        files = {
            "stdout": context.stdouts,
            "stderr": context.stderrs,
            "error": context.error_files,
        }
        return {
            rank: {kind: paths[local] for kind, paths in files.items() if paths.get(local)}
            for local, rank in ranks.items()
        }
