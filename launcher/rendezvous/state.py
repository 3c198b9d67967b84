"""What the agents of a run agree on, and what it means for one of them.

Pure: values, their form in the store, and `decide`. No clock, no I/O; `leader` says what the next
record is, `dynamic` carries both out.

Theory of operation
-------------------
Every agent announces itself, as a `Node`, under a key of its own that hangs on its lease: it is
there exactly while the agent lives. One of them at a time is the leader. It alone looks at all
announcements, and writes what follows from them into the one `Record`, by compare-and-set, so that
two who both believe to lead cannot both be right. All others follow the record. Nothing is decided
twice, nobody compares clocks of different hosts, and a thousand agents that join at once cost a
thousand writes, not a million.

The record counts rounds. A round is formed once: its seats, which are its ranks, never change
afterwards. Whatever changes opens the next one.
"""

from __future__ import annotations

import enum
import math
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from launcher.errors import RendezvousStateError

__all__ = (
    "NO_RANK",
    "Action",
    "End",
    "Enter",
    "Failure",
    "GiveUp",
    "Node",
    "Over",
    "Record",
    "Renew",
    "Seat",
    "Stage",
    "StandBy",
    "Wait",
    "decide",
    "decode_node",
    "decode_record",
    "encode",
)

NO_RANK = -1


class Stage(enum.IntEnum):
    """Where an agent stands with its rounds."""

    READY = 0
    """It can enter the round it names, and later ones; or has entered it."""
    FAILED = 1
    """Workers of the round it names failed here, and none of its workers runs."""
    DONE = 2
    """Its workers of the round it names have all succeeded."""
    LEAVING = 3
    """It takes part no more, and goes."""


class Node(NamedTuple):
    """What an agent announces of itself."""

    id: str
    """Random, of this agent's life."""
    name: str
    """Of its host, for people and for the order of ranks."""
    pid: int
    address: str
    """Where the others reach its host."""
    port: int
    """Free on its host for rank 0 of the round it is ready for."""
    rank: int
    """The rank its user asks for, or `NO_RANK`."""
    stage: Stage
    round: int
    """Which round the stage is about, from 0."""
    failure: str = ""
    """What failed, for people; "" unless FAILED."""
    exitcode: int = 0
    """Exit status of what failed."""
    max_restarts: int = 0
    """Restarts that this agent's user allows the run, when FAILED."""
    restart_window: float = math.inf
    """Seconds after which a restart no longer counts, when FAILED."""

    @property
    def label(self) -> str:
        """The node in messages; several agents of one host differ."""
        return f"{self.name} (agent {self.pid})"


class Seat(NamedTuple):
    """A place in a round; its index is the rank."""

    id: str
    """Of the node that has it."""
    label: str
    address: str
    port: int


class Failure(NamedTuple):
    """Why a round ended, if workers failed in it."""

    node: str
    """Label of the node they failed on."""
    text: str
    exitcode: int
    max_restarts: int
    restart_window: float


class End(enum.IntEnum):
    """Whether and how the run is over."""

    NOT_YET = 0
    SUCCEEDED = 1
    FAILED = 2
    CLOSED = 3
    """An agent ended it."""


class Record(NamedTuple):
    """What the agents of a run agree on."""

    revision: int = 0
    """Counts the writes of it."""
    round: int = 0
    """The round that is formed, or being formed."""
    is_formed: bool = False
    seats: tuple[Seat, ...] = ()
    """Of the round by rank; while it is being formed, of the one before it."""
    restarts: int = 0
    """Restarts of the run because of failures so far."""
    lost: tuple[str, ...] = ()
    """Who had a seat in the last round that was formed and is gone, for people."""
    failure: Failure | None = None
    """While a round is being formed: the failure that ended the one before, if one did."""
    reason: str = ""
    """Why the round before this one ended, for people."""
    end: End = End.NOT_YET
    why: str = ""
    """Why it is over, for people; "" unless it is and did not succeed."""
    exitcode: int = 0
    """Exit status of what failed; 0 unless FAILED."""
    moved: str = ""
    """Where the run's store is now, host and port, if not here: this record is its last one."""

    def rank_of(self, node_id: str) -> int:
        """Return the seat a node has, or `NO_RANK`."""
        return next((rank for rank, seat in enumerate(self.seats) if seat.id == node_id), NO_RANK)


class Enter(NamedTuple):
    """The round is formed, and the node has a seat."""

    rank: int


class Wait(NamedTuple):
    """Look again when the record changes, or it is that late."""

    until: float


class StandBy(NamedTuple):
    """The round is formed and full without the node: wait for a place, however long."""


class GiveUp(NamedTuple):
    """The node has waited for long enough."""


class Renew(NamedTuple):
    """The round that the node had a seat in was over before it entered: it says so anew."""

    round: int
    """That it is to be ready for."""


class Over(NamedTuple):
    """The run is over."""

    end: End


Action = Enter | Wait | StandBy | GiveUp | Renew | Over
"""What a node that wants to enter a round is to do."""


def decide(record: Record, node: Node, now: float, *, deadline: float, max_nodes: int) -> Action:
    """Say what a node that wants to enter a round is to do.

    Args:
        record: as it is now.
        node: what it has announced; READY for the first round it would enter.
        now: time on the clock of `deadline`.
        deadline: until when it waits.
        max_nodes: nodes of a round at most.

    Returns:
        What to do.
    """
    if record.end is not End.NOT_YET:
        return Over(record.end)
    rank = record.rank_of(node.id)
    if record.is_formed and record.round >= node.round:
        if rank != NO_RANK:
            return Enter(rank)
        if len(record.seats) >= max_nodes:
            return StandBy()
    elif rank != NO_RANK and node.round < record.round:
        return Renew(record.round)
    return Wait(deadline) if now < deadline else GiveUp()


def encode(value: Node | Record) -> bytes:
    """Return the form of a value in the store, msgpack."""
    packed: bytes = msgpack.packb(value)
    return packed


def decode_node(data: bytes) -> Node:
    """Read what an agent announced.

    Raises:
        RendezvousStateError: it is none; says what was found.
    """
    fields = _fields(data, Node)
    try:
        return Node(*fields)._replace(stage=Stage(fields[Node._fields.index("stage")]))
    except (TypeError, ValueError) as error:
        raise _broken(Node, data) from error


@lru_cache(maxsize=2)  # many agents in one process read the same, which is as long as they are many
def decode_record(data: bytes) -> Record:
    """Read the record.

    Args:
        data: as stored; empty if there is none yet.

    Raises:
        RendezvousStateError: it is none; says what was found.
    """
    if not data:
        return Record()
    try:
        record = Record(*_fields(data, Record))
        failure = None if record.failure is None else Failure(*record.failure)
        return record._replace(
            seats=tuple(Seat(*seat) for seat in record.seats),
            lost=tuple(record.lost),
            failure=failure,
            end=End(record.end),
        )
    except (TypeError, ValueError) as error:
        raise _broken(Record, data) from error


def _fields(data: bytes, kind: type[Node | Record]) -> list[Any]:
    """Unpack as many values as the kind has, each of the type that its fields have."""
    try:
        fields: Any = msgpack.unpackb(data)
    except ValueError as error:  # of msgpack's own, and of UTF-8
        raise _broken(kind, data) from error
    expected = _TYPES[kind]
    is_sound = (
        isinstance(fields, list)
        and len(fields) == len(expected)
        and all(isinstance(value, types) for value, types in zip(fields, expected, strict=True))
    )
    if not is_sound:
        raise _broken(kind, data)
    return list(fields)


_TYPES: dict[type[Node | Record], tuple[type | tuple[type, ...], ...]] = {
    Node: (str, str, int, str, int, int, int, int, str, int, int, (int, float)),
    Record: (int, int, bool, list, int, list, (list, type(None)), str, int, str, int, str),
}


def _broken(kind: type[Node | Record], data: bytes) -> RendezvousStateError:
    return RendezvousStateError(
        f"the store holds no {kind.__name__.lower()} of this version of the launcher: {data[:64]!r}"
    )
