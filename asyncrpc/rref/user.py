"""The holder's table: references to values of other workers.

Pure; `Lifecycle` calls it. See there for the theory of operation. As in `owner`, a reference has a
line in one dict for each thing that is true of it, so that many of them cost the garbage collector
nothing.
"""

from __future__ import annotations

from asyncrpc.wire import MessageType

from .exchange import Exchange, Tombstones
from .ids import owner_of, pack_fork, parent_of, rref_of, unpack_fork
from .notices import Notices
from .parking import Parking
from .payloads import read_cause
from .values import Cause, CauseKind, Deleted, Fork, GlobalId, Row, UserState, Worker

__all__ = ("Users",)

_RELEASED = Cause(CauseKind.DELETED, "RRef has been deleted: it was released here")
_TOMBSTONES = 1 << 16  # as in owner.py


class Users:
    """References held by one agent.

    Args:
        exchange: shared with the owner's table.
        parking: calls that wait for references to be confirmed.
        notices: what other workers have to be told.
    """

    __slots__ = (
        "_causes",
        "_children",
        "_ended",
        "_exchange",
        "_handles",
        "_held",
        "_notices",
        "_parking",
        "_passed",
        "_pending",
        "_unknown",
        "_used",
    )

    def __init__(self, exchange: Exchange, parking: Parking, notices: Notices) -> None:
        self._exchange = exchange
        self._parking = parking
        self._notices = notices
        self._held: dict[GlobalId, bytes] = {}
        # Forks that this worker holds, or that have to outlive their handles, packed. All the
        # dicts by fork below are of these.
        self._handles: dict[GlobalId, int] = {}
        # Fork -> RRef objects of this process for it, at least 1. Without any the fork goes, unless
        # the owner's word is still out, or others depend on it:
        self._pending: dict[GlobalId, None] = {}
        # Forks of which the owner has not said that it knows them.
        self._passed: dict[GlobalId, int] = {}
        # Fork -> its children that the owner may not know yet, at least 1 (G2).
        self._children: dict[GlobalId, tuple[GlobalId, Worker]] = {}
        # The same the other way round: child -> the fork that it holds back, and who gets it.
        self._causes: dict[GlobalId, Cause] = {}
        # Why a fork is FAILED or LOST.
        self._unknown: dict[GlobalId, None] = {}
        # Forks that the owner cannot know, so that it has not to be told of their end (G1).
        self._used: dict[GlobalId, None] = {}
        # Forks for whose value others may wait at the owner, should it never be created.
        self._ended = Tombstones(_TOMBSTONES)  # forks given up or refused; disjoint from _held

    def __contains__(self, fork: GlobalId) -> bool:
        """Whether a fork is, or was of late, of another's value."""
        return fork in self._held or fork in self._ended

    # -- how references come to be

    def create(self, owner: Worker) -> Fork:
        """Make the first reference to a value that ``owner`` is asked to create (F1)."""
        rref = self._exchange.new_id()
        fork = Fork(rref, self._exchange.new_id(), owner, owner)
        self._add(fork)
        if owner in self._exchange.lost:
            self._lose(fork.fork)
        return fork

    def creation_confirmed(self, fork: GlobalId) -> None:
        """Learn that the owner has decoded the request to create."""
        if self._pending.pop(fork, self) is None:
            self._parking.confirmed(fork)
            if fork not in self._handles:
                self._finish(fork)

    def creation_failed(self, fork: GlobalId, cause: Cause, *, is_unsent: bool) -> None:
        """Learn that the request to create failed, or timed out even if confirmed before."""
        if fork not in self._held or fork in self._causes:
            return
        if is_unsent and fork in self._pending:
            self._unknown[fork] = None
        if fork in self._used:
            packed = self._held[fork]
            self._notices.doubt(owner_of(packed), rref_of(packed))
        self._fail(fork, cause)

    def receive(self, fork: Fork) -> None:
        """Take a decoded fork of another worker's value: one more handle (F3, F6)."""
        ident = fork.fork
        if ident in self._held:
            self._handles[ident] = self._handles.get(ident, 0) + 1
            return
        self._add(fork)
        ended = self._ended.get(ident)
        if ended is not None:
            self._unknown[ident] = None
            self._ended.discard(ident)
            self._fail(ident, ended)
        elif fork.owner in self._exchange.lost:
            self._lose(ident)
        elif fork.parent == fork.owner:
            self._confirm(ident)
        else:
            self._request(fork)

    def _add(self, fork: Fork) -> None:
        self._held[fork.fork] = pack_fork(fork)
        self._handles[fork.fork] = 1
        self._pending[fork.fork] = None

    def _request(self, fork: Fork) -> None:
        """Ask the owner to know a fork that somebody else passed on."""
        self._exchange.send(
            fork.owner,
            MessageType.RREF_FORK_REQUEST,
            (fork.rref, fork.fork, self._exchange.number()),
            lambda answer: self._requested(fork.fork, read_cause(answer)),
            lambda reason: self._request_failed(fork.fork, reason),
        )

    def _requested(self, fork: GlobalId, cause: Cause | None) -> None:
        """Take the owner's answer to a fork request."""
        if fork not in self._pending:
            return
        if cause is None:
            self._confirm(fork)
        else:
            self._unknown[fork] = None
            self._fail(fork, cause)

    def _request_failed(self, fork: GlobalId, reason: str) -> None:
        if fork in self._pending:
            text = f"the owner of the RRef could not be told of this reference to it: {reason}"
            self._fail(fork, Cause(CauseKind.CREATION, text))

    # -- passing on

    def fork(self, parent: GlobalId, to: Worker) -> Fork:
        """Make a fork for an outgoing message (F5, F6); the parent stays until it is accepted."""
        assert parent not in self._causes, "a reference that failed is not passed on"
        packed = self._held[parent]
        self._used[parent] = None
        self._passed[parent] = self._passed.get(parent, 0) + 1
        child = self._exchange.new_id()
        self._children[child] = (parent, to)
        return Fork(rref_of(packed), child, owner_of(packed), self._exchange.me)

    def child_ended(self, child: GlobalId, holder: Worker) -> None:
        """Let go of a child that the owner knows, or that will never be (G2)."""
        found = self._children.get(child)
        if found is None or found[1] != holder:
            return
        del self._children[child]
        parent = found[0]
        left = self._passed.pop(parent) - 1
        if left:
            self._passed[parent] = left
        else:
            self._finish(parent)

    def share(self, child: GlobalId) -> GlobalId:
        """Count one more RRef object of what a child was made from; return that fork."""
        parent, _ = self._children[child]
        self._handles[parent] = self._handles.get(parent, 0) + 1
        return parent

    # -- giving up

    def release(self, fork: GlobalId) -> bool:
        """Count out an RRef object; true if it was the last one."""
        handles = self._handles.pop(fork, 0)
        if handles > 1:
            self._handles[fork] = handles - 1
        elif handles:
            self._finish(fork)
        return handles == 1

    def release_all(self) -> None:
        """Count out all RRef objects."""
        self._handles.clear()
        for fork in tuple(self._held):
            self._finish(fork)

    # -- other workers

    def rename(self, old: Worker, new: Worker) -> None:
        """Have a worker known by another id; nobody else was told of the old one."""
        for fork in self.snapshot(old):
            made = unpack_fork(self._held[fork])
            self._held[fork] = pack_fork(made._replace(owner=new, parent=new))
        for child, (parent, to) in self._children.items():
            if to == old:
                self._children[child] = (parent, new)

    def owner_lost(self, owner: Worker) -> None:
        """Fail every reference to a value of a worker that is gone."""
        lost = dict.fromkeys(self.snapshot(owner))
        self._unknown |= lost  # before any of them ends: there is nobody to tell
        for fork in lost:
            self._lose(fork)
        for child, (parent, to) in tuple(self._children.items()):
            if parent in lost:
                self.child_ended(child, to)

    def holder_lost(self, holder: Worker) -> None:
        """Let go of the children that a worker that is gone would have accepted."""
        for child in [c for c, (_, to) in self._children.items() if to == holder]:
            self.child_ended(child, holder)

    def snapshot(self, owner: Worker) -> tuple[GlobalId, ...]:
        """Return the forks of ``owner``'s values that are held here now."""
        return tuple([fork for fork, packed in self._held.items() if owner_of(packed) == owner])

    def is_needed(self, fork: GlobalId, asker: Worker) -> bool:
        """Return whether a fork that ``asker`` sent needs it; one that never came is refused."""
        packed = self._held.get(fork)
        if packed is None:
            text = "RRef has been deleted: the call that carried it here had failed"
            self._ended.add(fork, Cause(CauseKind.DELETED, text))
            return False
        # the owner keeps what is held here; a parent only what the owner does not know yet
        return owner_of(packed) == asker or fork in self._pending

    # -- what is shown

    def cause(self, fork: GlobalId) -> Cause | None:
        """Return why a reference cannot be used, ``None`` if it can."""
        if fork not in self._handles:
            return self._ended.get(fork) or _RELEASED
        return self._causes.get(fork)

    def state(self, fork: GlobalId) -> UserState:
        """Return a reference's state; what is not known, or has no handle, is released."""
        return self._state(fork) if fork in self._handles else UserState.RELEASED

    def _state(self, fork: GlobalId) -> UserState:
        cause = self._causes.get(fork)
        if cause is not None:
            is_lost = cause.kind is CauseKind.OWNER_LOST
            return UserState.LOST if is_lost else UserState.FAILED
        return UserState.PENDING if fork in self._pending else UserState.CONFIRMED

    def use(self, fork: GlobalId) -> bool:
        """Note that a fetch may wait at the owner for the creation; false if it must not go."""
        if fork not in self._handles or fork in self._causes:
            return False
        self._used[fork] = None
        return True

    def rows(self) -> list[Row]:
        """Return a line for each reference held."""
        forks = map(unpack_fork, self._held.values())
        return [
            Row(f.fork, f.rref, self._state(f.fork), (f.owner,), self._handles.get(f.fork, 0))
            for f in forks
        ]

    @property
    def num_pending(self) -> int:
        """References that their owner has not confirmed."""
        return len(self._pending)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held; a child that holds something back is a child of that."""
        return not self._held

    def close(self) -> None:
        """Drop everything."""
        for table in (self._held, self._handles, self._pending, self._passed, self._children,
                      self._causes, self._unknown, self._used):  # fmt: skip
            table.clear()

    # -- transitions

    def _confirm(self, fork: GlobalId) -> None:
        del self._pending[fork]
        self._parking.confirmed(fork)
        self._accept(fork)
        self._finish(fork)

    def _fail(self, fork: GlobalId, cause: Cause) -> None:
        was_pending = self._pending.pop(fork, self) is None
        self._causes[fork] = cause
        self._parking.failed(fork, cause)
        if was_pending:
            self._accept(fork)  # it will never be used, so the parent need not wait for it
        self._finish(fork)

    def _lose(self, fork: GlobalId) -> None:
        if fork not in self._held or self._state(fork) is UserState.LOST:
            return
        reason = self._exchange.lost[owner_of(self._held[fork])]
        self._unknown[fork] = None
        self._fail(fork, Cause(CauseKind.OWNER_LOST, f"the owner was lost: {reason}"))

    def _accept(self, fork: GlobalId) -> None:
        """Tell the parent that this fork needs it no more (F6)."""
        packed = self._held[fork]
        parent = parent_of(packed)
        if parent != owner_of(packed):
            self.accept(fork, parent)

    def accept(self, fork: GlobalId, parent: Worker) -> None:
        """Tell a parent that a child needs it no more: G2 waits for it."""
        if parent == self._exchange.me:
            self.child_ended(fork, parent)
        else:
            self._notices.accept(parent, fork)

    def _finish(self, fork: GlobalId) -> None:
        """Give up a fork that nothing needs, and have its owner told (F8), exactly once."""
        if fork in self._handles or fork in self._pending or fork in self._passed:
            return
        packed = self._held.pop(fork, None)
        if packed is None:
            return
        self._ended.add(fork, _RELEASED)
        self._causes.pop(fork, None)
        self._used.pop(fork, None)
        if self._unknown.pop(fork, self) is None:
            self._exchange.emit(Deleted((fork,)))
        else:
            self._notices.delete(owner_of(packed), fork)
