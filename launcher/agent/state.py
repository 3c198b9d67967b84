"""The life of a worker group, as a pure state machine: stimuli in, instructions out.

No I/O, no clock, no tasks. The agent tells `GroupMachine.handle` what happened and carries out
what it answers, in order.

Theory of operation::

    phase      stimulus            instructions                           next phase
    ---------  ------------------  -------------------------------------  ----------------
    INIT       BEGUN               JOIN                                   JOINING
    JOINING    JOINED              START                                  STARTING
    JOINING    Over                Finish                                 DONE
    STARTING   STARTED             WATCH                                  RUNNING
    STARTING   START_FAILED        REPORT                                 REPORTING
    RUNNING    SUCCEEDED, FAILED   REPORT                                 REPORTING
    RUNNING    CHANGED, Over       Stop(SIGTERM)                          YIELDING
    REPORTING  CHANGED             JOIN                                   JOINING
    REPORTING  Over                Finish                                 DONE
    YIELDING   SUCCEEDED, FAILED   JOIN, or Finish if it was Over         JOINING, or DONE
    RUNNING    SignalReceived      LEAVE, Stop(that signal)               STOPPING
    YIELDING   SignalReceived      LEAVE                                  STOPPING
    STOPPING   SignalReceived      KILL                                   STOPPING
    STOPPING   SUCCEEDED, FAILED   Finish(STOPPED)                        DONE
    JOINING    SignalReceived      Finish(STOPPED)                        DONE
    REPORTING  SignalReceived      Finish(STOPPED)                        DONE
    STARTING   SignalReceived      LEAVE                                  STARTING

What happens while workers are being started is remembered until they are: STARTED then leads to
STOPPING or YIELDING at once.

From START on, exactly one of CHANGED and Over comes for each round that was joined: it is what all
nodes of the run have agreed on, and it alone decides whether workers are started again. A failed
worker has its siblings stopped by the process layer before FAILED is reported, so a failure always
ends the group as a whole. A signal to the launcher beats everything: after it, nothing is started
again.

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
    "Over",
    "Phase",
    "SignalReceived",
    "Step",
    "Stimulus",
    "Stop",
    "WorkerState",
)


class WorkerState(enum.StrEnum):
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

    @staticmethod
    def is_running(state: WorkerState) -> bool:
        """Say whether workers may be running in a state: ``WorkerState.is_running(state)``."""
        return state in (WorkerState.HEALTHY, WorkerState.UNHEALTHY)


class Phase(enum.Enum):
    """Where the agent stands with its group."""

    INIT = "init"
    JOINING = "joining"
    STARTING = "starting"
    RUNNING = "running"
    REPORTING = "reporting"
    YIELDING = "yielding"
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
    CHANGED = "changed"
    """The round is over for all nodes, and the next one is to be joined."""


class SignalReceived(NamedTuple):
    """The launcher was told to stop."""

    number: int


class Over(NamedTuple):
    """The run is over for all nodes."""

    is_success: bool


Stimulus = Event | SignalReceived | Over
"""What can happen to a group."""


class Step(enum.Enum):
    """What the agent is to do next."""

    JOIN = "join"
    """Join the rendezvous of the next round."""
    START = "start"
    """Start the workers of the round, and say CHANGED or Over when it is over."""
    WATCH = "watch"
    """Say SUCCEEDED or FAILED when no worker of the round runs any more."""
    REPORT = "report"
    """Tell the other nodes how the workers ended."""
    LEAVE = "leave"
    """Tell the other nodes that this one goes."""
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
    """Decides what happens to one agent's worker group."""

    __slots__ = ("_finish", "_signals", "_verdict", "phase")

    def __init__(self) -> None:
        self.phase = Phase.INIT
        self._signals: list[int] = []  # to the launcher, in order; once not empty, no JOIN
        self._verdict: Over | Event | None = None  # CHANGED or Over, of the current round
        self._finish: Finish | None = None  # set exactly when DONE

    @property
    def state(self) -> WorkerState:
        """What the group looks like from outside."""
        if self._finish is not None:
            return self._finish.state
        if self.phase is Phase.RUNNING:
            return WorkerState.HEALTHY
        is_ending = self.phase in (Phase.STOPPING, Phase.YIELDING)
        return WorkerState.UNHEALTHY if is_ending else WorkerState.INIT

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
            case Over() | Event.CHANGED:
                return self._decided(stimulus)
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
                return self._ended()
            case Event.SUCCEEDED | Event.FAILED:
                self._expect(Phase.RUNNING, Phase.YIELDING, Phase.STOPPING)
                return self._ended()

    def _started(self) -> tuple[Instruction, ...]:
        if self._signals:
            self.phase = Phase.STOPPING
            number = self._signals[0] if len(self._signals) == 1 else signal.SIGKILL
            return (Step.WATCH, Stop(number))
        self.phase = Phase.RUNNING
        return (Step.WATCH, *(() if self._verdict is None else self._yield()))

    def _decided(self, verdict: Over | Event) -> tuple[Instruction, ...]:
        """Take in what the nodes agreed on about this round."""
        assert self._verdict is None, f"{verdict} follows {self._verdict}"
        self._verdict = verdict
        match self.phase:
            case Phase.RUNNING:
                return self._yield()
            case Phase.JOINING | Phase.REPORTING:
                return self._go_on()
            case phase:
                # Workers are being started or stopped, and the end of that asks for the verdict.
                assert phase in (Phase.STARTING, Phase.STOPPING), phase
                return ()

    def _ended(self) -> tuple[Instruction, ...]:
        """Go on now that no worker of the round runs."""
        if self._signals or self._verdict is not None:
            return self._go_on()
        self.phase = Phase.REPORTING
        return (Step.REPORT,)

    def _signalled(self, number: int) -> tuple[Instruction, ...]:
        match self.phase:
            case Phase.RUNNING:
                self.phase = Phase.STOPPING
                return (Step.LEAVE, Stop(number))
            case Phase.YIELDING:  # the workers are being stopped already
                self.phase = Phase.STOPPING
                return (Step.LEAVE,)
            case Phase.STOPPING:
                return (Step.KILL,)
            case Phase.STARTING:  # there is no telling whom to signal yet; `_started` will know
                return (Step.LEAVE,) if len(self._signals) == 1 else ()
            case _:
                return self._go_on()

    def _yield(self) -> tuple[Instruction, ...]:
        self.phase = Phase.YIELDING
        return (Stop(signal.SIGTERM),)

    def _go_on(self) -> tuple[Instruction, ...]:
        """Start the next round or end, now that nothing runs and all is known."""
        verdict, self._verdict = self._verdict, None
        if self._signals:
            return self._end(Finish(WorkerState.STOPPED, self._signals[0]))
        if isinstance(verdict, Over):
            state = WorkerState.SUCCEEDED if verdict.is_success else WorkerState.FAILED
            return self._end(Finish(state))
        return self._join()

    def _end(self, finish: Finish) -> tuple[Instruction, ...]:
        self.phase = Phase.DONE
        self._finish = finish
        return (finish,)

    def _join(self) -> tuple[Instruction, ...]:
        self.phase = Phase.JOINING
        return (Step.JOIN,)

    def _expect(self, *phases: Phase) -> None:
        assert self.phase in phases, f"{self.phase} is none of {phases}"
