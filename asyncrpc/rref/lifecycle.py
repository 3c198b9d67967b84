"""The life of remote references as one agent sees it: a pure state machine.

No asyncio, no clock, no I/O: the shell tells it what happened, and carries out the instructions
that `Lifecycle.take` gives after each. It keeps no values: the shell does, by id, until told to
free them.

Theory of operation
===================

A value has one *owner*; every other worker that refers to it holds a *fork*, an id known to both.
Whoever puts a reference into a message makes a fork for the receiver: it is the *parent*, the
receiver's reference the *child*. Messages may be lost, doubled, late and in any order; control
messages are repeated until answered, and every one of them may come twice. Two guarantees carry
the protocol (they are those of the reference system):

* **G1**: the owner is told when a fork ends. A fork leaves the holder's table in the same step that
  queues its delete, and the delete stays queued until the owner has answered or is gone. A holder
  that dies cannot tell, so the owner keeps an index of forks by holder and ends them all then.
* **G2**: a parent does not end before the owner knows the child. Making a child counts it at the
  parent; a parent that is released while it counts children ends with the last of them. The child
  asks the owner (FORK_REQUEST), and accepts (CHILD_ACCEPT) only after the answer. Children of the
  owner itself need none of this: the owner records them as it makes them.

Why no value goes early: it goes when no known fork and no handle is left, and a fork the owner
does not know has, by G2, a living ancestor that it does know. The exception is the ancestor whose
creation is still on its way, for which there is no value yet: its place is *reserved* by whatever
speaks of it first. A worker that dies takes its forks along, and with them what it had promised to
children unknown yet; these get a truthful error.

Why nothing stays for ever: G1, and five rules for what never arrives. (1) A fork whose delete came
first has a tombstone and is not added again. (2) A fork made for a message that was not sent is
taken back (`roll_back`); if nobody knows whether it was (`doubt`), the receiver is asked
(RREF_SYNC), and refuses for good what it has not seen. (3) A creator that gives up tells the owner
if others may wait (a *doubt*, next to the deletes): what waits for the creation fails, though it
may still come and counts then. (4) After a reconnect each holder sends all forks it holds, and the
owner drops the others up to the snapshot's mark. Marks are the holder's own numbers, and an end is
final, so snapshots may be late. (5) Parked calls fail with the first of their references that does.

Why doubles are harmless: every stimulus names an id, ids are never used again, and each table
ignores what it has had; ends are remembered by tombstones, whose number is bounded.

Source: the guarantees and message flows follow the protocol notes of torch.distributed.rpc
("Remote Reference Protocol"); holder index, tombstones, doubts and snapshots are ours.
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncrpc.wire import MessageType

from .exchange import Exchange
from .ids import maker_of
from .messages import take_message
from .notices import Notices
from .owner import Owners
from .parking import Parking
from .reconciling import Reconciler
from .user import Users
from .values import (
    Cause,
    CauseKind,
    FailFetch,
    FailParked,
    Fork,
    GlobalId,
    Instruction,
    OwnerState,
    Row,
    Token,
    UserState,
    Worker,
)

__all__ = ("Lifecycle",)

_CLOSED = Cause(CauseKind.DELETED, "RRef has been deleted: its agent was shut down")


class Lifecycle:
    """All remote references of one agent: values kept here, forks held here.

    A *handle* is what one RRef object counts as; several may share a fork, by whose id they are
    known. Every method but the properties may add instructions: call `take` after it.

    Args:
        me: this worker.
    """

    __slots__ = (
        "_is_closed",
        "_notices",
        "_owners",
        "_parking",
        "_reconciler",
        "_users",
        "exchange",
    )

    def __init__(self, me: Worker) -> None:
        self.exchange = Exchange(me)
        """What the tables share; its instructions are those that `take` gives."""
        self._parking = Parking(self.exchange)
        self._owners = Owners(self.exchange)
        self._notices = Notices(self.exchange)
        self._users = Users(self.exchange, self._parking, self._notices)
        self._reconciler = Reconciler(self.exchange, self._let_go)
        self._is_closed = False

    @property
    def me(self) -> Worker:
        """This worker."""
        return self.exchange.me

    def take(self) -> list[Instruction]:
        """Return what is to be done now, in this order, and forget it."""
        exchange = self.exchange
        if not exchange.instructions:
            return []
        taken, exchange.instructions = exchange.instructions, []
        return taken

    def fit(self, size: int) -> None:
        """Learn how many bytes a control message may have, to all workers or to one of them."""
        self.exchange.fit(size)

    # -- creation

    def own(self) -> Fork:
        """Count an RRef made from a local value, which the shell keeps under ``.rref``."""
        if self._is_closed:
            raise _CLOSED.error()
        return self._owners.own()

    def create(self, owner: Worker) -> Fork:
        """Count an RRef made by `remote`; its ids go into the request (F1, F2)."""
        if self._is_closed:
            raise _CLOSED.error()
        if owner == self.exchange.me:
            return self._owners.create_here()
        return self._users.create(owner)

    def created(self, rref: GlobalId, fork: GlobalId, creator: Worker) -> bool:
        """Take a decoded request that creates a value, and acknowledge it whatever this returns.

        Returns:
            Whether to run its function: ``False`` for a double, or one whose creator is lost.

        Raises:
            ValueError: the value is not the creator's to make.
        """
        if maker_of(rref) != creator:
            raise ValueError("an RRef is created by who made its id")
        if self._is_closed or creator in self.exchange.lost:
            return False
        return self._owners.created(rref, fork, creator)

    def creation_confirmed(self, fork: GlobalId) -> None:
        """Learn of the acknowledgement, or of the function's end if that is here first."""
        self._users.creation_confirmed(fork)

    def creation_failed(self, fork: GlobalId, text: str, *, is_unsent: bool = False) -> None:
        """Learn that the request to create failed or timed out; not that its function raised.

        Args:
            fork: of what `create` returned.
            text: what users of the RRef are told.
            is_unsent: the owner certainly has not got the request.
        """
        cause = Cause(CauseKind.CREATION, text)
        self._users.creation_failed(fork, cause, is_unsent=is_unsent)
        self._owners.creation_failed(fork, cause)

    def stopped(self, rref: GlobalId, text: str) -> None:
        """Learn that the function of a creation was told to stop, which it may not heed."""
        self._owners.stopped(rref, Cause(CauseKind.CREATION, text))

    def settled(self, rref: GlobalId, *, is_error: bool) -> None:
        """Learn that the function of a creation ended; the shell has kept what it gave."""
        self._owners.settled(rref, is_error=is_error)

    # -- references in messages

    def fork(self, parent: GlobalId, to: Worker) -> Fork:
        """Put a reference into a message to ``to``: return the fork that travels (F3 to F7).

        Raises:
            RRefDeletedError: the handle was released.
            RRefCreationError: the creation failed.
            OwnerLostError: the owner is gone.
        """
        self.check(parent)
        return (self._users if parent in self._users else self._owners).fork(parent, to)

    def share(self, fork: Fork) -> GlobalId:
        """Count one more RRef object of what a fork that is on its way was made from.

        Returns:
            What `fork` takes to make another one, and `release` to count it out.
        """
        if fork.owner == self.me:
            self._owners.retain(fork.rref)
            return fork.rref
        return self._users.share(fork.fork)

    def roll_back(self, forks: Iterable[Fork], to: Worker) -> None:
        """Take back forks of a message to ``to`` that certainly does not come there."""
        for fork in forks:
            self._let_go(fork, to)

    def doubt(self, forks: Iterable[Fork], to: Worker) -> None:
        """Find out about forks of a message that failed for good, delivered or not."""
        if to in self.exchange.lost:
            self.roll_back(forks, to)
        elif to == self.me:
            self.roll_back([f for f in forks if not self._users.is_needed(f.fork, to)], to)
        else:
            self._reconciler.ask(to, forks)

    def receive(self, fork: Fork) -> Fork:
        """Count an RRef decoded from a message; return its handle.

        The result must be parked, with all others of the message, before user code sees it.
        """
        if fork.owner != self.me:
            if not self._is_closed:
                self._users.receive(fork)
            return fork
        if not self._is_closed:
            self._owners.retain(fork.rref)
            if fork.parent == self.me:
                self._owners.take_back(fork.fork, self.me)
            else:
                self._users.accept(fork.fork, fork.parent)
        return Fork(fork.rref, fork.rref, self.me, self.me)

    def park(self, token: Token, forks: Iterable[GlobalId]) -> None:
        """Hold a decoded call or result until all references in it are confirmed."""
        pending = []
        for fork in forks:
            cause = self.cause(fork)
            # of a value that is kept here the creation may fail, the reference is good
            if cause is not None and self._owners.state(fork) is OwnerState.FREED:
                self.exchange.emit(FailParked(token, cause))
                return
            if self._users.state(fork) is UserState.PENDING:
                pending.append(fork)
        self._parking.park(token, pending)

    def unpark(self, token: Token) -> None:
        """Forget a parked call that was cancelled or whose deadline passed."""
        self._parking.withdraw(token)

    def release(self, forks: Iterable[GlobalId]) -> bool:
        """Count out RRef objects, each once: released by the user, or collected.

        Returns:
            Whether the last one of them was the last one of its fork of another's value.
        """
        is_last = False
        for fork in forks:
            is_last = self._users.release(fork)
            if not is_last:
                self._owners.release(fork)
        return is_last

    def flush(self) -> None:
        """Send the deletes that wait: once per turn of the loop, when `WantFlush` asked for it."""
        self._notices.flush()

    # -- fetches

    def fetch(self, rref: GlobalId, fork: GlobalId, source: Worker, token: Token) -> None:
        """Take a decoded request for a value, of a peer or of this worker itself (F9)."""
        if self._is_closed or source in self.exchange.lost:
            self.exchange.emit(FailFetch(token, _CLOSED))
            return
        self._owners.fetch(rref, fork, source, token)

    def fetch_withdrawn(self, token: Token) -> None:
        """Forget a fetch that was cancelled or timed out."""
        self._owners.fetch_withdrawn(token)

    def use(self, fork: GlobalId) -> None:
        """Check a handle before a fetch or a call through it goes to the owner, as `fork` does."""
        if self._is_closed or not self._users.use(fork):
            self.check(fork)

    # -- control messages

    def handle(self, kind: MessageType, payload: object, source: Worker) -> object:
        """Take a control message; return the payload of its answer.

        Raises:
            ValueError: it makes no sense; nothing was changed.
        """
        if self._is_closed or source in self.exchange.lost:
            is_request = kind is MessageType.RREF_FORK_REQUEST
            return (_CLOSED.kind.value, _CLOSED.text) if is_request else None
        return take_message(self._owners, self._users, kind, payload, source)

    def acked(self, ticket: int, answer: object) -> None:
        """Take the payload of the answer to a `Send`, or raise ValueError if it makes no sense."""
        self.exchange.acked(ticket, answer)

    def exhausted(self, ticket: int, reason: str) -> None:
        """Learn that a `Send` was given up unanswered."""
        self.exchange.exhausted(ticket, reason)

    # -- other workers

    def worker_gone(self, worker: Worker, reason: str) -> None:
        """Learn that a worker was lost, or left: its forks end, its values are lost."""
        assert worker != self.me, "a worker does not hear of its own end"
        if worker in self.exchange.lost:
            return
        self.exchange.lost[worker] = reason
        self.exchange.forget(worker)
        self._owners.holder_lost(worker, reason)
        self._users.owner_lost(worker)
        self._users.holder_lost(worker)
        self._notices.worker_gone(worker)
        self._reconciler.worker_gone(worker)

    def reconnected(self, worker: Worker) -> None:
        """Learn that a broken link to a living worker is open again: say what is held."""
        if worker in self.exchange.lost or worker == self.me or self._is_closed:
            return
        self._notices.reconnected(worker)
        self._reconciler.reconnected(worker, self._users.snapshot(worker))

    def found(self, stand_in: Worker, worker: Worker) -> None:
        """Learn who a worker is that was known by the id of a stand-in, to which nothing went."""
        self.exchange.rename(stand_in, worker)
        self._notices.rename(stand_in, worker)
        self._users.rename(stand_in, worker)
        self._owners.holders.rename(stand_in, worker)

    def unfound(self, stand_in: Worker) -> None:
        """Learn that there is no such worker; what was made for it has failed already."""
        self.exchange.forget(stand_in)
        self._notices.worker_gone(stand_in)

    def _let_go(self, fork: Fork, holder: Worker) -> None:
        if fork.owner == self.me:
            self._owners.take_back(fork.fork, holder)
        else:
            self._users.child_ended(fork.fork, holder)

    # -- the end

    def release_all(self) -> None:
        """Release every handle: the first step of a graceful stop. `is_drained` is its end."""
        self._users.release_all()
        self._owners.release_all()

    def close(self) -> None:
        """Fail all that waits and drop everything; each use raises `RRefDeletedError` then."""
        self._is_closed = True
        self._parking.close(_CLOSED)
        self._owners.close(_CLOSED)
        self._users.close()
        self.exchange.clear()
        self._notices.close()
        self._reconciler.close()

    # -- what is shown

    def check(self, fork: GlobalId) -> None:
        """Raise what a use of the handle raises, if it cannot be used: see `fork`."""
        cause = self.cause(fork)
        if cause is not None:
            raise cause.error()

    def cause(self, fork: GlobalId) -> Cause | None:
        """Return why a handle cannot be used, ``None`` if it can."""
        if self._is_closed:
            return _CLOSED
        return (self._users if fork in self._users else self._owners).cause(fork)

    def state(self, fork: GlobalId) -> OwnerState | UserState:
        """Return a handle's state: of the value if it is kept here, else of the fork."""
        return (self._users if fork in self._users else self._owners).state(fork)

    def is_confirmed(self, fork: GlobalId) -> bool:
        """Whether the owner keeps a value, or its place, for this handle."""
        if fork in self._users:
            return self._users.state(fork) is UserState.CONFIRMED
        return self.cause(fork) is None

    def owner_rows(self) -> list[Row]:
        """Return a line for each value that others hold or that is being made here."""
        return self._owners.rows()

    def leaks(self) -> list[Row]:
        """Return what a shutdown that checks complains of: held by others, or held here."""
        return [*(row for row in self._owners.rows() if row.holders), *self._users.rows()]

    def counts(self) -> dict[str, int]:
        """Return how much there is, under the names that `debug_info` shows."""
        return {
            "num_owner_rrefs": self._owners.num_owner_rrefs,
            "num_pending_futures": self.exchange.waiting,
            "num_pending_users": self._users.num_pending,
            "num_forks": len(self._owners.holders),
        }

    @property
    def is_quiet(self) -> bool:
        """Whether no control message is out, and none is about to be sent."""
        return not self.exchange.waiting and self._notices.is_empty

    @property
    def holds_nothing(self) -> bool:
        """Whether no reference to others' values is held, and their owners know."""
        return self._users.is_empty and self.is_quiet

    @property
    def is_drained(self) -> bool:
        """Whether nothing is kept, held, parked, queued or out."""
        return (
            self._owners.is_empty
            and self._users.is_empty
            and not self.exchange.waiting
            and not len(self._parking)
            and self._notices.is_empty
            and self._reconciler.is_empty
        )
