"""What a client can ask of a store, and what comes back: the values every dialect parses into.

Values only. A command is one named tuple; `table.Table.apply` is its only interpreter, so every
front (own dialect, torch's, in memory) has the same meaning. The number of a command on the wire
is its place in `COMMANDS`: append new ones at the end, never reorder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

__all__ = (
    "COMMANDS",
    "NO_LEASE",
    "NO_VERSION",
    "OPCODES",
    "RESENDABLE",
    "Add",
    "Append",
    "Barrier",
    "Cancel",
    "Check",
    "Command",
    "CompareSet",
    "DeleteKey",
    "Get",
    "GrantLease",
    "ListKeys",
    "MultiGet",
    "MultiSet",
    "NumKeys",
    "Ping",
    "QueueLen",
    "QueuePop",
    "QueuePush",
    "QueueReturn",
    "RenewLease",
    "RevokeLease",
    "Set",
    "Snapshot",
    "StoreEvent",
    "Wait",
    "Watch",
    "make",
)

NO_LEASE = 0
NO_VERSION = -1


class StoreEvent(NamedTuple):
    """One change of one key, as a watch reports it.

    ``kind`` is ``put``, ``delete`` or ``expire`` (its lease lapsed); ``value`` is empty for the
    last two; ``version`` is the store-wide revision this change made, strictly increasing.
    """

    kind: Literal["put", "delete", "expire"]
    key: str
    value: bytes
    version: int


class Set(NamedTuple):
    """Write ``value``; the key then hangs on ``lease`` alone, or on none (`NO_LEASE`)."""

    key: str
    value: bytes
    lease: int


class Get(NamedTuple):
    """Wait up to ``timeout`` seconds until the key exists, then give its value."""

    key: str
    timeout: float


class Add(NamedTuple):
    """Add to a decimal counter and give the new value; `NO_LEASE` keeps the key's lease."""

    key: str
    amount: int
    lease: int


class CompareSet(NamedTuple):
    """Write ``desired`` if the value equals ``expected``; an absent key equals ``b""``."""

    key: str
    expected: bytes
    desired: bytes
    lease: int


class Wait(NamedTuple):
    """Wait up to ``timeout`` seconds until all keys exist at one moment."""

    keys: list[str]
    timeout: float


class Check(NamedTuple):
    """Give whether all keys exist."""

    keys: list[str]


class DeleteKey(NamedTuple):
    """Remove a key, and the queue of that name; give whether there was one."""

    key: str


class NumKeys(NamedTuple):
    """Give the number of keys, queues not counted."""


class Append(NamedTuple):
    """Add bytes to the end of a value, creating it; the key keeps its lease."""

    key: str
    value: bytes


class MultiGet(NamedTuple):
    """Wait until all keys exist, then give their values of that one moment."""

    keys: list[str]
    timeout: float


class MultiSet(NamedTuple):
    """Write ``values[i]`` to ``keys[i]``; all or nothing."""

    keys: list[str]
    values: list[bytes]


class ListKeys(NamedTuple):
    """Give the keys that start with ``prefix``, sorted, queues not counted."""

    prefix: str


class QueuePush(NamedTuple):
    """Put a value at the end of a queue."""

    key: str
    value: bytes


class QueueReturn(NamedTuple):
    """Put a value back at the head of a queue: its pop was withdrawn when it had come too far."""

    key: str
    value: bytes


class QueuePop(NamedTuple):
    """Take the first value of a queue; an empty one is an error unless ``block``."""

    key: str
    block: bool
    timeout: float


class QueueLen(NamedTuple):
    """Give the number of values in a queue."""

    key: str


class Barrier(NamedTuple):
    """Wait until ``world_size`` have arrived at ``key``; then it starts afresh.

    ``token`` names the arrival, so that one sent again after a broken connection, when the
    barrier had opened already, is let through instead of being counted for the next round.
    """

    key: str
    world_size: int
    timeout: float
    token: bytes


class Snapshot(NamedTuple):
    """Give ``[version, key, value, key, value, …]`` of the keys that start with ``prefix``."""

    prefix: str


class Watch(NamedTuple):
    """Report changes of keys that start with ``prefix``: those after ``since``, or later ones."""

    prefix: str
    since: int


class Cancel(NamedTuple):
    """Withdraw this session's waiting request or watch; give whether it was still there."""

    request: int


class GrantLease(NamedTuple):
    """Make a lease, or renew it if the id exists; ``lease`` is a number the client chose."""

    lease: int
    ttl: float


class RenewLease(NamedTuple):
    """Renew a lease and make the asking session its holder; give whether it was still alive."""

    lease: int


class RevokeLease(NamedTuple):
    """End a lease; its keys vanish now. Give whether it was still alive."""

    lease: int


class Ping(NamedTuple):
    """Give the store's version; every event up to it has been sent before the reply."""


Command = (
    Set
    | Get
    | Add
    | CompareSet
    | Wait
    | Check
    | DeleteKey
    | NumKeys
    | Append
    | MultiGet
    | MultiSet
    | ListKeys
    | QueuePush
    | QueueReturn
    | QueuePop
    | QueueLen
    | Barrier
    | Snapshot
    | Watch
    | Cancel
    | GrantLease
    | RenewLease
    | RevokeLease
    | Ping
)
"""Any one of them."""

COMMANDS: tuple[type[Command], ...] = (
    Set,
    Get,
    Add,
    CompareSet,
    Wait,
    Check,
    DeleteKey,
    NumKeys,
    Append,
    MultiGet,
    MultiSet,
    ListKeys,
    QueuePush,
    QueueReturn,
    QueuePop,
    QueueLen,
    Barrier,
    Snapshot,
    Watch,
    Cancel,
    GrantLease,
    RenewLease,
    RevokeLease,
    Ping,
)

# Not the classes themselves or `_make`, which are written in Python: a third of the time.
make: Callable[[type[Any], Iterable[Any]], Any] = tuple.__new__
"""Makes a command of a class and all its fields in order, where every request passes."""

OPCODES: dict[type[Command], int] = {command: number for number, command in enumerate(COMMANDS)}

# May be sent again after a broken connection: running twice has the effect of running once.
# `Set` and `DeleteKey` are not among them: another client's write may come in between.
RESENDABLE: frozenset[type[Command]] = frozenset(
    {
        Get,
        Wait,
        Check,
        NumKeys,
        MultiGet,
        ListKeys,
        QueueLen,
        Barrier,
        Snapshot,
        GrantLease,
        RenewLease,
        RevokeLease,
        Ping,
    }
)
