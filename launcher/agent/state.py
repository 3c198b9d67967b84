"""The life of a worker group, as a pure state machine: stimuli in, instructions out.

No I/O, no clock, no tasks. The agent tells `GroupMachine.handle` what happened and carries out
what it answers, in order.

Theory of operation::

    phase     stimulus            instructions                            next phase
    --------  ------------------  --------------------------------------  ----------------
    INIT      Begun               Join                                    JOINING
    JOINING   Joined              Start                                   STARTING
    STARTING  Started             Watch                                   RUNNING
    STARTING  Started, signalled  Watch, Stop(first signal, or SIGKILL)   STOPPING
    STARTING  StartFailed         Join while restarts are left, or Finish JOINING, or DONE
    RUNNING   Ended, succeeded    Finish(SUCCEEDED)                       DONE
    RUNNING   Ended, failed       Join while restarts are left, or Finish JOINING, or DONE
    RUNNING   SignalReceived      Stop(that signal)                       STOPPING
    STOPPING  SignalReceived      Kill                                    STOPPING
    STOPPING  Ended               Finish(STOPPED)                         DONE
    JOINING   SignalReceived      Finish(STOPPED)                         DONE
    STARTING  SignalReceived      - (remembered)                          STARTING

A failed worker has its siblings stopped by the process layer before `Ended` is reported, so a
failure always restarts or ends the group as a whole. A signal to the launcher beats everything:
after it, nothing is started again.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass

__all__ = (
    "Begun",
    "Ended",
    "Finish",
    "GroupMachine",
    "Instruction",
    "Join",
    "Joined",
    "Kill",
    "Phase",
    "SignalReceived",
    "Start",
    "StartFailed",
    "Started",
    "Stimulus",
    "Stop",
    "Watch",
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


@dataclass(frozen=True, slots=True)
class Begun:
    """The agent is ready to join its first round."""


@dataclass(frozen=True, slots=True)
class Joined:
    """The rendezvous of the round is complete."""


@dataclass(frozen=True, slots=True)
class Started:
    """Every worker of the round was started."""


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The workers could not be started; those that were are gone again."""


@dataclass(frozen=True, slots=True)
class Ended:
    """No worker of the round runs any more."""

    is_failed: bool
    """Whether one of them failed."""


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """The launcher was told to stop."""

    number: int


Stimulus = Begun | Joined | Started | StartFailed | Ended | SignalReceived
"""What can happen to a group."""


@dataclass(frozen=True, slots=True)
class Join:
    """Join the rendezvous of the next round."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start the workers of the round."""

    restarts: int
    """Restarts because of a failure so far, from 0."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Report `Ended` when no worker of the round runs any more."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Send the signal to every worker's group, and SIGKILL after the grace."""

    number: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End the stop that is under way with SIGKILL, now."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over and no worker runs."""

    state: WorkerState
    """SUCCEEDED, FAILED or STOPPED."""
    number: int | None = None
    """The signal the launcher was stopped by; ``None`` unless STOPPED."""


Instruction = Join | Start | Watch | Stop | Kill | Finish
"""What the agent is to do next."""


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
            case Begun():
                self._expect(Phase.INIT)
                return self._join()
            case Joined():
                self._expect(Phase.JOINING)
                self.phase = Phase.STARTING
                return (Start(self.restarts),)
            case Started():
                self._expect(Phase.STARTING)
                return self._started()
            case StartFailed():
                self._expect(Phase.STARTING)
                return self._conclude(is_failed=True)
            case Ended(is_failed):
                self._expect(Phase.RUNNING, Phase.STOPPING)
                return self._conclude(is_failed=is_failed)
            case SignalReceived(number):
                self._signals.append(number)
                return self._signalled(number)

    def _started(self) -> tuple[Instruction, ...]:
        if not self._signals:
            self.phase = Phase.RUNNING
            return (Watch(),)
        self.phase = Phase.STOPPING
        number = self._signals[0] if len(self._signals) == 1 else signal.SIGKILL
        return (Watch(), Stop(number))

    def _signalled(self, number: int) -> tuple[Instruction, ...]:
        match self.phase:
            case Phase.RUNNING:
                self.phase = Phase.STOPPING
                return (Stop(number),)
            case Phase.STOPPING:
                return (Kill(),)
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
        return (Join(),)

    def _expect(self, *phases: Phase) -> None:
        assert self.phase in phases, f"{self.phase} is none of {phases}"
