"""The book of the gathers that one worker leads: who has come, who gave up, what all are told.

Pure: takes what members say and returns who is to be told what. Used by `Collectives`.

Theory of operation. Gathers of one kind over one set of workers form a series, and the n-th of each
member is *round* n of it, so objects of different rounds never meet, whatever becomes of single
ones. A round ends once, for all: it is complete when every member has come, and has failed as soon
as one of them gives up or is gone. Those who wait hear of it then, those who come later when they
come. So a member that gave up round n and one that never got that far are both at round n + 1 after
they were told, and meet there.
"""

from __future__ import annotations

import dataclasses
from typing import Generic, NamedTuple, TypeVar

from asyncrpc.errors import Delivery, PeerLostError, RpcError, RpcTimeoutError, StatusCode

__all__ = ("GatherBook", "Round", "Settled")

W = TypeVar("W")
"""What stands for somebody who waits; not looked at."""

_REMEMBERED = 1024  # rounds that are over; a member that is further behind hears less about them


class Round(NamedTuple):
    """Names one gather: the same on every member."""

    kind: str
    """``"all_gather"`` or ``"barrier"``, which never meet."""
    names: tuple[str, ...]
    """Names of the members, sorted."""
    group: bytes
    """Digest of the members' incarnations: with a restarted worker the count begins anew."""
    number: int
    """From 1."""

    def __str__(self) -> str:
        return f"{self.kind} over {len(self.names)} workers"


class Settled(NamedTuple, Generic[W]):
    """Those who wait for a round that is over, and what they are told."""

    waiting: list[W]
    outcome: dict[str, object] | RpcError


@dataclasses.dataclass(slots=True, eq=False)
class _Gathering(Generic[W]):
    """A round that is not over."""

    objects: dict[str, object] = dataclasses.field(default_factory=dict)
    """By name of the member."""
    waiting: list[W] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True, frozen=True)
class _End:
    """How a round ended."""

    error: RpcError | None
    missing: str
    """Who had not come, for people."""


class GatherBook(Generic[W]):
    """The rounds of the gathers that one worker leads."""

    def __init__(self) -> None:
        self._open: dict[Round, _Gathering[W]] = {}
        self._over: dict[Round, _End] = {}  # the latest, in the order in which they ended
        self._forgotten: dict[Round, int] = {}  # by series: the highest one no longer in _over

    def is_open(self, round_: Round) -> bool:
        """Whether somebody waits for this round."""
        return round_ in self._open

    def join(self, round_: Round, name: str, obj: object, waiter: W) -> Settled[W] | None:
        """Take in a member's object.

        Returns:
            Who is to be told what, if the round is over by that or was already.
        """
        end = self._end_of(round_)
        if end is not None:
            error = end.error or RpcError(f"{round_} is over", code=StatusCode.ABORTED)
            return Settled([waiter], error)
        gathering = self._open.setdefault(round_, _Gathering())
        gathering.objects[name] = obj
        gathering.waiting.append(waiter)
        if len(gathering.objects) < len(round_.names):
            return None
        self._close(round_, _End(None, ""))
        ordered = {member: gathering.objects[member] for member in round_.names}
        return Settled(gathering.waiting, ordered)

    def give_up(
        self, round_: Round, name: str, timeout: float, reason: str
    ) -> tuple[str, Settled[W] | None]:
        """Fail a round, unless it is over, since a member waits no longer or never could.

        Args:
            round_: the round.
            name: the member.
            timeout: seconds after which it gave up; 0 if that is not why.
            reason: why, otherwise.

        Returns:
            Who has not come, for people, and who is to be told of the end.
        """
        end = self._end_of(round_)
        if end is not None:
            return end.missing, None
        missing = self._missing(round_, name)
        waits_for = f", waiting for {missing}" if missing else ""
        error: RpcError
        if timeout:
            text = f"{round_} timed out: {name} gave up after {timeout:.2f} seconds{waits_for}"
            error = RpcTimeoutError(text, phase="execute")
        else:
            text = f"{round_} failed: {name} gave up ({reason}){waits_for}"
            error = RpcError(text, code=StatusCode.ABORTED, delivery=Delivery.UNKNOWN)
        return missing, self._fail(round_, _End(error, missing))

    def gone(self, name: str, reason: str) -> list[Settled[W]]:
        """Fail the open rounds of a worker that is no longer there."""
        rounds = [round_ for round_ in self._open if name in round_.names]
        return [self.lost(round_, name, reason) for round_ in rounds]

    def lost(self, round_: Round, name: str, reason: str) -> Settled[W]:
        """Fail one open round because of a member that is no longer there."""
        error = PeerLostError(f"{round_.kind} cannot complete: {name} is gone: {reason}")
        return self._fail(round_, _End(error, name))

    def _fail(self, round_: Round, end: _End) -> Settled[W]:
        assert end.error is not None
        gathering = self._open.get(round_)
        self._close(round_, end)
        return Settled([] if gathering is None else gathering.waiting, end.error)

    def _close(self, round_: Round, end: _End) -> None:
        self._open.pop(round_, None)
        self._over[round_] = end
        if len(self._over) > _REMEMBERED:
            oldest = next(iter(self._over))
            del self._over[oldest]
            series = oldest._replace(number=0)
            self._forgotten[series] = max(oldest.number, self._forgotten.get(series, 0))

    def _end_of(self, round_: Round) -> _End | None:
        end = self._over.get(round_)
        if end is not None or round_ in self._open:
            return end
        if round_.number > self._forgotten.get(round_._replace(number=0), 0):
            return None
        text = f"{round_}: the others gave up number {round_.number} long ago"
        return _End(RpcTimeoutError(text, phase="execute"), "")

    def _missing(self, round_: Round, name: str) -> str:
        """Return who has not come but the one who asks, and what they are in instead."""
        gathering = self._open.get(round_)
        come = {name} if gathering is None else {name, *gathering.objects}
        return ", ".join(
            member + self._whereabouts(member, round_)
            for member in round_.names
            if member not in come
        )

    def _whereabouts(self, name: str, round_: Round) -> str:
        """Say which other gather a member waits in, where that is known."""
        for other, gathering in self._open.items():
            if name in gathering.objects and other[:3] != round_[:3]:
                where = other.kind if other.names == round_.names else str(other)
                return f" (which is in {where})"
        return ""
