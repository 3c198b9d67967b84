"""A group of workers on this node: started together, waited for together, ended together.

`ProcessContext` is the part that does not depend on what a worker runs. Called by the agent. It
waits for no process itself: the guardian reports exits.

Theory of operation
-------------------
One task per context, the supervisor, waits for the first failure, for the last exit or for
`close`, then does the rest in order: stop who still runs, clear what they left behind, pass on
the rest of the output, make the result. `wait` and `close` only wait for it, so cancelling them
changes nothing. After a failure that only the end of another worker explains, that one gets a
moment to end by itself, so that it is the one blamed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Self

from launcher.affinity import NumaOptions, cpus_of_workers
from launcher.errors import ProcessFailure, SignalException
from launcher.logs import LogsSpecs, WorkerOutput
from launcher.process.endings import Endings
from launcher.process.guardian import Exit, GuardedProcess, Guardian
from launcher.process.leftovers import clear_leftovers, hurry_leftovers
from launcher.process.result import RunProcsResult
from launcher.process.spawning import spawn_workers
from launcher.process.termination import KILL_TIMEOUT, Termination
from launcher.process.validation import check_texts, validate_full_rank
from launcher.signals import handle_signals

__all__ = ("ProcessContext",)

SHUTDOWN_TIMEOUT = 30.0  # torchrun's
# What a worker leaves behind, a resource tracker or a daemon, gets this long to end by itself.
_STRAY_GRACE = 1.0
# A worker that others have lost, and failed over, gets this long to end by itself.
_CAUSE_GRACE = 1.0
_LEAVING_GRACE = 5.0  # more, if it has told why it fails: its threads may take their time

_log = logging.getLogger("launcher.process")


class ProcessContext(ABC):
    """Workers on this node. Leaving it as a context manager closes it.

    Args:
        name: their role.
        entrypoint: what they run.
        args: arguments of each, by local rank.
        envs: variables laid over our own environment, by local rank.
        logs_specs: where their output goes.
        log_line_prefixes: text before each line of teed output, by local rank; ``None`` for
            "[<name><local rank>]:".
        start_method: how those that run a function are started.
        numa_options: which processors each may use; ``None`` for all.
        duplicate_stdout_filters: texts; lines of stdout with any of them are copied to one file
            for all workers besides, see `LogsDest.filtered_stdout`; ``None`` for none.
        duplicate_stderr_filters: the same for stderr.
        guardian: their parent, shared with other contexts; ``None`` for one of our own.
        shutdown_timeout: seconds between the signal and SIGKILL when a failure stops the rest.
        stdin: local rank of the worker that gets our standard input; ``None`` for none.
        signals_to_handle: signals that make `wait` raise `SignalException`, if this is the main
            thread; handled as before once the workers are gone.

    Raises:
        RuntimeError: a mapping does not have exactly the local ranks 0 to n - 1.
        ValueError: the workers cannot be bound to processors like that.
    """

    def __init__(
        self,
        name: str,
        entrypoint: Callable[..., object] | str,
        args: Mapping[int, tuple[object, ...]],
        envs: Mapping[int, Mapping[str, str]],
        logs_specs: LogsSpecs,
        log_line_prefixes: Mapping[int, str] | None = None,
        start_method: str = "spawn",
        numa_options: NumaOptions | None = None,
        duplicate_stdout_filters: Sequence[str] | None = None,
        duplicate_stderr_filters: Sequence[str] | None = None,
        *,
        guardian: Guardian | None = None,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
        stdin: int | None = None,
        signals_to_handle: Sequence[signal.Signals] = (),
    ) -> None:
        self.name = name
        self.entrypoint = entrypoint
        self.nprocs = len(args)
        validate_full_rank(args, self.nprocs, "args")
        validate_full_rank(envs, self.nprocs, "envs")
        if log_line_prefixes is None:
            log_line_prefixes = {rank: f"[{name}{rank}]:" for rank in range(self.nprocs)}
        validate_full_rank(log_line_prefixes, self.nprocs, "log_line_prefixes")
        self.args = args
        self.envs = envs
        self.stdouts: dict[int, str] = {}
        self.stderrs: dict[int, str] = {}
        self.error_files: dict[int, str] = {}
        self.filtered_stdout = ""
        self.filtered_stderr = ""
        self._start_method = start_method
        self._cpus = cpus_of_workers(numa_options, self.nprocs)
        self._filters = (
            check_texts(duplicate_stdout_filters),
            check_texts(duplicate_stderr_filters),
        )
        self._logs_specs = logs_specs
        self._prefixes = log_line_prefixes
        self._shutdown_timeout = shutdown_timeout
        self._stdin = stdin
        self._signals_to_handle = signals_to_handle
        self._given_guardian = guardian
        self._processes: dict[int, GuardedProcess] = {}
        self._is_started = False
        self._is_closing = False
        self._is_clearing = False
        self._settled = asyncio.Event()  # a failure, the last exit or `close`
        self._interrupted = asyncio.Event()
        self._interruption: Exception | None = None
        self.prepare()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_closing:
            await self.close()
        if self._is_started:
            await self._wait_for_supervisor()

    def prepare(self) -> None:  # noqa: B027 -- as below
        """Set up what workers of this kind need besides.

        Raises:
            ValueError: they cannot be started like that.
        """

    @abstractmethod
    def command_line(self, local_rank: int) -> Sequence[str]:
        """Return program and arguments of a worker, as its parent is told them."""

    def start_guardian(self) -> Guardian | None:
        """Start a parent that only such workers can have; ``None``: any guardian will do."""
        return None

    def open(self, local_rank: int) -> Mapping[int, int]:  # noqa: ARG002 -- for those below
        """Open what a worker gets besides its standard streams.

        Returns:
            Our descriptor, for each number it has in the worker; ours until `hand_over`.
        """
        return {}

    def hand_over(self, local_rank: int) -> None:  # noqa: B027 -- nothing to do is a sound default
        """Close what the worker has by now, or will never have."""

    async def value(self, local_rank: int) -> object:  # noqa: ARG002 -- for those below
        """Return what a worker that ended with 0 has returned.

        Raises:
            ValueError: that cannot be told, so the worker has failed; says why.
        """
        return None

    def release(self) -> None:  # noqa: B027 -- as above
        """Close what we kept of what `open` opened. Idempotent."""

    async def start(self) -> None:
        """Start all workers, or none.

        Raises:
            OSError: a program is missing or cannot be executed, or a log file cannot be made.
            ValueError: an argument or variable cannot be given to a process.
            GuardianError: the guardian could not be started, or is gone.
            RuntimeError: they were started or closed before.
        """
        if self._is_started or self._is_closing:
            raise RuntimeError(
                f"workers of {self.name}: expected to be started once, and not closed"
            )
        self._output = self._open_output()
        own = self.start_guardian()
        self._owns_guardian = own is not None or self._given_guardian is None
        self._guardian = own or self._given_guardian or Guardian.start()
        if self._logs_specs.temporary_dir is not None:
            self._guardian.remove_at_end(self._logs_specs.temporary_dir)
        try:
            await spawn_workers(
                self, self._guardian, self._output, self._cpus, self._stdin, self._processes
            )
        except BaseException:
            await self._undo_start()
            raise
        self._termination = Termination(self._guardian, self._processes)
        self._endings = Endings(
            self._processes, self._termination, self.error_files, self._output.stderr_tail
        )
        for process in self._processes.values():
            process.exited.add_done_callback(self._on_exit)
        self._supervisor = asyncio.create_task(self._supervise(), name=f"workers of {self.name}")
        self._is_started = True
        self._handle_signals()

    def _open_output(self) -> WorkerOutput:
        dest = self._logs_specs.reify(self.envs)
        self.stdouts, self.stderrs = dest.stdouts, dest.stderrs
        self.error_files = dest.error_files
        stdout_filters, stderr_filters = self._filters
        self.filtered_stdout = dest.filtered_stdout if stdout_filters else ""
        self.filtered_stderr = dest.filtered_stderr if stderr_filters else ""
        return WorkerOutput(
            dest,
            self._prefixes,
            stdout=-1 if sys.__stdout__ is None else 1,  # closed: 1 may be anybody's by now
            stderr=-1 if sys.__stderr__ is None else 2,
            stdout_filters=stdout_filters,
            stderr_filters=stderr_filters,
        )

    def _handle_signals(self) -> None:
        """Have signals interrupt `wait` until the workers are gone."""
        handling = ExitStack()
        can_handle = handling.enter_context(
            handle_signals(self._signals_to_handle, self._on_signal)
        )
        if self._signals_to_handle and not can_handle:
            _log.warning("signals cannot be handled: this is not the main thread")
        self._supervisor.add_done_callback(lambda _: handling.close())

    def _on_signal(self, number: int) -> None:
        signum = signal.Signals(number)
        self.interrupt(SignalException(f"process {os.getpid()} got signal {signum.name}", signum))

    async def wait(self, timeout: float = -1, period: float = 1) -> RunProcsResult | None:  # noqa: ARG002 -- the contract's: exits are reported, so nothing is polled
        """Wait until all workers have ended, the others of a failed one because we stopped them.

        Args:
            timeout: seconds to wait; 0 looks once, negative waits for ever.
            period: accepted for torchrun's callers.

        Returns:
            The result, the same one on every call; ``None`` when the time is up.

        Raises:
            GuardianError: the workers' parent died; they were killed.
            SignalException: a signal to handle came, or what `interrupt` was given.
            RuntimeError: they were not started.
        """
        if not self._is_started:
            raise RuntimeError(f"workers of {self.name}: expected to be started first")
        if self._interruption is None and not self._supervisor.done():
            interrupted = asyncio.ensure_future(self._interrupted.wait())
            try:
                await asyncio.wait(
                    {self._supervisor, interrupted},
                    timeout=None if timeout < 0 else timeout,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                interrupted.cancel()
        if self._interruption is not None:
            raise self._interruption
        return self._supervisor.result() if self._supervisor.done() else None

    def interrupt(self, error: Exception) -> None:
        """Make `wait` raise an error, now and from now on; the workers go on until `close`."""
        self._interruption = error
        self._interrupted.set()

    def pids(self) -> dict[int, int]:
        """Return the process id of each worker, by local rank."""
        return {rank: process.pid for rank, process in self._processes.items()}

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process group of each worker that still runs.

        Args:
            number: the signal; what it does is the workers' affair.
        """
        for process in self._processes.values():
            self._guardian.signal(process, number)

    def fence_at(self, deadline: float) -> None:
        """Have the workers killed at a time, if this process is stopped then, as by SIGSTOP.

        Args:
            deadline: seconds of ``time.monotonic``, in place of an earlier one; infinite: never.
        """
        self._guardian.fence_at(deadline)

    def exits(self) -> dict[int, int | None]:
        """Return the exit status of each worker by now, by local rank; ``None`` while it runs."""
        return {
            rank: None if process.is_running else process.exited.result().code
            for rank, process in self._processes.items()
        }

    async def close(
        self, death_sig: signal.Signals | None = None, timeout: float = SHUTDOWN_TIMEOUT
    ) -> None:
        """Stop the workers and everything they left behind. Idempotent.

        A call while another one is waiting means now: SIGKILL at once.

        Args:
            death_sig: sent to the process group of each worker that still runs; ``None``: SIGTERM.
            timeout: seconds until SIGKILL, for all of them together.
        """
        if not self._is_started:
            self._is_closing = True  # nothing runs, and nothing will
            return
        if self._is_closing:
            self._hurry()
        else:
            self._is_closing = True
            self._termination.request(death_sig or signal.SIGTERM, timeout)
            self._settled.set()
        await self._wait_for_supervisor()

    async def _undo_start(self) -> None:
        for process in self._processes.values():
            self._guardian.signal(process, signal.SIGKILL)
        running = [process.exited for process in self._processes.values()]
        if running:
            await asyncio.wait(running, timeout=KILL_TIMEOUT)
        await clear_leftovers(self._guardian, signal.SIGKILL, 0.0, 0.0)
        await self._output.drain(ends_lines=True)
        self.release()
        if self._owns_guardian:
            await self._guardian.close()
        self._logs_specs.tidy()

    def _on_exit(self, exited: asyncio.Future[Exit]) -> None:
        is_last = not any(process.is_running for process in self._processes.values())
        if is_last or exited.result().code != 0:
            self._settled.set()

    async def _supervise(self) -> RunProcsResult:
        try:
            await self._settled.wait()
            await self._wait_for_cause()
            if any(process.is_running for process in self._processes.values()):
                if not self._is_closing:
                    self._termination.request(signal.SIGTERM, self._shutdown_timeout)
                await self._termination.run()
            await self._clear_leftovers()
            await self._output.drain(ends_lines=not self._endings.is_success)
            result = await self._result()
            if self._owns_guardian:
                await self._guardian.close()
            self._logs_specs.tidy()
        except BaseException:
            # The end of the loop cancels us, and leaves no time for anything else.
            self._output.abort()
            if self._owns_guardian:
                self._guardian.abandon()
            raise
        finally:
            self.release()
        if self._guardian.lost is not None:
            raise self._guardian.lost
        return result

    async def _wait_for_cause(self) -> None:
        """Wait a moment while all that failed did so because of another that still runs.

        And longer for one that is known to be on its way.
        """
        await self._wait_while(lambda: self._endings.is_cause_missing, _CAUSE_GRACE)
        await self._wait_while(lambda: self._endings.is_cause_leaving, _LEAVING_GRACE)

    async def _wait_while(self, condition: Callable[[], bool], timeout: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self._is_closing and condition():
                    self._settled.clear()
                    await self._settled.wait()

    async def _clear_leftovers(self) -> None:
        """End what workers left behind.

        Processes in a group that was signalled have the rest of its time. After a success all
        are left in peace for a moment first, since they may have output to write.
        """
        self._is_clearing = True
        left = self._termination.time_left
        stray_grace = min(left, _STRAY_GRACE)
        group_grace = left if self._termination.signalled else stray_grace
        quiet = stray_grace if self._endings.is_success and not self._is_closing else 0.0
        await clear_leftovers(
            self._guardian, self._termination.signum, group_grace, stray_grace, quiet=quiet
        )

    def _hurry(self) -> None:
        self._termination.hurry()
        if self._is_clearing and not self._supervisor.done():
            hurry_leftovers(self._guardian)

    async def _wait_for_supervisor(self) -> None:
        await asyncio.wait({self._supervisor})
        if not self._supervisor.cancelled():
            self._supervisor.exception()  # `wait` raises it; without a call of it nobody would

    async def _result(self) -> RunProcsResult:
        failures = self._endings.failures()
        exit_codes = dict.fromkeys(self._processes, 0)
        exit_codes |= {rank: failure.exitcode for rank, failure in failures.items()}
        values = {} if failures else await self._values(failures)
        return RunProcsResult(
            {} if failures else values, failures, self.stdouts, self.stderrs, exit_codes
        )

    async def _values(self, failures: dict[int, ProcessFailure]) -> dict[int, object]:
        """Return what the workers returned; those that did not join the failures."""
        values = {}
        for rank in self._processes:
            try:
                values[rank] = await self.value(rank)
            except ValueError as error:
                failures[rank] = self._endings.failure(rank)
                failures[rank].message = str(error)
        return values
