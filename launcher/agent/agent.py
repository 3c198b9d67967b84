"""`LocalElasticAgent`: looks after the workers of this node.

The thin shell around `GroupMachine`: it tells the machine what happened and carries out what the
machine answers. Joining, starting, watching and stopping are `Activities`, whose results are
stimuli. Signals come in by `receive_signal`, which only enqueues.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING

from asyncrpc.secret import load_secret, run_secret
from launcher.agent.activities import Activities
from launcher.agent.group import DEFAULT_ROLE, RunResult, WorkerGroup, WorkerSpec
from launcher.agent.handout import handed_out
from launcher.agent.processes import Processes
from launcher.agent.progress import telling_progress
from launcher.agent.ranks import NodeRanks, NodeRole, assign_ranks
from launcher.agent.recorder import Recorder
from launcher.agent.roles import exchange_roles
from launcher.agent.state import (
    Event,
    Finish,
    GroupMachine,
    Instruction,
    Over,
    Phase,
    SignalReceived,
    Step,
    Stimulus,
    Stop,
    WorkerState,
)
from launcher.agent.torch_store import RoundStore
from launcher.agent.variables import RunFacts
from launcher.agent.watchdog import Watchdog
from launcher.config import DEFAULT_PREEMPT_NOTICE
from launcher.logs import LogsSpecs
from launcher.process import Guardian
from launcher.rendezvous import (
    Ending,
    Outcome,
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousInfo,
    read_name,
)
from launcher.rules import to_signals

if TYPE_CHECKING:  # the names only: most runs use neither
    from launcher.agent.preemption import Preemption
    from launcher.health import RunStatus

__all__ = ("LocalElasticAgent",)

# Another node whose worker ours have lost, and failed over, gets this long to report it first.
_CAUSE_GRACE = 1.0

_logger = logging.getLogger("launcher.agent")


class LocalElasticAgent:
    """Starts the workers of this node, watches over them, restarts them as a group.

    Args:
        spec: what the workers have in common.
        logs_specs: where their output goes; an object of this run alone.
        start_method: how workers that run a function are started: ``spawn``, ``fork`` or
            ``forkserver``.
        exit_barrier_timeout: seconds after which a node that is done says whom it waits for; it
            goes on waiting, for as long as they live.
        log_line_prefix_template: prefix of teed lines, see `launcher.logs.line_prefix`.
        shutdown_timeout: seconds between the signal that stops workers and SIGKILL, from 0.
        secret: the run's secret, at least 16 bytes, handed to the workers; ``None``: made of this
            user's secret and the run id.
        signals_to_handle: what workers read as ``TORCHELASTIC_SIGNALS_TO_HANDLE``.
        preempt_signals: those that `preempt` is called for; none: it is not called.
        preempt_notice: seconds from such a signal to the end of the node, above 0.
        guardian: the process that is to start the workers, closed when the run is over; ``None``:
            a new one.
        stdin: local rank of the worker that gets our standard input; ``None``: nobody.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs,
        start_method: str = "spawn",
        exit_barrier_timeout: float = 300.0,
        log_line_prefix_template: str | None = None,
        shutdown_timeout: float = 30.0,
        *,
        secret: bytes | None = None,
        signals_to_handle: str = "",
        preempt_signals: Collection[signal.Signals] = (),
        preempt_notice: float = DEFAULT_PREEMPT_NOTICE,
        guardian: Guardian | None = None,
        stdin: int | None = None,
    ) -> None:
        self._spec = spec
        self._secret = secret
        self._signals_to_handle = signals_to_handle
        self._preemption: Preemption | None = None  # where there can be one
        if preempt_signals:
            from launcher.agent.preemption import Preemption  # noqa: PLC0415 -- only then

            ignored = set(preempt_signals) - set(to_signals(signals_to_handle))
            self._preemption = Preemption(preempt_notice, shutdown_timeout, ignored)
        self._guardian = guardian
        self._exit_barrier_timeout = exit_barrier_timeout
        self._group = WorkerGroup(spec)
        self._processes = Processes(
            self._group,
            logs_specs,
            log_line_prefix_template=log_line_prefix_template,
            shutdown_timeout=shutdown_timeout,
            stdin=stdin,
            start_method=start_method,
        )
        self._recorder = Recorder(self._group)
        self._machine = GroupMachine()
        self._activities = Activities()
        self._facts: RunFacts | None = None  # set while `run` is under way
        self._watchdog: Watchdog | None = None  # likewise
        self._is_signalled = False  # whether the launcher was told to stop
        self._info: RendezvousInfo | None = None  # of the current round
        self._ranks: NodeRanks | None = None  # of the current round
        self._torch_store = RoundStore()
        self._fence = math.inf  # when no worker of the current round may run any more
        self._change = ""  # why the round before the current one ended
        self._reported: Outcome | None = None  # how the workers of the current round ended here
        self._ending: Ending | None = None  # of the run, once it is over for all nodes
        self._begun_at = time.monotonic()
        self._restarts = 0  # because of failures, that were told to the user

    def get_worker_group(self, role: str = DEFAULT_ROLE) -> WorkerGroup:  # noqa: ARG002 -- torch's
        """Return the group as it is now."""
        return self._group

    def status(self) -> RunStatus:
        """Return how the run is at the moment, as this node sees it."""
        from launcher.agent.status import status_of  # noqa: PLC0415 -- most runs are never asked

        seconds = time.monotonic() - self._begun_at
        return status_of(self._group, self._processes.context, seconds, self._processes.log_dir)

    def receive_signal(self, number: int) -> None:
        """Take in a signal to the launcher: the first stops the run, a second kills it.

        Args:
            number: the signal, forwarded to the workers.
        """
        self._is_signalled = True
        if self._preemption is not None:
            self._preemption.end()
        self._activities.tell(SignalReceived(number))

    def preempt(self, number: int) -> bool:
        """Take in that this node has to go: its workers prepare for it, then it leaves the run.

        Args:
            number: the signal that said so.

        Returns:
            Whether that is news.
        """
        preemption = self._preemption
        if preemption is None or preemption.is_given:
            return False
        preemption.is_given = True
        self._activities.begin(self._go(preemption, signal.Signals(number).name))
        return True

    def forward_signal(self, number: int) -> None:
        """Pass a signal on to the workers, if there are any; it stops nothing by itself.

        Args:
            number: the signal.
        """
        self._processes.send_signal(signal.Signals(number))

    async def run(self, role: str = DEFAULT_ROLE) -> RunResult:  # noqa: ARG002 -- torch's
        """Start the workers, watch over them and restart them as the spec allows.

        Returns:
            How the run ended; failed workers are part of it, not an exception.

        Raises:
            RendezvousError: no round was formed.
            OSError: the workers could not be started.
            GuardianError: the process that looks after the workers could not be started or died.
            ValueError: there is no secret to hand to the workers.
        """
        run_id = read_name(self._spec.rdzv_handler.get_run_id())
        secret = self._secret or run_secret(load_secret(None, os.environ), run_id)
        guardian = self._guardian = self._guardian or Guardian.start()
        with ExitStack() as files:
            try:
                self._watchdog = files.enter_context(Watchdog(guardian))
                self._facts = files.enter_context(
                    handed_out(
                        self._spec, guardian, secret, self._signals_to_handle, self._preemption
                    )
                )
                finish = await self._drive()
            finally:
                await self._release(guardian)
        error = self._processes.start_error
        if error is not None and finish.state is WorkerState.FAILED:
            raise error
        result = self._result(finish)
        self._recorder.finished(result)
        return result

    async def _go(self, preemption: Preemption, name: str) -> None:
        """Let the workers prepare, if there are any, and leave the run."""
        if self._machine.phase is Phase.RUNNING:
            assert self._info is not None
            await preemption.give(name, self._info)
        self._processes.grace = preemption.grace
        if not self._is_signalled:
            self.receive_signal(signal.SIGTERM)

    async def _prepared(self) -> None:
        """Let nothing else happen to the group while workers prepare to go."""
        if self._preemption is not None:
            await self._preemption.over()

    async def _drive(self) -> Finish:
        """Feed the machine until it says that the run is over."""
        stimulus: Stimulus = Event.BEGUN
        while True:
            instructions = self._machine.handle(stimulus)
            self._group.state = self._machine.state
            for instruction in instructions:
                if isinstance(instruction, Finish):
                    return instruction
                self._carry_out(instruction)
            stimulus = await self._next_stimulus()

    async def _next_stimulus(self) -> Stimulus:
        while True:
            try:
                return await self._activities.next_stimulus()
            except RendezvousError as error:
                if self._machine.phase is not Phase.STOPPING:
                    raise
                _logger.info("%s", error)  # this node has left the run, and only cleans up

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Step.JOIN:
                self._activities.begin(self._join())
            case Step.START:
                self._fence = math.inf
                self._announce_round()
                self._reported = None
                self._activities.begin(self._start())
                self._activities.begin(self._follow())
            case Step.WATCH:
                self._activities.begin(self._watch())
            case Step.REPORT:
                self._activities.begin(self._report())
            case Step.LEAVE:
                self._activities.begin(self._spec.rdzv_handler.leave())
            case Step.KILL:
                self._activities.begin(self._processes.stop(signal.SIGKILL))
            case Stop(number):
                within = max(0.0, self._fence - time.monotonic())
                self._activities.begin(self._processes.stop(signal.Signals(number), within))

    def _announce_round(self) -> None:
        """Say why workers are started again, if they are."""
        info = self._info
        assert info is not None
        if info.restarts > self._restarts:
            budget = self._spec.budget(info.restarts)
            _logger.warning("%s; starting all workers again, %s", self._change, budget)
        elif self._change:
            nodes = f"{info.world_size} node{'s' * (info.world_size > 1)}"
            _logger.warning("starting all workers again, on %s", nodes)
        self._restarts = info.restarts

    async def _join(self) -> Stimulus:
        handler = self._spec.rdzv_handler
        if self._reported is not None and self._reported.failure:
            # The others wait for this node: they need not wait as well.
            await asyncio.sleep(self._spec.backoff(self._restarts))
        begun_at = time.monotonic()
        nodes = None
        while nodes is None:
            try:
                async with telling_progress(handler.progress):
                    info = await handler.next_rendezvous()
            except RendezvousGracefulExitError as error:
                _logger.warning("%s", error)
                self._ending = Ending(is_success=True)
                return Over(is_success=True)
            except RendezvousClosedError as error:
                if self._info is None:
                    raise  # this node came too late
                self._ending = Ending(False, error.reason or str(error), error.exitcode)
                return Over(is_success=False)
            if self._spec.torch_store:  # before others start workers, who wait for our role first
                await self._torch_store.begin(info)
            node = NodeRole(role=self._spec.role, local_world_size=self._spec.local_world_size)
            nodes = await exchange_roles(handler, info, node, os.environ)
        # A plain handler counts restarts, but does not tell of them with the round.
        info = info._replace(
            restarts=max(info.restarts, handler.restarts),
            bootstrap_store_info=self._spec.master(info.bootstrap_store_info),
        )
        self._info = info
        self._ranks = assign_ranks(nodes)[info.rank]
        self._group.assign(info, self._ranks)
        self._recorder.joined(time.monotonic() - begun_at)
        return Event.JOINED

    async def _follow(self) -> Stimulus:
        """Wait until the round is over for all nodes."""
        try:
            end = await self._spec.rdzv_handler.round_over()
        except RendezvousError:
            await self._prepared()
            raise
        await self._prepared()
        if isinstance(end, Ending):
            self._ending = end
            return Over(end.is_success)
        self._change = end.reason
        self._fence = time.monotonic() + end.within
        phase, reported = self._machine.phase, self._reported
        if phase in (Phase.STARTING, Phase.RUNNING):
            _logger.warning("%s; stopping the workers here", end.reason)
        elif phase is Phase.REPORTING and reported is not None and not reported.failure:
            _logger.warning("%s; the workers here were done, but not all were", end.reason)
        return Event.CHANGED

    async def _report(self) -> None:
        """Tell the others how the workers ended, and name those that keep us waiting.

        If only the end of another node's worker explains that, the other may tell first; then it
        is that failure which ended the round.
        """
        failure, exitcode = self._processes.failure()
        info = self._info
        assert info is not None
        if info.world_size > 1 and self._processes.is_consequence():
            await asyncio.sleep(_CAUSE_GRACE)
            if self._machine.phase is not Phase.REPORTING or self._info is not info:
                return
        self._reported = outcome = Outcome(
            failure, exitcode, self._spec.max_restarts, self._spec.restart_window
        )
        await self._spec.rdzv_handler.report(outcome)
        while not failure:
            await asyncio.sleep(self._exit_barrier_timeout)
            if self._machine.phase is not Phase.REPORTING or self._info is not info:
                return
            missing = await self._spec.rdzv_handler.missing()
            _logger.warning("the workers here are done; waiting for %s", ", ".join(missing))

    async def _start(self) -> Stimulus:
        facts, ranks = self._facts, self._ranks
        watchdog, guardian = self._watchdog, self._guardian
        assert facts is not None
        assert ranks is not None
        assert watchdog is not None
        assert guardian is not None
        if not await self._processes.start(facts, ranks, watchdog, guardian):
            return Event.START_FAILED
        if self._spec.rdzv_handler.alive_until() < math.inf:
            self._activities.begin(self._keep_fenced())
        self._recorder.started()
        return Event.STARTED

    async def _keep_fenced(self) -> None:
        from launcher.agent.fencing import keep_fenced  # noqa: PLC0415 -- only among several nodes

        handler, info = self._spec.rdzv_handler, self._info
        await keep_fenced(handler, self._processes, lambda: self._info is info)

    async def _watch(self) -> Stimulus:
        assert self._watchdog is not None
        ended = await self._processes.wait(self._watchdog)
        self._recorder.ended(ended)
        await self._processes.clear()
        await self._prepared()  # else nobody could tell that from the end of the run
        return Event.FAILED if ended.is_failed() else Event.SUCCEEDED

    async def _release(self, guardian: Guardian) -> None:
        """Leave nothing behind: no task, no worker, no guardian."""
        await self._activities.end()
        try:
            await self._processes.stop(signal.SIGTERM)
        finally:
            await self._torch_store.end()
            await guardian.close()

    def _result(self, finish: Finish) -> RunResult:
        is_given = self._preemption is not None and self._preemption.is_given
        return self._processes.complete(
            RunResult(
                state=finish.state,
                restarts=self._restarts,
                signal=finish.number,
                is_preempted=is_given and finish.state is WorkerState.STOPPED,
                elsewhere=self._elsewhere(finish),
            )
        )

    def _elsewhere(self, finish: Finish) -> Ending | None:
        """Return how the run failed, unless it was by workers of this node."""
        is_ours = self._reported is not None and self._reported.failure
        return None if finish.state is not WorkerState.FAILED or is_ours else self._ending
