"""The owner's table: the values kept here, and who holds each of them.

Pure; `Lifecycle` calls it. See there for the theory of operation.
"""

from __future__ import annotations

from collections.abc import Iterable

from .exchange import Exchange, Tombstones
from .values import (
    AnswerFetch,
    Cause,
    CauseKind,
    FailFetch,
    Fork,
    FreeValue,
    GlobalId,
    OwnerState,
    Row,
    Token,
    Worker,
)

__all__ = ("Owners",)

_TOMBSTONES = 1 << 16  # about 10 MB at most; far more than can be on their way between two workers
_UNSTAMPED = 1 << 62  # of a fork that its holder never spoke of: no snapshot is that young
_DELETED = Cause(CauseKind.DELETED, "RRef has been deleted: nobody held it any more")
_CREATION = "RRef creation via rpc.remote() timed out, and it is possible that the RRef on the "
_CREATION += "owner node does not exist"


class _Entry:
    """One value, or the place of one."""

    __slots__ = ("doubt", "fetches", "forks", "handles", "rref", "state")

    def __init__(self, rref: GlobalId, state: OwnerState) -> None:
        self.rref = rref
        self.state = state
        self.forks: dict[GlobalId, Worker] = {}
        """Known forks and their holders; mirrored in `Owners._held`."""
        self.handles = 0
        """RRef objects of this process for the value, at least 0."""
        self.fetches: dict[Token, None] = {}
        """Fetches that wait for the value; empty once the state is READY or ERROR."""
        self.doubt: Cause | None = None
        """Why the creation may never come; while RESERVED, or when made by this worker."""

    @property
    def is_settled(self) -> bool:
        return self.state is OwnerState.READY or self.state is OwnerState.ERROR


class Owners:
    """Values kept by one agent.

    Args:
        exchange: shared with the holder's table.
    """

    __slots__ = ("_doubted", "_ended", "_entries", "_exchange", "_fetches", "_freed", "_held")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._entries: dict[GlobalId, _Entry] = {}
        self._held: dict[Worker, dict[GlobalId, tuple[GlobalId, int]]] = {}
        # holder -> fork -> (value, stamp): the index by which a lost holder's forks are found.
        # A fork is in here exactly if it is in the entry's `forks`; a stamp is the holder's number
        # from when it learnt of the fork, so a snapshot with a smaller number says nothing of it.
        self._fetches: dict[Token, tuple[GlobalId, Worker]] = {}
        # Fetches that wait; each is in the `fetches` of one entry.
        self._ended = Tombstones(_TOMBSTONES)  # forks deleted, or deleted before they came
        self._freed = Tombstones(_TOMBSTONES)  # values freed; disjoint from `_entries`
        self._doubted = Tombstones(_TOMBSTONES)  # values unknown here whose creator gave up

    # -- creation and values

    def own(self) -> Fork:
        """Take a value of this worker's own; return its first handle."""
        rref = self._exchange.new_id()
        self._entry(rref, OwnerState.READY).handles = 1
        return self._handle(rref)

    def create_here(self) -> Fork:
        """Make the place of a value that a call to oneself will create; return its handle."""
        rref = self._exchange.new_id()
        entry = self._entry(rref, OwnerState.RESERVED)
        entry.handles = 1
        self._add(entry, rref, self._exchange.me, self._exchange.count)
        return self._handle(rref)

    def created(self, rref: GlobalId, fork: GlobalId, creator: Worker) -> bool:
        """Take a decoded request that creates a value; return whether to run its function."""
        if rref in self._freed or self._is_gone(rref):
            return False
        entry = self._entries.get(rref)
        if entry is None:
            entry = self._entry(rref, OwnerState.RESERVED)
        elif entry.state is not OwnerState.RESERVED:
            return False
        self._doubted.discard(rref)
        entry.state = OwnerState.RUNNING
        if creator != self._exchange.me:
            entry.doubt = None
            if fork not in self._ended:
                self._add(entry, fork, creator, fork[1])
        return True

    def settled(self, rref: GlobalId, *, is_error: bool) -> None:
        """Learn that the function ended; the shell keeps what it gave."""
        entry = self._entries.get(rref)
        if entry is None:  # closed meanwhile
            self._exchange.emit(FreeValue(rref))
            return
        assert entry.state is OwnerState.RUNNING, "a value is made once"
        entry.state = OwnerState.ERROR if is_error else OwnerState.READY
        waiting, entry.fetches = entry.fetches, {}
        for token in waiting:
            del self._fetches[token]
            self._exchange.emit(AnswerFetch(token, rref))
        self._discard(entry, rref)  # what kept a value made by a call to oneself
        self._free(entry)

    def creation_failed(self, rref: GlobalId, cause: Cause) -> None:
        """Learn that the call to oneself that makes the value failed or timed out."""
        entry = self._entries.get(rref)
        if entry is not None and entry.doubt is None:
            entry.doubt = cause
            self._fail_fetches(entry, cause)
            if entry.state is OwnerState.RESERVED:
                self._discard(entry, rref)
                self._free(entry)

    def doubt(self, rref: GlobalId, creator: Worker) -> None:
        """Learn that the creator gave up; what waits for a request that never came fails."""
        if rref[0] != creator or rref in self._freed:
            return
        entry = self._entries.get(rref)
        cause = Cause(CauseKind.CREATION, _CREATION)
        if entry is None:
            self._doubted.add(rref, cause)
        elif entry.state is OwnerState.RESERVED:
            entry.doubt = cause
            self._fail_fetches(entry, cause)

    # -- handles of this process

    def retain(self, rref: GlobalId) -> Cause | None:
        """Count an RRef object made from a decoded fork; return why it cannot be used."""
        entry, cause = self._find(rref)
        if entry is not None:
            entry.handles += 1
        return cause

    def release(self, rref: GlobalId) -> None:
        """Count out an RRef object."""
        entry = self._entries.get(rref)
        if entry is not None and entry.handles:
            entry.handles -= 1
            self._free(entry)

    def release_all(self) -> None:
        """Count out all RRef objects."""
        for entry in list(self._entries.values()):
            entry.handles = 0
            self._free(entry)

    def cause(self, rref: GlobalId) -> Cause | None:
        """Return why the owner's own handle cannot be used, ``None`` if it can."""
        entry = self._entries.get(rref)
        if entry is None or not entry.handles:
            return self._absence(rref) or _DELETED
        return entry.doubt

    def state(self, rref: GlobalId) -> OwnerState:
        """Return a value's state; what is not known is freed."""
        entry = self._entries.get(rref)
        return OwnerState.FREED if entry is None else entry.state

    # -- forks

    def fork(self, rref: GlobalId, holder: Worker) -> Fork:
        """Make a fork for an outgoing message (F3, F4)."""
        fork = self._exchange.new_id()
        self._add(self._entries[rref], fork, holder, _UNSTAMPED)
        return Fork(rref, fork, self._exchange.me, self._exchange.me)

    def take_back(self, rref: GlobalId, fork: GlobalId, holder: Worker) -> None:
        """Forget a fork that will not reach its holder, or has come home."""
        entry = self._entries.get(rref)
        if entry is not None and entry.forks.get(fork) == holder:
            self._end(entry, fork)

    def requested(self, rref: GlobalId, fork: GlobalId, holder: Worker, stamp: int) -> Cause | None:
        """Add a fork that one holder passed to another (F6); return why it cannot be had."""
        if fork in self._ended:
            return self._ended.get(fork)
        entry, cause = self._find(rref)
        if cause is not None:
            self._ended.add(fork, cause)  # final: the holder will not tell of a fork it never had
        elif entry is not None and fork not in entry.forks:
            self._add(entry, fork, holder, stamp)
        return cause

    def delete(self, rref: GlobalId, fork: GlobalId, holder: Worker) -> None:
        """Drop a fork that its holder gave up (F8); leave a tombstone if it is not there yet."""
        entry = self._entries.get(rref)
        if entry is None or fork not in entry.forks:
            self._ended.add(fork, _DELETED)
        elif entry.forks[fork] == holder:
            self._end(entry, fork)

    def reconcile(self, holder: Worker, as_of: int, live: Iterable[GlobalId]) -> None:
        """Drop what the holder knew of and holds no more; death is final, so age is harmless."""
        alive = set(live)
        held = self._held.get(holder, {})
        for fork, (rref, stamp) in list(held.items()):
            if fork in alive:
                held[fork] = (rref, min(stamp, as_of))
            elif stamp <= as_of:
                self._end(self._entries[rref], fork)

    def holder_lost(self, holder: Worker, reason: str) -> None:
        """Drop all that a lost worker held, asked for, or promised to create."""
        for fork, (rref, _) in list(self._held.get(holder, {}).items()):
            self._end(self._entries[rref], fork)
        for token in [t for t, (_, source) in self._fetches.items() if source == holder]:
            self.fetch_withdrawn(token)
        text = f"{_CREATION}: the worker that creates it was lost ({reason})"
        for entry in list(self._entries.values()):
            if entry.state is OwnerState.RESERVED and entry.rref[0] == holder:
                entry.doubt = Cause(CauseKind.CREATION, text)
                self._fail_fetches(entry, entry.doubt)

    # -- fetches

    def fetch(self, rref: GlobalId, fork: GlobalId, source: Worker, token: Token) -> None:
        """Answer a fetch, or let it wait for the value (F9)."""
        assert token not in self._fetches, "a fetch waits once"
        ended = self._ended.get(fork)
        entry, cause = (None, ended) if ended is not None else self._find(rref)
        if entry is None or (entry.doubt is not None and entry.state is OwnerState.RESERVED):
            cause = cause or (entry.doubt if entry is not None else None) or _DELETED
            self._exchange.emit(FailFetch(token, cause))
            if entry is not None:
                self._free(entry)
        elif entry.is_settled:
            self._exchange.emit(AnswerFetch(token, rref))
        else:
            entry.fetches[token] = None
            self._fetches[token] = (rref, source)

    def fetch_withdrawn(self, token: Token) -> None:
        """Forget a fetch that nobody waits for any more."""
        found = self._fetches.pop(token, None)
        if found is not None:
            entry = self._entries[found[0]]
            del entry.fetches[token]
            self._free(entry)

    # -- the end, and what is shown

    def close(self, cause: Cause) -> None:
        """Drop everything."""
        for token in self._fetches:
            self._exchange.emit(FailFetch(token, cause))
        for entry in self._entries.values():
            if entry.is_settled:
                self._exchange.emit(FreeValue(entry.rref))
            self._freed.add(entry.rref, cause)
        self._fetches.clear()
        self._entries.clear()
        self._held.clear()

    def rows(self) -> list[Row]:
        """Return a line for each value that others hold, or that is being made."""
        return [
            Row(e.rref, e.rref, e.state, tuple(e.forks.values()), e.handles)
            for e in self._entries.values()
            if e.forks or not e.is_settled
        ]

    @property
    def num_owner_rrefs(self) -> int:
        """Values that others hold or that are being made; one kept by its handle is nobody's."""
        return sum([bool(e.forks) or not e.is_settled for e in self._entries.values()])

    @property
    def num_forks(self) -> int:
        """Forks known here."""
        return sum(map(len, self._held.values()))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._entries and not self._fetches and not any(self._held.values())

    # -- parts

    def _handle(self, rref: GlobalId) -> Fork:
        return Fork(rref, rref, self._exchange.me, self._exchange.me)

    def _entry(self, rref: GlobalId, state: OwnerState) -> _Entry:
        assert rref not in self._freed, "a value is never made again"
        entry = self._entries[rref] = _Entry(rref, state)
        return entry

    def _is_gone(self, rref: GlobalId) -> bool:
        return rref[0] in self._exchange.lost

    def _absence(self, rref: GlobalId) -> Cause | None:
        """Return why a value that is not in the table will not come, ``None`` if it may."""
        cause = self._freed.get(rref) or self._doubted.get(rref)
        if cause is None and self._is_gone(rref):
            why = self._exchange.lost[rref[0]]
            text = f"{_CREATION}: the worker that creates it was lost ({why})"
            cause = Cause(CauseKind.CREATION, text)
        if cause is None and rref[0] == self._exchange.me:
            cause = _DELETED  # what is made here has its entry from the start
        return cause

    def _find(self, rref: GlobalId) -> tuple[_Entry | None, Cause | None]:
        """Return the entry, reserved if the value may still come, or why it will not."""
        entry = self._entries.get(rref)
        if entry is not None:
            return entry, None
        cause = self._absence(rref)
        if cause is not None:
            return None, cause
        return self._entry(rref, OwnerState.RESERVED), None

    def _add(self, entry: _Entry, fork: GlobalId, holder: Worker, stamp: int) -> None:
        assert fork not in self._ended, "an ended fork never comes back"
        entry.forks[fork] = holder
        self._held.setdefault(holder, {})[fork] = (entry.rref, stamp)

    def _discard(self, entry: _Entry, fork: GlobalId) -> None:
        holder = entry.forks.pop(fork, None)
        if holder is not None:
            held = self._held[holder]
            del held[fork]
            if not held:
                del self._held[holder]

    def _end(self, entry: _Entry, fork: GlobalId) -> None:
        self._discard(entry, fork)
        self._ended.add(fork, _DELETED)
        self._free(entry)

    def _fail_fetches(self, entry: _Entry, cause: Cause) -> None:
        waiting, entry.fetches = entry.fetches, {}
        for token in waiting:
            del self._fetches[token]
            self._exchange.emit(FailFetch(token, cause))
        self._free(entry)

    def _free(self, entry: _Entry) -> None:
        """Free a value that nobody holds; while its function runs, it stays."""
        if entry.forks or entry.handles or entry.fetches or entry.state is OwnerState.RUNNING:
            return
        if self._entries.get(entry.rref) is not entry:
            return
        del self._entries[entry.rref]
        if entry.is_settled:
            self._freed.add(entry.rref, _DELETED)
            self._exchange.emit(FreeValue(entry.rref))
            entry.state = OwnerState.FREED
        elif entry.doubt is not None:
            self._doubted.add(entry.rref, entry.doubt)
