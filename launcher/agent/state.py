"""The life of a worker group, as a pure state machine: stimuli in, instructions out.

No I/O, no clock, no tasks. The agent tells `GroupMachine.handle` what happened and carries out
what it answers, in order.

Theory of operation::

    phase     stimulus            instructions                            next phase
    --------  ------------------  --------------------------------------  ----------------
    INIT      BEGUN               JOIN                                    JOINING
    JOINING   JOINED              START                                   STARTING
    STARTING  STARTED             WATCH                                   RUNNING
    STARTING  STARTED, signalled  WATCH, Stop(first signal, or SIGKILL)   STOPPING
    STARTING  START_FAILED        JOIN while restarts are left, or Finish JOINING, or DONE
    RUNNING   SUCCEEDED           Finish(SUCCEEDED)                       DONE
    RUNNING   FAILED              JOIN while restarts are left, or Finish JOINING, or DONE
    RUNNING   SignalReceived      Stop(that signal)                       STOPPING
    STOPPING  SignalReceived      KILL                                    STOPPING
    STOPPING  SUCCEEDED, FAILED   Finish(STOPPED)                         DONE
    JOINING   SignalReceived      Finish(STOPPED)                         DONE
    STARTING  SignalReceived      - (remembered)                          STARTING

A failed worker has its siblings stopped by the process layer before FAILED is reported, so a
failure always restarts or ends the group as a whole. A signal to the launcher beats everything:
after it, nothing is started again.

Values are enums and named tuples here and in the agent: making a dataclass takes five times as
long, and the launcher's start waits for every one of them.
"""

from __future__ import annotations

import enum
import signal
from typing import NamedTuple

__all__ = (
    "Event",
    "Finish",
    "GroupMachine",
    "Instruction",
    "Phase",
    "SignalReceived",
    "Step",
    "Stimulus",
    "Stop",
    "WorkerState",
)


class WorkerState(enum.Enum):
    """What is known of the workers of a group; names and values are torch's."""

    UNKNOWN = "UNKNOWN"
    """The agent lost track of them; there is no way back."""
    INIT = "INIT"
    """They are not started, or not started again, yet."""
    HEALTHY = "HEALTHY"
    """They run."""
    UNHEALTHY = "UNHEALTHY"
    """They run, but are being stopped."""
    STOPPED = "STOPPED"
    """They were stopped by a signal to the launcher: none runs."""
    SUCCEEDED = "SUCCEEDED"
    """All ended with exit status 0."""
    FAILED = "FAILED"
    """One failed and the group will not be started again: none runs."""

    @property
    def is_running(self) -> bool:
        """Whether workers may be running in this state."""
        return self in (WorkerState.HEALTHY, WorkerState.UNHEALTHY)


class Phase(enum.Enum):
    """Where the agent stands with its group."""

    INIT = "init"
    JOINING = "joining"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"


class Event(enum.Enum):
    """What happened to the group."""

    BEGUN = "begun"
    """The agent is ready to join its first round."""
    JOINED = "joined"
    """The rendezvous of the round is complete."""
    STARTED = "started"
    """Every worker of the round was started."""
    START_FAILED = "start failed"
    """The workers could not be started; those that were are gone again."""
    SUCCEEDED = "succeeded"
    """All workers of the round have ended, each with exit status 0."""
    FAILED = "failed"
    """All workers of the round have ended, and not all with 0."""


class SignalReceived(NamedTuple):
    """The launcher was told to stop."""

    number: int


Stimulus = Event | SignalReceived
"""What can happen to a group."""


class Step(enum.Enum):
    """What the agent is to do next."""

    JOIN = "join"
    """Join the rendezvous of the next round."""
    START = "start"
    """Start the workers of the round."""
    WATCH = "watch"
    """Report SUCCEEDED or FAILED when no worker of the round runs any more."""
    KILL = "kill"
    """End the stop that is under way with SIGKILL, now."""


class Stop(NamedTuple):
    """Send the signal to every worker's group, and SIGKILL after the grace."""

    number: int


class Finish(NamedTuple):
    """The run is over and no worker runs."""

    state: WorkerState
    """SUCCEEDED, FAILED or STOPPED."""
    number: int | None = None
    """The signal the launcher was stopped by; ``None`` unless STOPPED."""


Instruction = Step | Stop | Finish
"""What the agent is to do, with what it needs to know for it."""


class GroupMachine:
    """Decides what happens to one agent's worker group.

    Args:
        max_restarts: how often a failure may restart the group, from 0.
    """

    __slots__ = ("_finish", "_signals", "max_restarts", "phase", "restarts")

    def __init__(self, max_restarts: int) -> None:
        self.max_restarts = max_restarts
        self.phase = Phase.INIT
        self.restarts = 0  # because of a failure; never above max_restarts
        self._signals: list[int] = []  # to the launcher, in order; once not empty, no Join
        self._finish: Finish | None = None  # set exactly when DONE

    @property
    def state(self) -> WorkerState:
        """What the group looks like from outside."""
        if self._finish is not None:
            return self._finish.state
        if self.phase is Phase.RUNNING:
            return WorkerState.HEALTHY
        return WorkerState.UNHEALTHY if self.phase is Phase.STOPPING else WorkerState.INIT

    def handle(self, stimulus: Stimulus) -> tuple[Instruction, ...]:
        """Take in what happened and say what to do.

        Args:
            stimulus: what happened, in the order the agent noticed it.

        Returns:
            Instructions in the order they are to be carried out; often none.
        """
        if self.phase is Phase.DONE:
            return ()  # only a late signal can come, and nothing is left that it could stop
        match stimulus:
            case SignalReceived(number):
                self._signals.append(number)
                return self._signalled(number)
            case Event.BEGUN:
                self._expect(Phase.INIT)
                return self._join()
            case Event.JOINED:
                self._expect(Phase.JOINING)
                self.phase = Phase.STARTING
                return (Step.START,)
            case Event.STARTED:
                self._expect(Phase.STARTING)
                return self._started()
            case Event.START_FAILED:
                self._expect(Phase.STARTING)
                return self._conclude(is_failed=True)
            case Event.SUCCEEDED | Event.FAILED:
                self._expect(Phase.RUNNING, Phase.STOPPING)
                return self._conclude(is_failed=stimulus is Event.FAILED)

    def _started(self) -> tuple[Instruction, ...]:
        if not self._signals:
            self.phase = Phase.RUNNING
            return (Step.WATCH,)
        self.phase = Phase.STOPPING
        number = self._signals[0] if len(self._signals) == 1 else signal.SIGKILL
        return (Step.WATCH, Stop(number))

    def _signalled(self, number: int) -> tuple[Instruction, ...]:
        match self.phase:
            case Phase.RUNNING:
                self.phase = Phase.STOPPING
                return (Stop(number),)
            case Phase.STOPPING:
                return (Step.KILL,)
            case Phase.STARTING:
                return ()  # there is no telling whom to signal yet; `_started` will know
            case _:
                return self._conclude(is_failed=False)

    def _conclude(self, *, is_failed: bool) -> tuple[Instruction, ...]:
        if is_failed and not self._signals and self.restarts < self.max_restarts:
            self.restarts += 1
            return self._join()
        self.phase = Phase.DONE
        if self._signals:
            self._finish = Finish(WorkerState.STOPPED, self._signals[0])
        else:
            self._finish = Finish(WorkerState.FAILED if is_failed else WorkerState.SUCCEEDED)
        return (self._finish,)

    def _join(self) -> tuple[Instruction, ...]:
        self.phase = Phase.JOINING
        return (Step.JOIN,)

    def _expect(self, *phases: Phase) -> None:
        assert self.phase in phases, f"{self.phase} is none of {phases}"
