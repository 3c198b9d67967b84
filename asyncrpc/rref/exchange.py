"""What the tables of one agent share: instructions out, ids, control messages, who is lost.

Pure. Used by `Owners`, `Users` and `Lifecycle` alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from asyncrpc.wire import MessageType

from .ids import ID_SIZE, make_id
from .values import Cause, GlobalId, Instruction, Send, Worker

__all__ = ("Exchange", "Tombstones")

_FRAME = 128  # bytes of a message beside its ids: a count, two bounds, and where each item ends
_UNLIMITED = 1 << 62

OnAnswer = Callable[[object], None]
"""Takes the payload that a control message was answered with."""
OnExhausted = Callable[[str], None]
"""Takes the reason why a control message was never answered."""


class Exchange:
    """One agent's side of all control messages.

    Args:
        me: this worker.
    """

    __slots__ = ("_tickets", "count", "instructions", "lost", "me", "room")

    def __init__(self, me: Worker) -> None:
        self.me = me
        self.count = 0
        """The last number given out: of ids made here, and stamps on what is learnt. It only
        grows, so what bears a greater number than a snapshot is younger than it."""
        self.instructions: list[Instruction] = []
        self.lost: dict[Worker, str] = {}
        """Workers that are gone, and why; nothing of theirs is taken any more. One entry for each
        incarnation that ever ended, so it grows with restarts, not with traffic."""
        self.room = _UNLIMITED
        """Ids that one message may have."""
        self._tickets: dict[int, tuple[Worker, OnAnswer, OnExhausted]] = {}
        # Control messages that are out; one is answered, exhausted or forgotten, once.

    def fit(self, size: int) -> None:
        """Learn how many bytes a message may have, to all workers or to one; the least counts."""
        self.room = min(self.room, max(1, (size - _FRAME) // ID_SIZE))

    def number(self) -> int:
        """Return the next number of this worker."""
        self.count += 1
        return self.count

    def new_id(self) -> GlobalId:
        """Return an id that nobody else makes."""
        self.count += 1
        return make_id(self.me, self.count)

    def emit(self, instruction: Instruction) -> None:
        """Add an instruction for the shell."""
        self.instructions.append(instruction)

    def send(
        self,
        to: Worker,
        kind: MessageType,
        payload: tuple[object, ...],
        on_answer: OnAnswer,
        on_exhausted: OnExhausted,
    ) -> None:
        """Have a control message sent until it is answered; nothing is sent to the lost."""
        assert to != self.me, "a worker tells itself nothing"
        if to in self.lost:
            return
        ticket = self.number()
        self._tickets[ticket] = (to, on_answer, on_exhausted)
        self.emit(Send(to, kind, payload, ticket))

    def acked(self, ticket: int, answer: object) -> None:
        """Take an answer; later ones to the same message are ignored."""
        entry = self._tickets.pop(ticket, None)
        if entry is None:
            return
        try:
            entry[1](answer)
        except ValueError as error:
            entry[2](f"the answer makes no sense: {error}")
            raise

    def exhausted(self, ticket: int, reason: str) -> None:
        """Learn that a message was given up unanswered."""
        entry = self._tickets.pop(ticket, None)
        if entry is not None:
            entry[2](reason)

    def forget(self, worker: Worker) -> None:
        """Drop what is out to a worker that is gone."""
        for ticket in [t for t, (to, _, _) in self._tickets.items() if to == worker]:
            del self._tickets[ticket]

    def rename(self, old: Worker, new: Worker) -> None:
        """Have a worker known by another id."""
        for ticket, (to, on_answer, on_exhausted) in self._tickets.items():
            if to == old:
                self._tickets[ticket] = (new, on_answer, on_exhausted)

    def clear(self) -> None:
        """Drop everything that is out."""
        self._tickets.clear()

    @property
    def waiting(self) -> int:
        """How many control messages are out."""
        return len(self._tickets)


class Tombstones(OrderedDict[GlobalId, Cause]):
    """The ends that may still be asked about: the youngest ``limit`` of them, each with its cause.

    Ids are never used again, so an entry is needed only while messages about it may be on their
    way. Forgetting one early costs at most a fork that stays until the next snapshot.
    """

    __slots__ = ("_limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def add(self, ident: GlobalId, cause: Cause) -> None:
        """Remember the end of ``ident``; the first cause stands."""
        if ident not in self:
            self[ident] = cause
            if len(self) > self._limit:
                self.popitem(last=False)

    def discard(self, ident: GlobalId) -> None:
        """Forget it: there is more to come after all."""
        self.pop(ident, None)
