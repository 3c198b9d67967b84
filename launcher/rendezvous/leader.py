"""What the leader of a run writes: when a round is formed, of whom, when it ends, when all is over.

Pure: `Leader.lead` takes the record, all announcements and the time, and returns the next record.
It remembers only when it saw what, on the leader's own monotonic clock: a new leader starts these
spans anew. Called by `dynamic`.

Theory of operation
-------------------
While a round runs, it is ended by the first of: a node that is gone, a node whose workers failed,
a node that wants another round, newcomers if there is room. Then the next one is being formed.

It is formed when every node of the round before that still lives is ready for it, and there are
`min_nodes`; only the first round waits for more, the last call. So a node that has died without
notice is waited for until its lease lapses, and it is known then whether workers failed by
themselves or because a peer had died: only the former costs a restart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from launcher.rendezvous.state import NO_RANK, End, Failure, Node, Record, Seat, Stage

__all__ = ("Leader", "Plan", "Terms", "assign_seats", "move")


class Terms(NamedTuple):
    """What the user allows and wants."""

    min_nodes: int
    max_nodes: int
    expect_nodes: int
    """Nodes whose presence ends the last call; `max_nodes` if nothing else was said."""
    last_call: float
    """Seconds that the first round waits for more nodes than it needs."""
    join_debounce: float
    """Seconds without a newcomer before newcomers end a round."""


class Plan(NamedTuple):
    """What is to be written, and when to ask again if nothing happens."""

    record: Record
    """The same object if nothing is to be written."""
    wake_at: float = math.inf


class Leader:
    """Decides for all nodes of a run.

    Args:
        terms: of the run.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._seen: dict[str, float] = {}  # nodes by id, in the order they came, and when
        self._left: set[str] = set()  # ids of nodes that said they were leaving
        self._done: set[str] = set()  # ids of nodes that are done with the round that is formed
        self._restarted: list[float] = []  # when each counted restart was seen
        self._enough_since: float | None = None  # since when there are `min_nodes`, first round

    def lead(self, record: Record, nodes: Mapping[str, Node], now: float) -> Plan:
        """Say what the record is to be.

        Args:
            record: as it is.
            nodes: every announcement there is, by the node's id.
            now: the leader's monotonic clock.

        Returns:
            The next record; to be written by compare-and-set, then ask again.
        """
        self._observe(record, nodes, now)
        if record.end is not End.NOT_YET or record.moved:
            return Plan(record)
        if record.is_formed:
            return self._running(record, nodes, now)
        return self._forming(record, nodes, now)

    def _observe(self, record: Record, nodes: Mapping[str, Node], now: float) -> None:
        for gone in self._seen.keys() - nodes.keys():
            del self._seen[gone]
        for node in nodes.values():
            self._seen.setdefault(node.id, now)
            if node.stage is Stage.LEAVING:
                self._left.add(node.id)
        if record.is_formed:
            self._done |= {n.id for n in nodes.values() if _is(n, Stage.DONE, record.round)}
        else:
            self._done.clear()
        while len(self._restarted) < record.restarts:
            self._restarted.append(now)

    # While a round runs

    def _running(self, record: Record, nodes: Mapping[str, Node], now: float) -> Plan:
        if all(seat.id in self._done for seat in record.seats):
            return Plan(record._replace(end=End.SUCCEEDED))
        present, absent = _sort(record.seats, nodes)
        gone = [seat for seat in absent if seat.id not in self._done]
        if gone:
            lost = self._labels(gone)
            return Plan(_open(record, ", ".join(lost), lost=lost))
        for node in present:
            if _is(node, Stage.FAILED, record.round):
                return Plan(_open(record, f"{node.failure} on {node.label}", failure=_of(node)))
            if node.stage is Stage.READY and node.round > record.round:
                return Plan(_open(record, f"{node.label} asked for another round"))
        return self._admit(record, nodes, now)

    def _admit(self, record: Record, nodes: Mapping[str, Node], now: float) -> Plan:
        """Let newcomers end the round, once nobody else has come for a while."""
        newcomers = [
            node
            for node in nodes.values()
            if node.stage is Stage.READY and record.rank_of(node.id) == NO_RANK
        ]
        room = self._terms.max_nodes - len(record.seats)
        if not newcomers or room <= 0 or self._done:  # who is done would have to start again
            return Plan(record)
        last = max(self._seen[node.id] for node in newcomers)
        due = now if len(newcomers) >= room else last + self._terms.join_debounce
        if now < due:
            return Plan(record, wake_at=due)
        return Plan(_open(record, f"{', '.join(node.label for node in newcomers)} joined"))

    # While a round is being formed

    def _forming(self, record: Record, nodes: Mapping[str, Node], now: float) -> Plan:
        present, absent = _sort(record.seats, nodes)
        lost = self._labels(seat for seat in absent if not _is_told(seat, record.lost))
        if lost:  # told at once: those who wait in vain will say whom they miss
            return Plan(record._replace(lost=(*record.lost, *lost)))
        if any(not _can_enter(node, record) for node in present):
            return Plan(record)  # they are stopping their workers
        is_charged = record.failure is not None and not record.lost
        if is_charged and (over := self._over_budget(record, now)) is not None:
            return Plan(over)
        ready = [node for node in nodes.values() if _can_enter(node, record)]
        wake_at = self._last_call(record, len(ready), now)
        if now < wake_at:
            return Plan(record, wake_at=wake_at)
        chosen = self._choose(record, ready)
        return Plan(
            record._replace(
                is_formed=True,
                seats=assign_seats(chosen, record.seats),
                restarts=record.restarts + is_charged,
                lost=(),
                failure=None,
            )
        )

    def _over_budget(self, record: Record, now: float) -> Record | None:
        """Return the end of a run whose restarts are used up."""
        failure = record.failure
        assert failure is not None
        spent = sum(now - at < failure.restart_window for at in self._restarted)
        if spent < failure.max_restarts:
            return None
        return record._replace(
            end=End.FAILED, why=f"{failure.text} on {failure.node}", exitcode=failure.exitcode
        )

    def _last_call(self, record: Record, ready: int, now: float) -> float:
        """Return when a round of those who are ready may be formed, infinity while too few are."""
        terms = self._terms
        if ready < terms.min_nodes:
            self._enough_since = None
            return math.inf
        if record.round > 0 or ready >= min(terms.expect_nodes, terms.max_nodes):
            return now
        if self._enough_since is None:
            self._enough_since = now
        return self._enough_since + terms.last_call

    def _choose(self, record: Record, ready: Sequence[Node]) -> list[Node]:
        """Choose who gets a seat: who had one, then who was given a rank, then who came first."""
        order = {node_id: index for index, node_id in enumerate(self._seen)}

        def claim(node: Node) -> tuple[bool, bool, int]:
            return record.rank_of(node.id) == NO_RANK, node.rank == NO_RANK, order[node.id]

        return sorted(ready, key=claim)[: self._terms.max_nodes]

    def _labels(self, seats: Iterable[Seat]) -> tuple[str, ...]:
        return tuple(
            f"{seat.label} {'left' if seat.id in self._left else 'was lost'}" for seat in seats
        )


def move(record: Record, endpoint: str, reason: str, lost: tuple[str, ...] = ()) -> Record:
    """Return the last record of a store whose run goes on in another one.

    Its round is over, if it is formed: workers are to be told where the store is now.

    Args:
        record: as it is.
        endpoint: of the store that takes the place of this one.
        reason: why, for people.
        lost: who of the round is gone, for people.
    """
    if record.is_formed:
        return _open(record, reason, lost=lost)._replace(moved=endpoint)
    untold = tuple(text for text in lost if text not in record.lost)
    return record._replace(moved=endpoint, lost=(*record.lost, *untold))


def assign_seats(nodes: Sequence[Node], before: Sequence[Seat]) -> tuple[Seat, ...]:
    """Give each node a rank.

    A rank that the user gave comes first, then the rank of the round before, as far as they exist
    in a round of this size and are free; the rest go in the order of their old ranks and the
    natural order of their hosts' names.

    Args:
        nodes: who gets a seat; at least one.
        before: the seats of the round before.

    Returns:
        The seats by rank.
    """
    old = {seat.id: rank for rank, seat in enumerate(before)}

    def turn(node: Node) -> tuple[object, ...]:
        return old.get(node.id, math.inf), _natural(node.name), node.pid, node.id

    seats: list[Node | None] = [None] * len(nodes)
    rest = []
    for node in sorted(nodes, key=lambda node: (node.rank == NO_RANK, turn(node))):
        wish = node.rank if node.rank != NO_RANK else old.get(node.id, NO_RANK)
        if 0 <= wish < len(seats) and seats[wish] is None:
            seats[wish] = node
        else:
            rest.append(node)
    rest.sort(key=turn)
    fill = iter(rest)
    taken = [node if node is not None else next(fill) for node in seats]
    return tuple(Seat(node.id, node.label, node.address, node.port) for node in taken)


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """Return what sorts node10 behind node2."""
    return tuple((text, int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d{0,18})", name))


def _open(
    record: Record, reason: str, *, lost: tuple[str, ...] = (), failure: Failure | None = None
) -> Record:
    """Return the record with the next round being formed."""
    return record._replace(
        round=record.round + 1, is_formed=False, lost=lost, failure=failure, reason=reason
    )


def _sort(seats: Sequence[Seat], nodes: Mapping[str, Node]) -> tuple[list[Node], list[Seat]]:
    """Return the nodes of a round that are there, and the seats of those that are not."""
    present, absent = [], []
    for seat in seats:
        node = nodes.get(seat.id)
        if node is None or node.stage is Stage.LEAVING:
            absent.append(seat)
        else:
            present.append(node)
    return present, absent


def _is(node: Node, stage: Stage, number: int) -> bool:
    return node.stage is stage and node.round == number


def _can_enter(node: Node, record: Record) -> bool:
    """Return whether a node waits for the round that is being formed.

    Who has a seat in the one before has to say so anew: what it said for that one still stands.
    """
    if record.rank_of(node.id) != NO_RANK:
        return _is(node, Stage.READY, record.round)
    return node.stage is Stage.READY and node.round <= record.round


def _of(node: Node) -> Failure:
    return Failure(node.label, node.failure, node.exitcode, node.max_restarts, node.restart_window)


def _is_told(seat: Seat, lost: Iterable[str]) -> bool:
    return any(text.startswith(f"{seat.label} ") for text in lost)
