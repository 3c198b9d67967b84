"""What other workers have to be told of references that ended here, until they were.

Pure; `Users` and `Lifecycle` call it. See `lifecycle` for the theory of operation (G1, G2).
"""

from __future__ import annotations

from itertools import islice

from asyncrpc.wire import MessageType

from .exchange import Exchange
from .values import Deleted, GlobalId, WantFlush, Worker

__all__ = ("BATCH", "Notices")

BATCH = 2048
"""Ids in one frame: 48 KB, and a few milliseconds at the owner, so that a burst of them stops
neither loop."""


_WANT_FLUSH = WantFlush()


class Notices:
    """Ends, failed creations and acceptances that are queued or did not get through.

    Args:
        exchange: sends them.
    """

    __slots__ = ("_accepts", "_deletes", "_doubts", "_exchange", "_wants_flush")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._deletes: dict[Worker, dict[GlobalId, None]] = {}
        # Owner -> forks whose end the owner has to be told of; never of a lost owner.
        self._doubts: dict[Worker, dict[GlobalId, None]] = {}
        # Owner -> values whose creation failed and that others may wait for.
        self._accepts: dict[Worker, dict[GlobalId, None]] = {}
        # Parent -> children whose acceptance did not get through; sent again when it is back.
        self._wants_flush = False
        # Whether `flush` was asked for and has not come yet.

    @property
    def is_empty(self) -> bool:
        """Whether nobody has to be told of anything that is not on its way."""
        return not (self._deletes or self._doubts or self._accepts)

    def delete(self, owner: Worker, fork: GlobalId) -> None:
        """Queue the end of a fork."""
        assert owner not in self._exchange.lost, "the lost are told nothing"
        self._deletes.setdefault(owner, {})[fork] = None
        self._want_flush()

    def doubt(self, owner: Worker, rref: GlobalId) -> None:
        """Queue that this worker, its creator, gave up on a value."""
        if owner not in self._exchange.lost:
            self._doubts.setdefault(owner, {})[rref] = None
            self._want_flush()

    def accept(self, parent: Worker, child: GlobalId) -> None:
        """Tell a parent that its child needs it no more."""
        self._exchange.send(
            parent,
            MessageType.RREF_CHILD_ACCEPT,
            (child,),
            lambda _: None,
            lambda _: self._keep_accept(parent, child),
        )

    def _keep_accept(self, parent: Worker, child: GlobalId) -> None:
        self._accepts.setdefault(parent, {})[child] = None

    def flush(self) -> None:
        """Send one batch to each owner; ask for another turn if there is more."""
        self._wants_flush = False
        room = min(BATCH, self._exchange.room)
        for owner in dict.fromkeys((*self._deletes, *self._doubts)):
            batch = _take(self._deletes, owner, room)
            self._send(owner, batch, _take(self._doubts, owner, room - len(batch)))
        if self._deletes or self._doubts:
            self._want_flush()

    def _send(
        self, owner: Worker, batch: dict[GlobalId, None], doubts: dict[GlobalId, None]
    ) -> None:
        def keep(_: str) -> None:
            # G1 holds beyond the retries: told with the next batch, or when the owner is back
            if batch:
                self._deletes.setdefault(owner, {}).update(batch)
            if doubts:
                self._doubts.setdefault(owner, {}).update(doubts)

        self._exchange.send(
            owner,
            MessageType.RREF_USER_DELETE,
            (b"".join(batch), b"".join(doubts)),
            lambda _: self._exchange.emit(Deleted(tuple(batch))),
            keep,
        )

    def worker_gone(self, worker: Worker) -> None:
        """Drop what a worker that is gone would be told."""
        self._accepts.pop(worker, None)
        self._doubts.pop(worker, None)
        unsent = self._deletes.pop(worker, None)
        if unsent:
            self._exchange.emit(Deleted(tuple(unsent)))

    def rename(self, old: Worker, new: Worker) -> None:
        """Have an owner known by another id; none is a parent before it is known."""
        for table in (self._deletes, self._doubts):
            if old in table:
                table.setdefault(new, {}).update(table.pop(old))

    def reconnected(self, worker: Worker) -> None:
        """Say again what did not get through to a worker that can be reached again."""
        for child in self._accepts.pop(worker, {}):
            self.accept(worker, child)
        if worker in self._deletes or worker in self._doubts:
            self._want_flush()

    def close(self) -> None:
        """Drop everything."""
        self._accepts.clear()
        self._doubts.clear()
        self._deletes.clear()

    def _want_flush(self) -> None:
        if not self._wants_flush:
            self._wants_flush = True
            self._exchange.emit(_WANT_FLUSH)


def _take(
    table: dict[Worker, dict[GlobalId, None]], owner: Worker, most: int
) -> dict[GlobalId, None]:
    """Take what is queued for an owner, the first ``most`` of it."""
    waiting = table.pop(owner, {})
    if len(waiting) <= most:
        return waiting
    taken = dict.fromkeys(islice(waiting, most))
    for ident in taken:
        del waiting[ident]
    table[owner] = waiting
    return taken
