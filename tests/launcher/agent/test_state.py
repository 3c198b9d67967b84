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
    Over,
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


def running() -> GroupMachine:
    """Return a machine whose workers run."""
    machine = GroupMachine()
    play(machine, Event.BEGUN, Event.JOINED, Event.STARTED)
    return machine


def test_a_run_joins_starts_watches_and_succeeds() -> None:
    """The straight way."""
    machine = GroupMachine()

    assert play(machine, Event.BEGUN, Event.JOINED, Event.STARTED, Event.SUCCEEDED, Over(True)) == [
        Step.JOIN,
        Step.START,
        Step.WATCH,
        Step.REPORT,
        Finish(WorkerState.SUCCEEDED),
    ]


def test_states_follow_the_phases() -> None:
    """From outside: INIT until the workers run, then how they are, then how it ended."""
    machine = GroupMachine()
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
    assert [state for state in WorkerState if WorkerState.is_running(state)] == [
        WorkerState.HEALTHY,
        WorkerState.UNHEALTHY,
    ]


def test_the_nodes_decide_whether_a_failure_ends_the_run() -> None:
    """It is reported, and nothing happens before all have agreed."""
    assert play(running(), Event.FAILED) == [Step.REPORT]
    assert play(running(), Event.FAILED, Over(False)) == [Step.REPORT, Finish(WorkerState.FAILED)]
    assert play(running(), Event.FAILED, Event.CHANGED) == [Step.REPORT, Step.JOIN]


def test_a_failed_start_is_a_failure() -> None:
    """It is reported like any other."""
    machine = GroupMachine()
    play(machine, Event.BEGUN, Event.JOINED)

    assert play(machine, Event.START_FAILED, Event.CHANGED, Event.JOINED) == [
        Step.REPORT,
        Step.JOIN,
        Step.START,
    ]


@pytest.mark.parametrize("ended", [Event.FAILED, Event.SUCCEEDED])
def test_a_round_that_is_over_stops_the_workers_for_the_next(ended: Event) -> None:
    """However they end then, it is not reported: the round was over before."""
    machine = running()

    assert play(machine, Event.CHANGED) == [Stop(SIGTERM)]
    assert machine.state is WorkerState.UNHEALTHY
    assert play(machine, ended, Event.JOINED, Event.STARTED) == [
        Step.JOIN,
        Step.START,
        Step.WATCH,
    ]


def test_a_run_that_is_over_stops_the_workers_for_good() -> None:
    """Another node failed, or ended it."""
    assert play(running(), Over(False), Event.FAILED) == [
        Stop(SIGTERM),
        Finish(WorkerState.FAILED),
    ]


def test_a_round_that_is_over_while_workers_start_stops_them_once_started() -> None:
    """If they do not start at all, there is nothing to stop."""
    machine, failing = GroupMachine(), GroupMachine()
    play(machine, Event.BEGUN, Event.JOINED, Event.CHANGED)
    play(failing, Event.BEGUN, Event.JOINED, Event.CHANGED)

    assert play(machine, Event.STARTED) == [Step.WATCH, Stop(SIGTERM)]
    assert play(failing, Event.START_FAILED) == [Step.JOIN]


def test_a_run_that_was_over_before_this_node_came_ends_it() -> None:
    """Nothing is ever started."""
    assert play(GroupMachine(), Event.BEGUN, Over(True)) == [
        Step.JOIN,
        Finish(WorkerState.SUCCEEDED),
    ]


def test_a_signal_while_workers_stop_for_the_next_round_ends_the_run() -> None:
    """They have a signal already; a second one to us kills them."""
    machine = running()
    play(machine, Event.CHANGED)

    assert play(machine, SignalReceived(SIGINT)) == [Step.LEAVE]
    assert play(machine, SignalReceived(SIGINT)) == [Step.KILL]
    assert play(machine, Event.FAILED) == [Finish(WorkerState.STOPPED, SIGINT)]


def test_a_signal_while_the_others_are_waited_for_ends_the_run() -> None:
    """Whatever they would have said."""
    machine = running()
    play(machine, Event.SUCCEEDED)

    assert play(machine, SignalReceived(SIGTERM)) == [Finish(WorkerState.STOPPED, SIGTERM)]


def test_a_signal_is_forwarded_and_ends_the_run() -> None:
    """However the workers then end, and whatever restarts are left."""
    assert play(running(), SignalReceived(SIGINT), Event.FAILED) == [
        Step.LEAVE,
        Stop(SIGINT),
        Finish(WorkerState.STOPPED, SIGINT),
    ]


def test_a_second_signal_kills() -> None:
    """The run still counts as ended by the first."""
    stimuli = (SignalReceived(SIGINT), SignalReceived(SIGTERM), Event.FAILED)

    assert play(running(), *stimuli) == [
        Step.LEAVE,
        Stop(SIGINT),
        Step.KILL,
        Finish(WorkerState.STOPPED, SIGINT),
    ]


@pytest.mark.parametrize("stimuli", [[], [Event.BEGUN]])
def test_a_signal_before_the_start_ends_the_run_at_once(stimuli: list[Stimulus]) -> None:
    """No worker is there to be waited for."""
    machine = GroupMachine()
    play(machine, *stimuli)

    assert play(machine, SignalReceived(SIGTERM)) == [Finish(WorkerState.STOPPED, SIGTERM)]


@pytest.mark.parametrize(("signals", "number"), [([SIGINT], SIGINT), ([SIGINT, SIGTERM], SIGKILL)])
def test_a_signal_during_the_start_is_remembered(signals: list[int], number: int) -> None:
    """Workers just started are stopped at once; two signals kill them."""
    machine = GroupMachine()
    play(machine, Event.BEGUN, Event.JOINED, *(SignalReceived(signal) for signal in signals))

    assert play(machine, Event.STARTED) == [Step.WATCH, Stop(number)]


def test_a_signal_during_a_failing_start_ends_the_run() -> None:
    """Nothing is started again once the launcher was told to stop."""
    machine = GroupMachine()
    play(machine, Event.BEGUN, Event.JOINED, SignalReceived(SIGTERM))

    assert play(machine, Event.START_FAILED) == [Finish(WorkerState.STOPPED, SIGTERM)]


def test_a_late_signal_changes_nothing() -> None:
    """The run is over; how it ended stays."""
    machine = running()
    play(machine, Event.SUCCEEDED, Over(True))

    assert play(machine, SignalReceived(SIGTERM)) == []
    assert machine.state is WorkerState.SUCCEEDED


class Life(RuleBasedStateMachine):
    """Any order of what can happen; the model is what an agent would have to carry out."""

    def __init__(self) -> None:
        super().__init__()
        self.joining = self.starting = self.watching = self.stopping = False
        self.following = False  # whether what the nodes agree on is still to come
        self.over: Over | None = None
        self.signals: list[int] = []
        self.finished: Finish | None = None

    @initialize()
    def begin(self) -> None:
        self.machine = GroupMachine()
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
                    assert not self.following, "the round before is not over"
                    assert not self.signals, "nothing is started after a signal"
                    assert self.over is None, "nothing is started after the end of the run"
                    self.joining = True
                case Step.START:
                    assert self.under_way() == []
                    self.starting = self.following = True
                case Step.WATCH:
                    assert self.under_way() == []
                    self.watching = True
                case Step.REPORT:
                    assert self.under_way() == []
                    assert self.following, "what is reported is asked for"
                case Step.LEAVE:
                    assert len(self.signals) == 1
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
    @rule(over=st.sampled_from([None, None, None, Over(True)]))
    def joined(self, over: Over | None) -> None:
        self.joining = False
        self.over = over
        self.carry_out(over or Event.JOINED)

    @precondition(lambda self: self.starting)
    @rule(is_failed=st.booleans())
    def started(self, is_failed: bool) -> None:
        self.starting = False
        self.carry_out(Event.START_FAILED if is_failed else Event.STARTED)

    @precondition(lambda self: self.watching)
    @rule(is_failed=st.booleans())
    def ended(self, is_failed: bool) -> None:
        self.watching = self.stopping = False
        self.carry_out(Event.FAILED if is_failed else Event.SUCCEEDED)

    @precondition(lambda self: self.following and self.finished is None)
    @rule(verdict=st.sampled_from([Event.CHANGED, Over(True), Over(False)]))
    def decided(self, verdict: Event | Over) -> None:
        self.following = False
        if isinstance(verdict, Over):
            self.over = verdict
        self.carry_out(verdict)

    @rule(number=st.sampled_from([SIGINT, SIGTERM]))
    def signalled(self, number: int) -> None:
        if self.finished is None:
            self.signals.append(number)
        self.carry_out(SignalReceived(number))

    @invariant()
    def there_is_something_to_wait_for(self) -> None:
        """Something is under way, or the nodes have not agreed, or the run is over."""
        if hasattr(self, "machine"):
            assert self.under_way() or self.following or self.finished is not None

    @invariant()
    def outcome_is_told_truly(self) -> None:
        """A signal beats what the nodes agreed on; the state outside says the same."""
        if self.finished is not None:
            first = self.signals[0] if self.signals else None
            is_success = self.finished.state is WorkerState.SUCCEEDED

            assert self.finished.number == first
            assert (self.finished.state is WorkerState.STOPPED) == (first is not None)
            assert first is not None or (self.over is not None and self.over[0] == is_success)
            assert self.machine.state is self.finished.state
            assert self.machine.phase is Phase.DONE


TestLife = Life.TestCase
