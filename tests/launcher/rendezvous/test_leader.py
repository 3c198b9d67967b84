"""`launcher.rendezvous.leader`: when rounds are formed, of whom, and when they end."""

from __future__ import annotations

import math

import pytest

from launcher.rendezvous.leader import Leader, Plan, Terms, assign_seats
from launcher.rendezvous.state import NO_RANK, End, Node, Record, Seat, Stage


def terms(low: int = 1, high: int = 3, **others: float) -> Terms:
    """Return terms with spans that tell which one was used."""
    given: dict[str, float] = {"expect_nodes": high, "last_call": 30.0, "join_debounce": 0.3}
    return Terms(low, high, **{**given, **others})  # type: ignore[arg-type] # expect_nodes is an int


def node(name: str, number: int = 0, stage: Stage = Stage.READY, **fields: object) -> Node:
    """Return an announcement; its id is the name of its host."""
    made = Node(name, name, 1, name, 1000, NO_RANK, stage, number)
    return made._replace(**fields)  # type: ignore[arg-type] # fields of any type


def table(*nodes: Node) -> dict[str, Node]:
    """Return announcements by id."""
    return {node.id: node for node in nodes}


def names(record: Record) -> list[str]:
    """Return whose seats a record has, by rank."""
    return [seat.id for seat in record.seats]


def formed(*nodes: str, number: int = 0, **fields: object) -> Record:
    """Return the record of a round of some nodes."""
    seats = tuple(Seat(name, f"{name} (agent 1)", name, 1000) for name in nodes)
    record = Record(revision=1, round=number, is_formed=True, seats=seats)
    return record._replace(**fields)  # type: ignore[arg-type] # fields of any type


def settle(leader: Leader, record: Record, nodes: dict[str, Node], now: float = 0.0) -> Plan:
    """Ask until nothing is left to be written."""
    while (plan := leader.lead(record, nodes, now)).record is not record:
        record = plan.record
    return plan


def test_a_full_round_is_formed_at_once() -> None:
    """Nobody else could come."""
    plan = settle(Leader(terms(2, 2)), Record(), table(node("b"), node("a")))

    assert (names(plan.record), plan.record.is_formed) == (["a", "b"], True)


def test_the_first_round_waits_for_more() -> None:
    """From when there are enough, for the last call; fewer again, and it starts anew."""
    leader, record = Leader(terms()), Record()
    waiting = settle(leader, record, table(node("a")), 5.0)
    settle(leader, record, {}, 6.0)
    again = settle(leader, record, table(node("a")), 7.0)

    assert (waiting, again) == (Plan(record, 35.0), Plan(record, 37.0))
    assert settle(leader, record, table(node("a")), 37.0).record.is_formed


def test_too_few_are_not_enough() -> None:
    """However long it takes."""
    assert settle(Leader(terms(2)), Record(), table(node("a")), 1e6) == Plan(Record(), math.inf)


def test_the_expected_are_enough() -> None:
    """The last call ends with them."""
    plan = settle(Leader(terms(expect_nodes=2)), Record(), table(node("a"), node("b")))

    assert names(plan.record) == ["a", "b"]


def test_who_comes_first_gets_a_seat() -> None:
    """Of more than there are seats; who was given a rank comes before all others."""
    leader = Leader(terms(2, 2))
    nodes = table(node("c"), node("b"), node("a"), node("r", rank=1))

    assert names(settle(leader, Record(), nodes).record) == ["c", "r"]


def test_newcomers_end_a_round_when_no_more_come() -> None:
    """Each one lets the others wait a little more."""
    leader, record = Leader(terms()), formed("a")
    one = table(node("a"), node("b"))
    first = leader.lead(record, one, 1.0)
    ended = leader.lead(record, one, 1.3)

    assert first == Plan(record, 1.3)
    assert (ended.record.round, ended.record.is_formed) == (1, False)
    assert ended.record.reason == "b (agent 1) joined"
    assert leader.lead(record, {**one, **table(node("c"))}, 1.3).record.round == 1  # now it is full


@pytest.mark.parametrize("done", [False, True])
def test_newcomers_without_a_chance_change_nothing(done: bool) -> None:
    """There is no room, or a node is done already and would have to start again."""
    leader = Leader(terms(1, 2 if done else 1))
    stage = Stage.DONE if done else Stage.READY
    record = formed("a", "x") if done else formed("a")
    nodes = table(node("a", stage=stage), node("b"), *([node("x")] if done else []))

    assert settle(leader, record, nodes, 9.0) == Plan(record)


@pytest.mark.parametrize(("stage", "word"), [(None, "was lost"), (Stage.LEAVING, "left")])
def test_a_node_that_is_gone_ends_the_round(stage: Stage | None, word: str) -> None:
    """The next is formed when the others are ready for it: what they said before is old."""
    leader, record = Leader(terms()), formed("a", "b")
    gone = [] if stage is None else [node("b", stage=stage)]
    broken = settle(leader, record, table(node("a"), *gone)).record
    again = settle(leader, broken, table(node("a", 1), *gone)).record

    assert (broken.round, broken.is_formed, broken.lost) == (1, False, (f"b (agent 1) {word}",))
    assert (names(again), again.restarts, again.lost) == (["a"], 0, ())


def test_a_node_lost_later_is_named_too() -> None:
    """While the next round is being formed."""
    leader = Leader(terms(3, 3))
    record = settle(leader, formed("a", "b", "c"), table(node("a"), node("b"))).record
    record = settle(leader, record, table(node("a", 1))).record

    assert record.lost == ("c (agent 1) was lost", "b (agent 1) was lost")


def test_a_node_that_joins_anew_ends_the_round() -> None:
    """As an agent does that restarts its workers without a word."""
    plan = settle(Leader(terms(2, 2)), formed("a", "b"), table(node("a", 1), node("b")))

    assert (plan.record.round, plan.record.reason) == (1, "a (agent 1) asked for another round")


def failed(name: str, number: int = 0, limit: int = 1, window: float = math.inf) -> Node:
    """Return a node whose workers failed."""
    return node(
        name,
        number,
        Stage.FAILED,
        failure="rank 0 failed",
        exitcode=3,
        max_restarts=limit,
        restart_window=window,
    )


def test_a_failure_costs_a_restart_once_all_have_answered() -> None:
    """The count is written with the round that it made necessary."""
    leader, record = Leader(terms(2, 2)), formed("a", "b")
    broken = settle(leader, record, table(failed("a"), failed("b"))).record
    waiting = settle(leader, broken, table(node("a", 1), failed("b"))).record
    again = settle(leader, waiting, table(node("a", 1), node("b", 1))).record

    assert broken.reason == "rank 0 failed on a (agent 1)"
    assert (waiting.restarts, waiting.is_formed) == (0, False)
    assert (again.restarts, again.is_formed, again.failure) == (1, True, None)


def test_a_failure_after_a_loss_costs_nothing() -> None:
    """The loss may be noticed after the failure that it caused."""
    leader, record = Leader(terms(1, 2)), formed("a", "b")
    broken = settle(leader, record, table(failed("a", limit=0), node("b"))).record
    again = settle(leader, broken, table(node("a", 1))).record

    assert (again.restarts, names(again), again.end) == (0, ["a"], End.NOT_YET)


def test_a_failure_without_restarts_left_ends_the_run() -> None:
    """With the words and the status of what failed."""
    leader, record = Leader(terms()), formed("a", restarts=1)
    broken = settle(leader, record, table(failed("a"))).record
    over = settle(leader, broken, table(node("a", 1))).record

    assert (over.end, over.why, over.exitcode) == (
        End.FAILED,
        "rank 0 failed on a (agent 1)",
        3,
    )


def test_restarts_expire() -> None:
    """One outside the window no longer counts, except in the total."""
    leader, record = Leader(terms()), formed("a", restarts=1)
    leader.lead(record, table(node("a")), 0.0)
    broken = settle(leader, record, table(failed("a", window=10.0)), 10.0).record
    again = settle(leader, broken, table(node("a", 1)), 10.0).record

    assert (again.end, again.restarts) == (End.NOT_YET, 2)


def test_the_run_succeeds_when_all_are_done() -> None:
    """Who is done may go before the others are."""
    leader, record = Leader(terms()), formed("a", "b")
    one = settle(leader, record, table(node("a", stage=Stage.DONE), node("b")))
    two = settle(leader, record, table(node("b", stage=Stage.DONE)))

    assert one == Plan(record)
    assert two.record.end is End.SUCCEEDED
    assert settle(leader, two.record, {}) == Plan(two.record)


@pytest.mark.parametrize(
    ("nodes", "before", "expected"),
    [
        (["node10", "node9", "node2"], [], ["node2", "node9", "node10"]),
        (["a", "b", "c"], ["c", "a", "b"], ["c", "a", "b"]),
        (["a", "c", "z"], ["a", "b", "c"], ["a", "z", "c"]),  # z takes the place of b
        (["a", "c"], ["a", "b", "c"], ["a", "c"]),
        (["b", "c"], ["a", "b", "c"], ["c", "b"]),  # b keeps its rank
        (["a", "b=0", "c=5"], [], ["b=0", "a", "c=5"]),  # 5 does not exist
        (["a=1", "b=1", "c"], [], ["b=1", "a=1", "c"]),  # one of two can have it
        (["a", "b=0"], ["a", "b=0"], ["b=0", "a"]),  # what was asked for beats what was
    ],
)
def test_ranks_are_kept_and_given_as_asked(
    nodes: list[str], before: list[str], expected: list[str]
) -> None:
    """`name=rank` asks for a rank; they are dense whatever is asked for."""
    made = [node(name, rank=int(name.partition("=")[2] or NO_RANK)) for name in nodes]
    seats = assign_seats(made, formed(*before).seats)

    assert [seat.id for seat in seats] == expected
