"""What the remote-reference protocol is spoken in: ids, states, causes, instructions.

Values only, no I/O. The machine in `lifecycle` takes stimuli and gives `Instruction`s; its shell
carries them out.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Sequence
from typing import NamedTuple, TypeAlias

from asyncrpc.errors import OwnerLostError, RpcError, RRefCreationError, RRefDeletedError
from asyncrpc.wire import MessageType

__all__ = (
    "AnswerFetch",
    "Cause",
    "CauseKind",
    "Deleted",
    "FailFetch",
    "FailParked",
    "Fork",
    "FreeValue",
    "GlobalId",
    "Instruction",
    "OwnerState",
    "Row",
    "RunParked",
    "Send",
    "Token",
    "UserState",
    "WantFlush",
    "Worker",
)

Worker: TypeAlias = bytes
"""A worker's incarnation, 16 bytes: a restarted worker is somebody else."""

GlobalId: TypeAlias = bytes
"""Who made the id, and the how-manieth it was there: see `ids`."""

Token: TypeAlias = Hashable
"""The shell's name for a call or a fetch that waits; unique among those that do."""


class Fork(NamedTuple):
    """One reference to one value: what an RRef is made from, and what travels in its place."""

    rref: GlobalId
    """The value."""
    fork: GlobalId
    """This reference to it; for the owner's own handles the same as ``rref``."""
    owner: Worker
    """Who keeps the value."""
    parent: Worker
    """Who passed the reference on; the owner if that knows of it by itself."""


class UserState(enum.Enum):
    """What a holder knows of its reference."""

    PENDING = "pending"
    """The owner has not said that it knows this fork."""
    CONFIRMED = "confirmed"
    """The owner knows this fork, and keeps the value for it."""
    FAILED = "failed"
    """Nobody knows whether there is a value, or there is none; every use raises the cause."""
    LOST = "lost"
    """The owner is gone."""
    RELEASED = "released"
    """The holder gave it up."""


class OwnerState(enum.Enum):
    """What an owner knows of a value."""

    RESERVED = "reserved"
    """Others spoke of it before the request that creates it came."""
    RUNNING = "running"
    """The function that makes the value runs."""
    READY = "ready"
    """There is a value."""
    ERROR = "error"
    """The function failed; the error is kept in the value's place."""
    FREED = "freed"
    """Nobody holds it; value and entry are gone."""


class CauseKind(enum.StrEnum):
    """Why a reference cannot be used; the value is what travels."""

    CREATION = "creation"
    DELETED = "deleted"
    OWNER_LOST = "owner_lost"


class Cause(NamedTuple):
    """Why a reference cannot be used: a value, of which each waiter gets an error of its own."""

    kind: CauseKind
    text: str

    def error(self) -> RpcError:
        """Return a new exception that says so."""
        return _ERRORS[self.kind](self.text)


_ERRORS: dict[CauseKind, type[RpcError]] = {
    CauseKind.CREATION: RRefCreationError,
    CauseKind.DELETED: RRefDeletedError,
    CauseKind.OWNER_LOST: OwnerLostError,
}


class Row(NamedTuple):
    """One line of what is held, for `rref_debug` and the leak check."""

    id: GlobalId
    """The value's id in an owner's row, the fork's in a holder's."""
    rref: GlobalId
    state: OwnerState | UserState
    holders: tuple[Worker, ...]
    """Who holds the value, one for each fork; in a holder's row the owner."""
    handles: int
    """RRef objects of this process that refer to it."""


class Send(NamedTuple):
    """Send a control message until it is answered; then `Lifecycle.acked` or `exhausted`."""

    to: Worker
    kind: MessageType
    payload: tuple[object, ...]
    """Made of tuples, bytes, ints and strs."""
    ticket: int


class RunParked(NamedTuple):
    """Give a call, or a result, to user code: all its references are confirmed."""

    token: Token


class FailParked(NamedTuple):
    """Fail a call, or a result: one of its references cannot be used."""

    token: Token
    cause: Cause


class AnswerFetch(NamedTuple):
    """Answer a fetch with the value, or the error, that is kept for ``rref``."""

    token: Token
    rref: GlobalId


class FailFetch(NamedTuple):
    """Answer a fetch with an error: there is no value, or nobody knows."""

    token: Token
    cause: Cause


class FreeValue(NamedTuple):
    """Drop the value, or the error, kept for ``rref``; exactly once for each value kept."""

    rref: GlobalId


class WantFlush(NamedTuple):
    """Call `Lifecycle.flush` at the end of this turn of the loop: deletes wait."""


class Deleted(NamedTuple):
    """Tell who waits for the end of these forks that the owner knows of it, or is gone."""

    forks: Sequence[GlobalId]


Instruction: TypeAlias = (
    Send | RunParked | FailParked | AnswerFetch | FailFetch | FreeValue | WantFlush | Deleted
)
