"""The owner's table: the values kept here, and what keeps each of them.

Pure; `Lifecycle` calls it. See there for the theory of operation. There is no record for a value,
but a line in one dict for each thing that is true of it: dicts of ids and counts are nothing to the
garbage collector, which would look at each record.
"""

from __future__ import annotations

from .exchange import Exchange, Tombstones
from .holders import Holders
from .ids import maker_of
from .payloads import Sync
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
_DELETED = Cause(CauseKind.DELETED, "RRef has been deleted: nobody held it any more")
_CREATION = "RRef creation via rpc.remote() timed out, and it is possible that the RRef on the "
_CREATION += "owner node does not exist"


class Owners:
    """Values kept by one agent.

    Args:
        exchange: shared with the holder's table.
    """

    __slots__ = (
        "_doubted",
        "_doubts",
        "_ended",
        "_errors",
        "_exchange",
        "_fetches",
        "_freed",
        "_handles",
        "_unmade",
        "_uses",
        "_waiting",
        "holders",
    )

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._uses: dict[GlobalId, int] = {}
        # Value, or the place of one -> known forks, handles and fetches that keep it. At 0 it goes,
        # unless its function runs.
        self._unmade: dict[GlobalId, OwnerState] = {}
        # Those of them that are RESERVED or RUNNING; all others are READY, or ERROR:
        self._errors: dict[GlobalId, None] = {}
        self._handles: dict[GlobalId, int] = {}
        # Value -> RRef objects of this process for it, at least 1.
        self.holders = Holders()
        """Known forks; each of them is a use of its value."""
        self._waiting: dict[GlobalId, dict[Token, None]] = {}
        # Value that is unmade -> fetches that wait for it, at least one, in their order.
        self._fetches: dict[Token, tuple[GlobalId, Worker]] = {}
        # The same the other way round, and who fetches.
        self._doubts: dict[GlobalId, Cause] = {}
        # Why the creation may never come, or gave nothing: of what is RESERVED, was stopped, or is
        # made by this worker.
        self._ended = Tombstones(_TOMBSTONES)  # forks deleted, or deleted before they came
        self._freed = Tombstones(_TOMBSTONES)  # values freed; disjoint from `_uses`
        self._doubted = Tombstones(_TOMBSTONES)  # values unknown here whose creator gave up

    # -- creation and values

    def own(self) -> Fork:
        """Take a value of this worker's own; return its first handle."""
        rref = self._exchange.new_id()
        self._uses[rref] = self._handles[rref] = 1
        return self._handle(rref)

    def create_here(self) -> Fork:
        """Make the place of a value that a call to oneself will create; return its handle."""
        rref = self._exchange.new_id()
        self._unmade[rref] = OwnerState.RESERVED
        self._uses[rref] = self._handles[rref] = 1
        self._add(rref, rref, self._exchange.me)
        return self._handle(rref)

    def created(self, rref: GlobalId, fork: GlobalId, creator: Worker) -> bool:
        """Take a decoded request that creates a value; return whether to run its function."""
        if rref in self._freed:
            return False
        if rref not in self._uses:
            self._uses[rref] = 0
        elif self._unmade.get(rref) is not OwnerState.RESERVED:
            return False
        if self._doubted:
            self._doubted.discard(rref)
        self._unmade[rref] = OwnerState.RUNNING
        if creator != self._exchange.me:
            self._doubts.pop(rref, None)
            if fork not in self._ended and self.holders.of(fork) is None:
                self._add(rref, fork, creator)
        return True

    def settled(self, rref: GlobalId, *, is_error: bool) -> None:
        """Learn that the function ended; the shell keeps what it gave."""
        if rref not in self._uses:  # closed meanwhile
            self._exchange.emit(FreeValue(rref))
            return
        assert self._unmade[rref] is OwnerState.RUNNING, "a value is made once"
        del self._unmade[rref]
        if is_error:
            self._errors[rref] = None
        waiting = self._waiting.pop(rref, ())
        for token in waiting:
            del self._fetches[token]
            self._exchange.emit(AnswerFetch(token, rref))
        over = len(waiting)
        if self.holders.remove(rref) is not None:  # what kept a value made by a call to oneself
            over += 1
        self._let_go(rref, over)

    def creation_failed(self, rref: GlobalId, cause: Cause) -> None:
        """Learn that the call to oneself that makes the value failed or timed out."""
        if rref in self._uses and rref not in self._doubts:
            self._doubts[rref] = cause
            is_reserved = self.state(rref) is OwnerState.RESERVED
            self._fail_fetches(rref, cause)
            if is_reserved and self.holders.remove(rref) is not None:
                self._let_go(rref)

    def doubt(self, rref: GlobalId, creator: Worker) -> None:
        """Learn that the creator gave up; what waits for a request that never came fails."""
        if maker_of(rref) != creator or rref in self._freed:
            return
        cause = Cause(CauseKind.CREATION, _CREATION)
        if rref not in self._uses:
            self._doubted.add(rref, cause)
        elif self.state(rref) is OwnerState.RESERVED:
            self._doubts[rref] = cause
            self._fail_fetches(rref, cause)

    def stopped(self, rref: GlobalId, cause: Cause) -> None:
        """Learn that the function was told to stop: whether it heeds that, nobody waits for it."""
        if self.state(rref) is OwnerState.RUNNING:
            self._doubts.setdefault(rref, cause)
            self._fail_fetches(rref, cause)

    # -- handles of this process

    def retain(self, rref: GlobalId) -> Cause | None:
        """Count an RRef object made from a decoded fork; return why it cannot be used."""
        cause = self._find(rref)
        if cause is None:
            self._uses[rref] += 1
            self._handles[rref] = self._handles.get(rref, 0) + 1
        return cause

    def release(self, rref: GlobalId) -> None:
        """Count out an RRef object."""
        handles = self._handles.pop(rref, 0)
        if handles > 1:
            self._handles[rref] = handles - 1
        if handles:
            self._let_go(rref)

    def release_all(self) -> None:
        """Count out all RRef objects."""
        handles = dict(self._handles)
        self._handles.clear()
        for rref, count in handles.items():
            self._let_go(rref, count)

    def cause(self, rref: GlobalId) -> Cause | None:
        """Return why the owner's own handle cannot be used, ``None`` if it can."""
        if rref not in self._handles:
            return self._absence(rref) or _DELETED
        return self._doubts.get(rref)

    def state(self, rref: GlobalId) -> OwnerState:
        """Return a value's state; what is not known is freed."""
        if rref not in self._uses:
            return OwnerState.FREED
        made = OwnerState.ERROR if rref in self._errors else OwnerState.READY
        return self._unmade.get(rref, made)

    # -- forks

    def fork(self, rref: GlobalId, holder: Worker) -> Fork:
        """Make a fork for an outgoing message (F3, F4)."""
        fork = self._exchange.new_id()
        self._add(rref, fork, holder)
        return Fork(rref, fork, self._exchange.me, self._exchange.me)

    def take_back(self, fork: GlobalId, holder: Worker) -> None:
        """Forget a fork that will not reach its holder, or has come home."""
        if self.holders.of(fork) == holder:
            self._end(fork)

    def requested(self, rref: GlobalId, fork: GlobalId, holder: Worker, stamp: int) -> Cause | None:
        """Add a fork that one holder passed to another (F6); return why it cannot be had."""
        cause = self._ended.get(fork)
        if cause is not None or self.holders.of(fork) is not None:
            return cause
        cause = self._find(rref)
        if cause is None:
            self._add(rref, fork, holder, stamp)
        else:
            self._ended.add(fork, cause)  # final: the holder will not tell of a fork it never had
        return cause

    def delete(self, fork: GlobalId, holder: Worker) -> None:
        """Drop a fork that its holder gave up (F8); leave a tombstone if it is not there yet."""
        known = self.holders.of(fork)
        if known == holder:
            self._end(fork)
        elif known is None:
            self._ended.add(fork, _DELETED)

    def reconcile(self, holder: Worker, sync: Sync) -> None:
        """Drop what the holder knew of and holds no more; death is final, so age is harmless."""
        for fork in self.holders.outdated(holder, sync):
            self._end(fork)

    def holder_lost(self, holder: Worker, reason: str) -> None:
        """Drop all that a lost worker held, asked for, or promised to create."""
        for fork in self.holders.held_by(holder):
            self._end(fork)
        for token in [t for t, (_, source) in self._fetches.items() if source == holder]:
            self.fetch_withdrawn(token)
        text = f"{_CREATION}: the worker that creates it was lost ({reason})"
        promised = [r for r, s in self._unmade.items() if s is OwnerState.RESERVED]
        for rref in promised:
            if maker_of(rref) == holder:
                self._doubts[rref] = cause = Cause(CauseKind.CREATION, text)
                self._fail_fetches(rref, cause)

    # -- fetches

    def fetch(self, rref: GlobalId, fork: GlobalId, source: Worker, token: Token) -> None:
        """Answer a fetch, or let it wait for the value (F9)."""
        assert token not in self._fetches, "a fetch waits once"
        cause = self._ended.get(fork) or self._find(rref)
        if cause is None and rref in self._unmade:
            cause = self._doubts.get(rref)
        if cause is not None:
            self._exchange.emit(FailFetch(token, cause))
        elif rref not in self._unmade:
            self._exchange.emit(AnswerFetch(token, rref))
        else:
            self._uses[rref] += 1
            self._waiting.setdefault(rref, {})[token] = None
            self._fetches[token] = (rref, source)

    def fetch_withdrawn(self, token: Token) -> None:
        """Forget a fetch that nobody waits for any more."""
        found = self._fetches.pop(token, None)
        if found is not None:
            rref = found[0]
            waiting = self._waiting[rref]
            del waiting[token]
            if not waiting:
                del self._waiting[rref]
            self._let_go(rref)

    # -- the end, and what is shown

    def close(self, cause: Cause) -> None:
        """Drop everything."""
        for token in self._fetches:
            self._exchange.emit(FailFetch(token, cause))
        for rref in self._uses:
            if rref not in self._unmade:
                self._exchange.emit(FreeValue(rref))
            self._freed.add(rref, cause)
        for table in (self._uses, self._unmade, self._errors, self._handles, self._doubts):
            table.clear()
        self._waiting.clear()
        self._fetches.clear()
        self.holders.clear()

    def rows(self) -> list[Row]:
        """Return a line for each value that others hold, or that is being made."""
        holders = self.holders.by_value()
        return [
            Row(r, r, self.state(r), tuple(holders.get(r, ())), self._handles.get(r, 0))
            for r in self._uses
            if r in holders or r in self._unmade
        ]

    @property
    def num_owner_rrefs(self) -> int:
        """Values that others hold or that are being made; one kept by its handle is nobody's."""
        return len(self.holders.values() | self._unmade.keys())

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._uses

    # -- parts

    def _handle(self, rref: GlobalId) -> Fork:
        return Fork(rref, rref, self._exchange.me, self._exchange.me)

    def _absence(self, rref: GlobalId) -> Cause | None:
        """Return why a value that is not in the table will not come, ``None`` if it may."""
        cause = self._freed.get(rref) or self._doubted.get(rref)
        maker = maker_of(rref)
        if cause is None and maker in self._exchange.lost:
            why = self._exchange.lost[maker]
            text = f"{_CREATION}: the worker that creates it was lost ({why})"
            cause = Cause(CauseKind.CREATION, text)
        if cause is None and maker == self._exchange.me:
            cause = _DELETED  # what is made here has its place from the start
        return cause

    def _find(self, rref: GlobalId) -> Cause | None:
        """Return why a value will not come; else there is a place for it now, to be used."""
        if rref in self._uses:
            return None
        cause = self._absence(rref)
        if cause is None:
            self._uses[rref] = 0
            self._unmade[rref] = OwnerState.RESERVED
        return cause

    def _add(
        self, rref: GlobalId, fork: GlobalId, holder: Worker, stamp: int | None = None
    ) -> None:
        assert fork not in self._ended, "an ended fork never comes back"
        self.holders.add(rref, fork, holder, stamp)
        self._uses[rref] += 1

    def _end(self, fork: GlobalId) -> None:
        rref = self.holders.remove(fork)
        assert rref is not None, "only a known fork ends"
        self._ended.add(fork, _DELETED)
        self._let_go(rref)

    def _fail_fetches(self, rref: GlobalId, cause: Cause) -> None:
        waiting = self._waiting.pop(rref, ())
        for token in waiting:
            del self._fetches[token]
            self._exchange.emit(FailFetch(token, cause))
        self._let_go(rref, len(waiting))

    def _let_go(self, rref: GlobalId, over: int = 1) -> None:
        """Count uses out, and free what nobody uses; while its function runs, it stays."""
        self._uses[rref] = left = self._uses[rref] - over
        assert left >= 0, "a use is counted once"
        state = self._unmade.get(rref)
        if left or state is OwnerState.RUNNING:
            return
        del self._uses[rref]
        doubt = self._doubts.pop(rref, None)
        if state is None:
            self._errors.pop(rref, None)
            self._freed.add(rref, _DELETED)
            self._exchange.emit(FreeValue(rref))
        else:
            del self._unmade[rref]
            if doubt is not None:
                self._doubted.add(rref, doubt)
