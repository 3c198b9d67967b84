"""A plan of faults is refused where it makes no sense, and decides the same in every run."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.faults import Fault, FaultEvent, FaultPlan, parse_plan
from asyncrpc.faults.plan import KINDS, REFERENCE_NAMES
from asyncrpc.wire import MessageType

KEYS = st.tuples(
    st.sampled_from(["worker0", "worker1"]),
    st.sampled_from(["out", "in"]),
    st.sampled_from(["worker1", "worker2"]),
    st.sampled_from(["PYTHON_CALL", "PYTHON_RET", "DRAIN"]),
)
RULES = st.lists(
    st.builds(
        Fault,
        st.sampled_from(KINDS),
        message=st.sampled_from([None, "PYTHON_CALL", "PYTHON_RET"]),
        peer=st.sampled_from([None, "worker1"]),
        direction=st.sampled_from(["out", "in"]),
        times=st.none() | st.integers(0, 3),
        probability=st.floats(0, 1),
        delay=st.floats(0, 10),
    ),
    max_size=4,
)


def kinds(plan: FaultPlan, count: int, **changes: Any) -> list[str | None]:
    """Ask for ``count`` messages; return what is done to each."""
    given_: dict[str, Any] = {"direction": "out", "peer": "b", "message": "PYTHON_CALL", **changes}
    asked = [plan.decide("a", call_id=n, identity=(n,), **given_) for n in range(count)]
    return [None if event is None else event.kind for event in asked]


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("kind", "explode", "kind must be one of fail, drop, .*, got 'explode'"),
        ("message", "NOPE", r"No mapping to rpc::MessageType exists for NOPE: .*PYTHON_CALL"),
        ("message", 3, r"No mapping to rpc::MessageType exists for 3: message must be one of"),
        ("peer", "", "peer must be a worker's name or None, got ''"),
        ("direction", "up", "direction must be one of out, in, got 'up'"),
        ("times", -1, "times should be non-negative, got -1"),
        ("times", 1.5, r"times must be an int, got 1\.5"),
        ("times", True, "times must be an int, got True"),
        ("probability", 1.01, r"probability must be a number from 0 to 1, got 1\.01"),
        ("probability", float("nan"), "probability must be a number from 0 to 1, got nan"),
        ("delay", -0.5, r"delay must be non-negative.*got -0\.5"),
        ("delay", float("inf"), "delay must be a finite number of seconds, got inf"),
        ("delay", "1", "delay must be a finite number of seconds, got '1'"),
    ],
)
def test_bad_fault(field: str, value: Any, text: str) -> None:
    """A value that makes no sense is refused by field, value and rule."""
    with pytest.raises(ValueError, match=f"^{text}"):
        Fault(**{"kind": "drop", field: value})


@pytest.mark.parametrize("rules", [[1], ["fail"], [None], 3])
def test_bad_rules(rules: Any) -> None:
    """Only Faults are rules."""
    with pytest.raises(ValueError, match=r"^rules must be Fault objects"):
        FaultPlan(rules)


def test_bad_seed() -> None:
    """A seed is an int."""
    with pytest.raises(ValueError, match=r"^seed must be an int"):
        FaultPlan([], seed="x")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("name", MessageType.__members__)
def test_every_type_can_be_named(name: str) -> None:
    """A rule may name any message type, replies too."""
    assert [name] == [Fault("drop", name).message]


def test_frozen() -> None:
    """A rule does not change."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Fault("drop").times = 3  # type: ignore[misc]  # on purpose


@pytest.mark.parametrize("name", REFERENCE_NAMES)
def test_reference_names(name: str) -> None:
    """The reference's ten names are taken for failing and for delaying."""
    plan = FaultPlan.from_messages([name], {name: 1.5}, 3)

    assert (3, 1.5) == (plan.rules[0].times, plan.rules[1].delay)


@pytest.mark.parametrize("name", ["PYTHON_RET", "RREF_ACK", "CANCEL", "nope", ""])
def test_other_names_refused(name: str) -> None:
    """A name outside the ten is refused, with those that are taken."""
    text = f"^No mapping to rpc::MessageType exists for {name}: .*RREF_USER_DELETE"
    with pytest.raises(ValueError, match=text):
        FaultPlan.from_messages([name], {}, 1)
    with pytest.raises(ValueError, match=text):
        FaultPlan.from_messages([], {name: 1}, 1)


def test_bad_numbers_of_the_reference() -> None:
    """Negative counts and delays are refused in the reference's words."""
    with pytest.raises(ValueError, match=r"^num_fail_sends should be non-negative, got -1"):
        FaultPlan.from_messages([], {}, -1)
    with pytest.raises(ValueError, match="must be non-negative"):
        FaultPlan.from_messages([], {"PYTHON_CALL": -0.1}, 0)
    with pytest.raises(ValueError, match="must be names"):
        FaultPlan.from_messages("PYTHON_CALL", {}, 0)


def test_times_and_order_of_rules() -> None:
    """A rule acts as often as it says, and the first that acts is the only one."""
    plan = FaultPlan([Fault("fail", times=2), Fault("drop", times=1), Fault("delay", peer="c")])
    done = kinds(plan, 5)

    assert ["fail", "fail", "drop", None, None] == done
    assert [0, 1, 2] == [event.seq for event in plan.events]


def test_keys_are_apart() -> None:
    """Counts of one worker, direction, peer or type do not touch those of another."""
    plan = FaultPlan([Fault("fail", times=1), Fault("drop", direction="in", times=1)])
    first = [
        kinds(plan, 2),
        kinds(plan, 2, peer="c"),
        kinds(plan, 2, message="PYTHON_RET"),
        kinds(plan, 2, direction="in"),
    ]

    assert [["fail", None], ["fail", None], ["fail", None], ["drop", None]] == first


def test_sends_of_each_message() -> None:
    """Of each message the first sends fail, and a new message starts anew."""
    plan = FaultPlan.from_messages(["PYTHON_CALL"], {}, 2)

    def send(message: int) -> bool:
        return plan.decide(
            "a", "out", "b", "PYTHON_CALL", call_id=message, identity=(message,)
        ) is not None  # fmt: skip

    sends = [send(1), send(2), send(1), send(1), send(2), send(2), send(3), send(1)]

    assert [True, True, True, False, True, False, True, False] == sends


def test_upkeep_is_named_or_left_alone() -> None:
    """A rule without a message leaves the group's own messages alone; one with it does not."""
    wild = FaultPlan([Fault("drop")])
    named = FaultPlan([Fault("drop", message="DRAIN")])

    assert [None] == kinds(wild, 1, message="DRAIN")
    assert ["drop"] == kinds(named, 1, message="DRAIN")


def test_event() -> None:
    """The log holds all there is to say of a fault; numbers of calls are not compared."""
    plan = FaultPlan([Fault("delay", delay=0.5)])
    event = plan.decide("a", "out", "b", "PYTHON_CALL", call_id=7)
    expected = FaultEvent(
        seq=0, kind="delay", message="PYTHON_CALL", peer="b", direction="out", call_id=8,
        delay=0.5, worker="a",
    )  # fmt: skip

    assert [expected] == plan.events == [event]
    assert 7 == plan.events[0].call_id


@given(RULES, st.integers(), st.lists(KEYS, max_size=60), st.randoms())
def test_same_log_for_every_key(rules: list[Fault], seed: int, keys: list[Any], order: Any) -> None:
    """However messages of different keys interleave, the log of each key is the same."""

    def logs(sequence: list[Any]) -> dict[Any, list[FaultEvent]]:
        plan = FaultPlan(rules, seed)
        for n, key in enumerate(sequence):
            plan.decide(*key, call_id=n)
        found: dict[Any, list[FaultEvent]] = {}
        for event in plan.events:
            key = (event.worker, event.direction, event.peer, event.message)
            found.setdefault(key, []).append(event)
        return found

    shuffled = list(keys)
    order.shuffle(shuffled)

    assert logs(keys) == logs(shuffled)


def test_probability() -> None:
    """About as many messages are hit as the probability says, others with another seed."""
    first = kinds(FaultPlan([Fault("drop", probability=0.1)], seed=1), 2000)
    again = kinds(FaultPlan([Fault("drop", probability=0.1)], seed=1), 2000)
    other = kinds(FaultPlan([Fault("drop", probability=0.1)], seed=2), 2000)

    assert first == again
    assert first != other
    assert 150 < first.count("drop") < 250


def test_travels() -> None:
    """A plan can be sent to another process, counts included."""
    plan = FaultPlan([Fault("fail", times=1)], seed=3)
    kinds(plan, 1)
    copy = pickle.loads(pickle.dumps(plan))

    assert (plan.rules, 3, plan.events) == (copy.rules, copy.seed, copy.events)
    assert [None] == kinds(copy, 1)


def test_text() -> None:
    """A line of text makes the same plan as Python does."""
    plan = parse_plan(
        "seed=7; PYTHON_CALL: fail=3; *: delay=0.02@10%; PYTHON_RET<worker1: drop@5%;"
        "*>w:2 : duplicate; REPLY_ACK<:reorder = 0.5 @ 50 % ;"
    )

    assert 7 == plan.seed
    assert (
        Fault("fail", "PYTHON_CALL", times=3),
        Fault("delay", delay=0.02, probability=0.1),
        Fault("drop", "PYTHON_RET", "worker1", "in", probability=0.05),
        Fault("duplicate", peer="w:2"),
        Fault("reorder", "REPLY_ACK", direction="in", delay=0.5, probability=0.5),
    ) == plan.rules


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("seed=x", "invalid literal"),
        ("fail", "must read"),
        ("PYTHON_CALL: boom", "kind must be one of"),
        ("NOPE: fail", "No mapping to rpc::MessageType exists for NOPE"),
        ("*: fail=-1", "times should be non-negative"),
        ("*: delay=-1", "delay must be non-negative"),
        ("*: drop@200%", "probability must be"),
    ],
)
def test_bad_text(text: str, why: str) -> None:
    """A text that cannot be read is refused, with the item at fault."""
    with pytest.raises(ValueError, match=f"^fault plan item '.*{why}"):
        parse_plan(text)


def test_a_type_of_message_stands_for_its_name() -> None:
    """A rule takes both, as `make_message` does."""
    rule = Fault("drop", message=MessageType.PYTHON_CALL)

    assert Fault("drop", message="PYTHON_CALL") == rule
    assert "PYTHON_CALL" == rule.message
