"""`launcher.agent.state`: the worker group's life, step by step and in any order of events."""

from __future__ import annotations

from signal import SIGINT, SIGKILL, SIGTERM

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from launcher.agent.state import (
    Event,
    Finish,
    GroupMachine,
    Instruction,
    Phase,
    SignalReceived,
    Step,
    Stimulus,
    Stop,
    WorkerState,
)


def play(machine: GroupMachine, *stimuli: Stimulus) -> list[Instruction]:
    """Return all instructions that the stimuli bring about."""
    return [instruction for stimulus in stimuli for instruction in machine.handle(stimulus)]


def running(max_restarts: int = 0) -> GroupMachine:
    """Return a machine whose workers run."""
    machine = GroupMachine(max_restarts)
    play(machine, Event.BEGUN, Event.JOINED, Event.STARTED)
    return machine


def test_a_run_joins_starts_watches_and_succeeds() -> None:
    """The straight way."""
    machine = GroupMachine(0)

    assert play(machine, Event.BEGUN, Event.JOINED, Event.STARTED, Event.SUCCEEDED) == [
        Step.JOIN,
        Step.START,
        Step.WATCH,
        Finish(WorkerState.SUCCEEDED),
    ]


def test_states_follow_the_phases() -> None:
    """From outside: INIT until the workers run, then how they are, then how it ended."""
    machine = GroupMachine(0)
    seen = [machine.state]
    stimuli = (Event.BEGUN, Event.JOINED, Event.STARTED, SignalReceived(SIGTERM), Event.FAILED)
    for stimulus in stimuli:
        play(machine, stimulus)
        seen.append(machine.state)

    assert seen == [
        WorkerState.INIT,
        WorkerState.INIT,
        WorkerState.INIT,
        WorkerState.HEALTHY,
        WorkerState.UNHEALTHY,
        WorkerState.STOPPED,
    ]
    assert [state for state in WorkerState if state.is_running] == [
        WorkerState.HEALTHY,
        WorkerState.UNHEALTHY,
    ]


def test_a_failure_without_restarts_ends_the_run() -> None:
    """Nothing is allowed, nothing is tried."""
    assert play(running(0), Event.FAILED) == [Finish(WorkerState.FAILED)]


def test_a_failure_starts_the_group_again_as_often_as_allowed() -> None:
    """Each restart is a new round and is counted."""
    machine = running(2)
    again = (Event.FAILED, Event.JOINED, Event.STARTED)

    assert play(machine, *again, *again, Event.FAILED) == [
        Step.JOIN,
        Step.START,
        Step.WATCH,
        Step.JOIN,
        Step.START,
        Step.WATCH,
        Finish(WorkerState.FAILED),
    ]


def test_a_failed_start_is_a_failure() -> None:
    """It uses up a restart like any other."""
    machine = GroupMachine(1)

    assert play(
        machine, Event.BEGUN, Event.JOINED, Event.START_FAILED, Event.JOINED, Event.START_FAILED
    ) == [
        Step.JOIN,
        Step.START,
        Step.JOIN,
        Step.START,
        Finish(WorkerState.FAILED),
    ]


def test_a_signal_is_forwarded_and_ends_the_run() -> None:
    """However the workers then end, and whatever restarts are left."""
    assert play(running(3), SignalReceived(SIGINT), Event.FAILED) == [
        Stop(SIGINT),
        Finish(WorkerState.STOPPED, SIGINT),
    ]


def test_a_second_signal_kills() -> None:
    """The run still counts as ended by the first."""
    stimuli = (SignalReceived(SIGINT), SignalReceived(SIGTERM), Event.FAILED)

    assert play(running(), *stimuli) == [
        Stop(SIGINT),
        Step.KILL,
        Finish(WorkerState.STOPPED, SIGINT),
    ]


@pytest.mark.parametrize("stimuli", [[], [Event.BEGUN]])
def test_a_signal_before_the_start_ends_the_run_at_once(stimuli: list[Stimulus]) -> None:
    """No worker is there to be waited for."""
    machine = GroupMachine(1)
    play(machine, *stimuli)

    assert play(machine, SignalReceived(SIGTERM)) == [Finish(WorkerState.STOPPED, SIGTERM)]


@pytest.mark.parametrize(("signals", "number"), [([SIGINT], SIGINT), ([SIGINT, SIGTERM], SIGKILL)])
def test_a_signal_during_the_start_is_remembered(signals: list[int], number: int) -> None:
    """Workers just started are stopped at once; two signals kill them."""
    machine = GroupMachine(1)
    play(machine, Event.BEGUN, Event.JOINED, *(SignalReceived(signal) for signal in signals))

    assert play(machine, Event.STARTED) == [Step.WATCH, Stop(number)]


def test_a_signal_during_a_failing_start_ends_the_run() -> None:
    """Nothing is started again once the launcher was told to stop."""
    machine = GroupMachine(1)
    play(machine, Event.BEGUN, Event.JOINED, SignalReceived(SIGTERM))

    assert play(machine, Event.START_FAILED) == [Finish(WorkerState.STOPPED, SIGTERM)]


def test_a_late_signal_changes_nothing() -> None:
    """The run is over; how it ended stays."""
    machine = running()
    play(machine, Event.SUCCEEDED)

    assert play(machine, SignalReceived(SIGTERM)) == []
    assert machine.state is WorkerState.SUCCEEDED


class Life(RuleBasedStateMachine):
    """Any order of what can happen; the model is what an agent would have to carry out."""

    def __init__(self) -> None:
        super().__init__()
        self.joining = self.starting = self.watching = self.stopping = False
        self.starts = self.failures = 0
        self.signals: list[int] = []
        self.finished: Finish | None = None

    @initialize(max_restarts=st.integers(0, 3))
    def begin(self, max_restarts: int) -> None:
        self.machine = GroupMachine(max_restarts)
        self.carry_out(Event.BEGUN)

    def under_way(self) -> list[str]:
        """Return the activities of the agent that have not ended."""
        return [name for name in ("joining", "starting", "watching") if getattr(self, name)]

    def carry_out(self, stimulus: Stimulus) -> None:
        for instruction in self.machine.handle(stimulus):
            assert self.finished is None, "nothing follows the end"
            match instruction:
                case Step.JOIN:
                    assert self.under_way() == []
                    assert not self.signals, "nothing is started after a signal"
                    self.joining = True
                case Step.START:
                    assert self.under_way() == []
                    assert self.machine.restarts == self.failures
                    self.starting, self.starts = True, self.starts + 1
                case Step.WATCH:
                    assert self.under_way() == []
                    self.watching = True
                case Stop():
                    assert self.watching
                    assert not self.stopping
                    self.stopping = True
                case Step.KILL:
                    assert self.stopping
                case Finish():
                    assert self.under_way() in ([], ["joining"]), "workers may still run"
                    self.finished = instruction

    @precondition(lambda self: self.joining and self.finished is None)
    @rule()
    def joined(self) -> None:
        self.joining = False
        self.carry_out(Event.JOINED)

    @precondition(lambda self: self.starting)
    @rule(is_failed=st.booleans())
    def started(self, is_failed: bool) -> None:
        self.starting = False
        self.failures += is_failed
        self.carry_out(Event.START_FAILED if is_failed else Event.STARTED)

    @precondition(lambda self: self.watching)
    @rule(is_failed=st.booleans())
    def ended(self, is_failed: bool) -> None:
        self.watching = self.stopping = False
        self.failures += is_failed
        self.carry_out(Event.FAILED if is_failed else Event.SUCCEEDED)

    @rule(number=st.sampled_from([SIGINT, SIGTERM]))
    def signalled(self, number: int) -> None:
        if self.finished is None:
            self.signals.append(number)
        self.carry_out(SignalReceived(number))

    @invariant()
    def there_is_something_to_wait_for(self) -> None:
        """Either an activity is under way or the run is over."""
        if hasattr(self, "machine"):
            assert self.under_way() or self.finished is not None

    @invariant()
    def budget_is_kept(self) -> None:
        """Never more starts than one and the restarts allowed."""
        if hasattr(self, "machine"):
            assert self.starts <= 1 + self.machine.max_restarts
            assert self.machine.restarts <= self.machine.max_restarts

    @invariant()
    def outcome_is_told_truly(self) -> None:
        """A signal beats a failure beats success; the state outside says the same."""
        if self.finished is not None:
            first = self.signals[0] if self.signals else None

            assert self.finished.number == first
            assert (self.finished.state is WorkerState.STOPPED) == (first is not None)
            assert self.machine.state is self.finished.state
            assert self.machine.phase is Phase.DONE


TestLife = Life.TestCase
