"""The holder's table: references to values of other workers.

Pure; `Lifecycle` calls it. See there for the theory of operation.
"""

from __future__ import annotations

from asyncrpc.wire import MessageType

from .exchange import Exchange, Tombstones
from .notices import Notices
from .parking import Parking
from .payloads import read_cause
from .values import (
    Cause,
    CauseKind,
    Confirm,
    Deleted,
    FailReference,
    Fork,
    GlobalId,
    Row,
    UserState,
    Worker,
)

__all__ = ("Users",)

_RELEASED = Cause(CauseKind.DELETED, "RRef has been deleted: it was released here")
_TOMBSTONES = 1 << 16  # as in owner.py


class _Entry:
    """One fork that this worker holds, or that has to outlive its handles."""

    __slots__ = (
        "cause",
        "children",
        "fork",
        "handles",
        "is_created_here",
        "is_known",
        "is_used",
        "state",
    )

    def __init__(self, fork: Fork, state: UserState) -> None:
        self.fork = fork
        self.state = state
        self.cause: Cause | None = None
        """Set exactly if the state is FAILED or LOST."""
        self.handles = 1
        """RRef objects of this process for the fork. At 0 the entry goes, unless the owner's word
        is still out (PENDING) or there are `children`."""
        self.children = 0
        """Forks of it that were passed on and that their owner may not know yet (G2)."""
        self.is_known = True
        """Whether the owner may know the fork, so that it has to be told of its end (G1)."""
        self.is_created_here = False
        """Whether `remote` of this worker made it, so that the creation can still fail."""
        self.is_used = False
        """Whether others may wait at the owner for a value that is never created."""


class Users:
    """References held by one agent.

    Args:
        exchange: shared with the owner's table.
        parking: calls that wait for references to be confirmed.
        notices: what other workers have to be told.
    """

    __slots__ = (
        "_children",
        "_ended",
        "_entries",
        "_exchange",
        "_notices",
        "_parking",
    )

    def __init__(self, exchange: Exchange, parking: Parking, notices: Notices) -> None:
        self._exchange = exchange
        self._parking = parking
        self._notices = notices
        self._entries: dict[GlobalId, _Entry] = {}
        self._children: dict[GlobalId, tuple[_Entry, Worker]] = {}
        # Child fork -> the entry it holds back, whose `children` counts it, and who gets it.
        self._ended = Tombstones(_TOMBSTONES)  # forks given up or refused; disjoint from _entries

    # -- how references come to be

    def create(self, owner: Worker) -> Fork:
        """Make the first reference to a value that ``owner`` is asked to create (F1)."""
        rref = self._exchange.new_id()
        fork = Fork(rref, self._exchange.new_id(), owner, self._exchange.me)
        entry = self._entries[fork.fork] = _Entry(fork, UserState.PENDING)
        entry.is_created_here = True
        if owner in self._exchange.lost:
            self._lose(entry)
        return fork

    def creation_confirmed(self, fork: GlobalId) -> None:
        """Learn that the owner has decoded the request to create."""
        entry = self._entries.get(fork)
        if entry is not None and entry.state is UserState.PENDING:
            self._confirm(entry)

    def creation_failed(self, fork: GlobalId, cause: Cause, *, is_unsent: bool) -> None:
        """Learn that the request to create failed, or timed out even if confirmed before."""
        entry = self._entries.get(fork)
        if entry is None or entry.state not in (UserState.PENDING, UserState.CONFIRMED):
            return
        assert entry.is_created_here, "only its creator knows of a creation"
        if is_unsent and entry.state is UserState.PENDING:
            entry.is_known = False
        if entry.is_used:
            self._notices.doubt(entry.fork.owner, entry.fork.rref)
        self._fail(entry, UserState.FAILED, cause)

    def receive(self, fork: Fork) -> None:
        """Take a decoded fork of another worker's value: one more handle (F3, F6)."""
        entry = self._entries.get(fork.fork)
        if entry is not None:
            entry.handles += 1
            return
        entry = self._entries[fork.fork] = _Entry(fork, UserState.PENDING)
        ended = self._ended.get(fork.fork)
        if ended is not None:
            entry.is_known = False
            self._ended.discard(fork.fork)
            self._fail(entry, UserState.FAILED, ended)
        elif fork.owner in self._exchange.lost:
            self._lose(entry)
        elif fork.parent == fork.owner:
            self._confirm(entry)
        else:
            payload = (fork.rref, fork.fork, self._exchange.number())
            self._exchange.send(
                fork.owner,
                MessageType.RREF_FORK_REQUEST,
                payload,
                lambda answer: self._requested(entry, read_cause(answer)),
                lambda reason: self._request_failed(entry, reason),
            )

    def _requested(self, entry: _Entry, cause: Cause | None) -> None:
        """Take the owner's answer to a fork request."""
        if entry.state is not UserState.PENDING:
            return
        if cause is None:
            self._confirm(entry)
        else:
            entry.is_known = False
            self._fail(entry, UserState.FAILED, cause)

    def _request_failed(self, entry: _Entry, reason: str) -> None:
        if entry.state is UserState.PENDING:
            text = f"the owner of the RRef could not be told of this reference to it: {reason}"
            self._fail(entry, UserState.FAILED, Cause(CauseKind.CREATION, text))

    # -- passing on

    def fork(self, parent: GlobalId, to: Worker) -> Fork:
        """Make a fork for an outgoing message (F5, F6); the parent stays until it is accepted."""
        entry = self._entries[parent]
        assert entry.cause is None, "a reference that failed is not passed on"
        entry.is_used = True
        child = self._exchange.new_id()
        entry.children += 1
        self._children[child] = (entry, to)
        return Fork(entry.fork.rref, child, entry.fork.owner, self._exchange.me)

    def child_ended(self, child: GlobalId, holder: Worker) -> None:
        """Let go of a child that the owner knows, or that will never be (G2)."""
        found = self._children.get(child)
        if found is not None and found[1] == holder:
            del self._children[child]
            entry = found[0]
            entry.children -= 1
            assert entry.children >= 0, "a child is counted once"
            self._finish(entry)

    # -- giving up

    def release(self, fork: GlobalId) -> bool:
        """Count out an RRef object; true if it was the last one."""
        entry = self._entries.get(fork)
        if entry is None or not entry.handles:
            return False
        entry.handles -= 1
        if entry.handles:
            return False
        self._finish(entry)
        return True

    def release_all(self) -> None:
        """Count out all RRef objects."""
        for entry in list(self._entries.values()):
            entry.handles = 0
            self._finish(entry)

    # -- other workers

    def owner_lost(self, owner: Worker) -> None:
        """Fail every reference to a value of a worker that is gone."""
        lost = [e for e in self._entries.values() if e.fork.owner == owner]
        for entry in lost:
            entry.is_known = False  # before any of them ends: there is nobody to tell
        for entry in lost:
            self._lose(entry)
        for child, (entry, to) in list(self._children.items()):
            if entry.fork.owner == owner:
                self.child_ended(child, to)

    def holder_lost(self, holder: Worker) -> None:
        """Let go of the children that a worker that is gone would have accepted."""
        for child in [c for c, (_, to) in self._children.items() if to == holder]:
            self.child_ended(child, holder)

    def snapshot(self, owner: Worker) -> tuple[GlobalId, ...]:
        """Return the forks of ``owner``'s values that are held here now."""
        return tuple([f for f, e in self._entries.items() if e.fork.owner == owner])

    def is_needed(self, fork: GlobalId, asker: Worker) -> bool:
        """Return whether a fork that ``asker`` sent needs it; one that never came is refused."""
        entry = self._entries.get(fork)
        if entry is None:
            text = "RRef has been deleted: the call that carried it here had failed"
            self._ended.add(fork, Cause(CauseKind.DELETED, text))
            return False
        # the owner keeps what is held here; a parent only what the owner does not know yet
        return entry.fork.owner == asker or entry.state is UserState.PENDING

    # -- what is shown

    def cause(self, fork: GlobalId) -> Cause | None:
        """Return why a reference cannot be used, ``None`` if it can."""
        entry = self._entries.get(fork)
        if entry is None or not entry.handles:
            return self._ended.get(fork) or _RELEASED
        return entry.cause

    def state(self, fork: GlobalId) -> UserState:
        """Return a reference's state; what is not known, or has no handle, is released."""
        entry = self._entries.get(fork)
        return UserState.RELEASED if entry is None or not entry.handles else entry.state

    def use(self, fork: GlobalId) -> bool:
        """Note that a fetch may wait at the owner for the creation; false if it must not go."""
        entry = self._entries.get(fork)
        if entry is None or not entry.handles or entry.cause is not None:
            return False
        entry.is_used = True
        return True

    def rows(self) -> list[Row]:
        """Return a line for each reference held."""
        return [
            Row(f, e.fork.rref, e.state, (e.fork.owner,), e.handles)
            for f, e in self._entries.items()
        ]

    @property
    def num_pending(self) -> int:
        """References that their owner has not confirmed."""
        return sum([e.state is UserState.PENDING for e in self._entries.values()])

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held, and no child holds anything back."""
        return not (self._entries or self._children)

    def close(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._children.clear()

    # -- transitions

    def _confirm(self, entry: _Entry) -> None:
        assert entry.state is UserState.PENDING, "a fork is confirmed once"
        entry.state = UserState.CONFIRMED
        fork = entry.fork.fork
        self._exchange.emit(Confirm(fork))
        self._parking.confirmed(fork)
        self._accept(entry)
        self._finish(entry)

    def _fail(self, entry: _Entry, state: UserState, cause: Cause) -> None:
        assert entry.state not in (UserState.LOST, UserState.RELEASED), "an end is final"
        was_pending = entry.state is UserState.PENDING
        entry.state = state
        entry.cause = cause
        fork = entry.fork.fork
        self._exchange.emit(FailReference(fork, cause))
        self._parking.failed(fork, cause)
        if was_pending:
            self._accept(entry)  # it will never be used, so the parent need not wait for it
        self._finish(entry)

    def _lose(self, entry: _Entry) -> None:
        if entry.state is UserState.LOST:
            return
        reason = self._exchange.lost[entry.fork.owner]
        entry.is_known = False
        self._fail(
            entry, UserState.LOST, Cause(CauseKind.OWNER_LOST, f"the owner was lost: {reason}")
        )

    def _accept(self, entry: _Entry) -> None:
        """Tell the parent that this fork needs it no more (F6)."""
        fork = entry.fork
        if fork.parent != fork.owner and not entry.is_created_here:
            self.accept(fork.fork, fork.parent)

    def accept(self, fork: GlobalId, parent: Worker) -> None:
        """Tell a parent that a child needs it no more: G2 waits for it."""
        if parent == self._exchange.me:
            self.child_ended(fork, parent)
        else:
            self._notices.accept(parent, fork)

    def _finish(self, entry: _Entry) -> None:
        """Give up a fork that nothing needs, and have its owner told (F8), exactly once."""
        if entry.handles or entry.children or entry.state is UserState.PENDING:
            return
        fork = entry.fork
        if self._entries.get(fork.fork) is not entry:
            return
        del self._entries[fork.fork]
        self._ended.add(fork.fork, _RELEASED)
        if entry.is_known:
            self._notices.delete(fork.owner, fork.rref, fork.fork)
        else:
            self._exchange.emit(Deleted((fork.fork,)))
        entry.state = UserState.RELEASED
