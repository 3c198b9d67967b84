"""Who holds which fork of the values that are kept here: the owner's index.

Pure; `Owners` calls it. All of it is ids in dicts, see `ids`.
"""

from __future__ import annotations

from itertools import chain

from .ids import maker_of, number_of
from .payloads import Sync
from .values import GlobalId, Worker

__all__ = ("Holders",)

_UNSTAMPED = 1 << 62  # of a fork that its holder never spoke of: no snapshot is that young


class Holders:
    """The known forks of one agent's values."""

    __slots__ = ("_forks", "_holders", "_stamps")

    def __init__(self) -> None:
        self._holders: dict[GlobalId, Worker] = {}
        # Fork -> who holds it.
        self._forks: dict[Worker, dict[GlobalId, GlobalId]] = {}
        # The same the other way round: holder -> fork -> value, at least one fork each. By this a
        # lost holder's forks are found.
        self._stamps: dict[GlobalId, int] = {}
        # Fork -> the holder's number from when it learnt of the fork, so a snapshot with a smaller
        # number says nothing of it. None for a fork that its holder never spoke of, or spoke of
        # first by creating its value: that one's own number is the stamp.

    def __len__(self) -> int:
        return len(self._holders)

    def add(self, rref: GlobalId, fork: GlobalId, holder: Worker, stamp: int | None) -> None:
        """Note that ``holder`` has a fork, and when it learnt of it, if it said so."""
        assert fork not in self._holders, "a fork is known once"
        self._holders[fork] = holder
        forks = self._forks.get(holder)
        if forks is None:
            forks = self._forks[holder] = {}
        forks[fork] = rref
        if stamp is not None:
            self._stamps[fork] = stamp

    def remove(self, fork: GlobalId) -> GlobalId | None:
        """Forget a fork; return its value, ``None`` if the fork is not known."""
        holder = self._holders.pop(fork, None)
        if holder is None:
            return None
        if self._stamps:
            self._stamps.pop(fork, None)
        forks = self._forks[holder]
        rref = forks.pop(fork)
        if not forks:
            del self._forks[holder]
        return rref

    def rename(self, old: Worker, new: Worker) -> None:
        """Have a holder known by another id."""
        forks = self._forks.pop(old, {})
        for fork in forks:
            self._holders[fork] = new
        if forks:
            self._forks.setdefault(new, {}).update(forks)

    def of(self, fork: GlobalId) -> Worker | None:
        """Return who holds a fork, ``None`` if it is not known."""
        return self._holders.get(fork)

    def held_by(self, holder: Worker) -> tuple[GlobalId, ...]:
        """Return the forks that a worker holds."""
        return tuple(self._forks.get(holder, ()))

    def outdated(self, holder: Worker, sync: Sync) -> list[GlobalId]:
        """Return the forks of which ``holder`` knew when it made a snapshot, and that it has not.

        Of a portion of one, those within its bounds.
        """
        alive, as_of = set(sync.live), sync.as_of
        ended = []
        for fork in self._forks.get(holder, ()):
            made = number_of(fork) if maker_of(fork) == holder else _UNSTAMPED
            stamp = self._stamps.get(fork, made)
            if fork in alive:
                self._stamps[fork] = min(stamp, as_of)
            elif stamp <= as_of and sync.after < fork and (not sync.up_to or fork <= sync.up_to):
                ended.append(fork)
        return ended

    def values(self) -> set[GlobalId]:
        """Return the values that somebody holds."""
        return set(chain.from_iterable(forks.values() for forks in self._forks.values()))

    def by_value(self) -> dict[GlobalId, list[Worker]]:
        """Return who holds each value, once for each fork."""
        found: dict[GlobalId, list[Worker]] = {}
        for holder, forks in self._forks.items():
            for rref in forks.values():
                found.setdefault(rref, []).append(holder)
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._holders.clear()
        self._forks.clear()
        self._stamps.clear()
