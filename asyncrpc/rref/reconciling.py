"""Agreeing again on who holds what, after messages that may or may not have come.

Pure; `Lifecycle` calls it. See there for the theory of operation (rules 2 and 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from asyncrpc.wire import MessageType

from .exchange import Exchange
from .ids import read_ids
from .values import Fork, GlobalId, Worker

__all__ = ("NO_SNAPSHOT", "Reconciler")

NO_SNAPSHOT = -1
"""Stands for the mark of an RREF_SYNC that only asks."""


class Reconciler:
    """Forks whose messages ended unknown, and the questions about them.

    Args:
        exchange: sends the questions.
        let_go: called with a fork that its receiver does not need (any more).
    """

    __slots__ = ("_asked", "_exchange", "_let_go")

    def __init__(self, exchange: Exchange, let_go: Callable[[Fork, Worker], None]) -> None:
        self._exchange = exchange
        self._let_go = let_go
        self._asked: dict[Worker, dict[GlobalId, Fork]] = {}
        # Receiver -> forks it is asked about and has not answered for; never of a lost worker.

    @property
    def is_empty(self) -> bool:
        """Whether no question is open."""
        return not self._asked

    def ask(self, to: Worker, forks: Iterable[Fork]) -> None:
        """Ask a worker whether it needs forks that may not have come."""
        new = {fork.fork: fork for fork in forks}
        if new:
            self._asked.setdefault(to, {}).update(new)
            for portion in _portions(list(new), self._exchange.room):
                self._sync(to, NO_SNAPSHOT, (), {fork: new[fork] for fork in portion})

    def reconnected(self, worker: Worker, live: Sequence[GlobalId]) -> None:
        """Send what is held of the worker's values, and all that is to be asked."""
        asked = dict(self._asked.get(worker, {}))
        if len(live) + len(asked) <= self._exchange.room:
            self._sync(worker, self._exchange.count, live, asked)
        else:
            self._send_snapshot(worker, sorted(live))
            self.ask(worker, asked.values())

    def _send_snapshot(self, worker: Worker, live: Sequence[GlobalId]) -> None:
        """Send what is held in portions, each of which tells of the ids from one to another."""
        as_of, after = self._exchange.count, b""
        portions = _portions(live, self._exchange.room)
        for portion in portions:
            up_to = b"" if portion is portions[-1] else portion[-1]
            self._send(worker, (as_of, b"".join(portion), after, up_to), {})
            after = up_to

    def worker_gone(self, worker: Worker) -> None:
        """Let go of all that a worker that is gone was asked about."""
        for fork in self._asked.pop(worker, {}).values():
            self._let_go(fork, worker)

    def close(self) -> None:
        """Drop everything."""
        self._asked.clear()

    def _sync(
        self, to: Worker, as_of: int, live: Sequence[GlobalId], asked: dict[GlobalId, Fork]
    ) -> None:
        self._send(to, (as_of, b"".join(live), b"".join(asked)), asked)

    def _send(self, to: Worker, payload: tuple[object, ...], asked: dict[GlobalId, Fork]) -> None:
        self._exchange.send(
            to,
            MessageType.RREF_SYNC,
            payload,
            lambda answer: self._answered(to, read_ids(answer), asked),
            lambda _: None,  # asked again when the worker is back
        )

    def _answered(self, by: Worker, unneeded: list[GlobalId], asked: dict[GlobalId, Fork]) -> None:
        waiting = self._asked.get(by, {})
        for fork in asked:
            waiting.pop(fork, None)
        if not waiting:
            self._asked.pop(by, None)
        for ident in unneeded:
            if ident in asked:
                self._let_go(asked[ident], by)


def _portions(ids: Sequence[GlobalId], most: int) -> list[Sequence[GlobalId]]:
    """Return the ids in pieces of at most ``most``: one without any if there are none."""
    return [ids[at : at + most] for at in range(0, max(1, len(ids)), most)]
