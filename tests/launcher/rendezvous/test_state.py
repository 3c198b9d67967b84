"""`launcher.rendezvous.state`: what a record means to a node, and its form in the store."""

from __future__ import annotations

import math

import msgpack
import pytest

from launcher.errors import RendezvousStateError
from launcher.rendezvous.state import (
    NO_RANK,
    Action,
    End,
    Enter,
    Failure,
    GiveUp,
    Node,
    Over,
    Record,
    Renew,
    Seat,
    Stage,
    StandBy,
    Wait,
    decide,
    decode_node,
    decode_record,
    encode,
)

NODE = Node("me", "host", 7, "10.0.0.1", 1234, NO_RANK, Stage.READY, 3)
MINE = Seat("me", "host (agent 7)", "10.0.0.1", 1234)
OTHER = Seat("you", "host (agent 8)", "10.0.0.1", 1235)
FORMED = Record(revision=9, round=3, is_formed=True, seats=(OTHER, MINE))
FORMING = FORMED._replace(is_formed=False)


@pytest.mark.parametrize(
    ("record", "node", "expected"),
    [
        (Record(), NODE, Wait(10.0)),
        (FORMED, NODE, Enter(1)),
        (FORMED._replace(round=4), NODE, Enter(1)),  # it was late to hear of it
        (FORMED._replace(round=2), NODE, Wait(10.0)),  # the round it has just been in
        (FORMED._replace(seats=(OTHER,)), NODE, Wait(10.0)),
        (FORMED._replace(seats=(OTHER, OTHER)), NODE, StandBy()),
        (FORMING, NODE, Wait(10.0)),
        (FORMING._replace(round=4), NODE, Renew(4)),  # round 3 was over before it entered
        (FORMING._replace(round=4, seats=(OTHER,)), NODE, Wait(10.0)),
        (FORMED._replace(end=End.SUCCEEDED), NODE, Over(End.SUCCEEDED)),
        (FORMED._replace(end=End.FAILED), NODE, Over(End.FAILED)),
    ],
)
def test_a_node_does_what_the_record_says(record: Record, node: Node, expected: Action) -> None:
    """While it has time."""
    assert decide(record, node, 9.9, deadline=10.0, max_nodes=2) == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Record(), GiveUp()),
        (FORMED, Enter(1)),
        (FORMED._replace(seats=(OTHER, OTHER)), StandBy()),
        (FORMED._replace(end=End.CLOSED), Over(End.CLOSED)),
    ],
)
def test_a_node_gives_up_in_time(record: Record, expected: Action) -> None:
    """Unless it has a seat by then, or is a spare: that may take as long as the run."""
    assert decide(record, NODE, 10.0, deadline=10.0, max_nodes=2) == expected


@pytest.mark.parametrize("failure", [None, Failure("host", "x", 1, 3, math.inf)])
def test_a_record_survives_the_store(failure: Failure | None) -> None:
    """Every field comes back as it was, in its type."""
    record = FORMING._replace(lost=("a was lost",), failure=failure, reason="ä", end=End.FAILED)
    found = decode_record(encode(record))

    assert found == record
    assert isinstance(found.seats[0], Seat)
    assert isinstance(found.end, End)


def test_no_record_is_an_empty_one() -> None:
    """Nobody has written yet."""
    assert decode_record(b"") == Record()


def test_a_node_survives_the_store() -> None:
    """Every field comes back as it was, in its type."""
    node = NODE._replace(stage=Stage.FAILED, failure="x", exitcode=-9, restart_window=0.5)
    found = decode_node(encode(node))

    assert found == node
    assert isinstance(found.stage, Stage)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb("x"),
        msgpack.packb([1, 2]),
        msgpack.packb(list(NODE._replace(pid="x"))),  # type: ignore[arg-type] # wrong on purpose
        msgpack.packb(list(NODE._replace(stage=9))),  # type: ignore[arg-type] # wrong on purpose
        encode(NODE)[:-1],
    ],
)
def test_what_is_no_node_is_refused(data: bytes) -> None:
    """With the beginning of what was found."""
    with pytest.raises(RendezvousStateError, match="holds no node of this version"):
        decode_node(data)


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        encode(NODE),
        msgpack.packb(list(FORMED._replace(seats=((1, 2),)))),  # type: ignore[arg-type] # wrong
        msgpack.packb(list(FORMED._replace(end=9))),  # type: ignore[arg-type] # wrong on purpose
        msgpack.packb(list(FORMED._replace(failure=(1,)))),  # type: ignore[arg-type] # wrong
    ],
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    """With the beginning of what was found."""
    with pytest.raises(RendezvousStateError, match="holds no record of this version"):
        decode_record(data)
