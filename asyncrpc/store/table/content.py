"""The keys and queues of a table, and everything a change of them sets off.

Every write makes the next version, and one event. A waiter stands under each key it misses with
a count of them, so a write costs one look-up however many wait. The count is only a filter:
keys may be deleted again, so all are looked up once more before the waiter is answered.

Pure: no clock, no I/O; used by the commands of the table.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from typing import Literal

from asyncrpc.errors import StoreError, StoreTimeoutError
from asyncrpc.store.commands import Get, MultiGet, StoreEvent, Wait
from asyncrpc.store.failures import missing_error
from asyncrpc.store.table.changes import History
from asyncrpc.store.table.leasing import LeaseRecord, LeaseTable
from asyncrpc.store.table.requests import Requests
from asyncrpc.store.table.waiting import KeyIndex, Waiter

__all__ = ("DEFAULT_MAX_VALUE", "MAX_KEY", "Content")

MAX_KEY = 8192  # characters; the reference store's limit in bytes
DEFAULT_MAX_VALUE = 8 << 20  # bytes; the reference store's limit

_Awaiting = Get | Wait | MultiGet


class Content:
    """What is stored.

    Args:
        requests: who waits and watches.
        history: where changes are entered.
        leases: on which keys may hang.
        max_value: largest value, in bytes.

    Attributes:
        values: by key; changed by `put` and `remove` alone.
        queues: by key; none is empty. Whoever adds to one then calls `wake`.
        absent: who waits for keys to exist, a queue being one.
    """

    def __init__(
        self, requests: Requests, history: History, leases: LeaseTable, max_value: int
    ) -> None:
        self.values: dict[str, bytes] = {}
        self.queues: dict[str, deque[bytes]] = {}
        self.leases = leases
        self.history = history
        self.absent = KeyIndex(self._late)
        self._requests = requests
        self._watched = requests.watchers.by_prefix
        self._leased = leases.of_key
        self._max_value = max_value

    # Writing

    def put(self, key: str, value: bytes, lease: LeaseRecord | None) -> None:
        """Write a value, which then hangs on that lease or on none.

        Raises:
            StoreError: it is too large; nothing was changed.
        """
        values = self.values
        is_new = key not in values
        if is_new or len(value) > self._max_value:
            self.check_size(key, value)
        if lease is not None or self._leased:
            self.leases.attach(key, lease)
        values[key] = value
        self.history.record("put", key, value)
        if self._watched:
            self._publish("put", key, value)
        if is_new and key in self.absent:
            self.wake(key)

    def remove(self, key: str, kind: Literal["delete", "expire"]) -> None:
        """Take a value out that hangs on no lease any more."""
        del self.values[key]
        self.history.record(kind, key, b"")
        if self._watched:
            self._publish(kind, key, b"")

    def vanish(self, lease: LeaseRecord) -> None:
        """Remove the keys of a lease that has ended."""
        for key in lease.keys:
            self.remove(key, "expire")

    def check_size(self, key: str, value: bytes) -> None:
        """Refuse what is too large.

        Raises:
            StoreError: the key or the value is; says how large it may be.
        """
        if len(value) > self._max_value:
            raise StoreError(
                f"value of key {key[:100]!r} has {len(value)} bytes, "
                f"more than the store's limit of {self._max_value}"
            )
        if len(key) > MAX_KEY:
            raise StoreError(
                f"key {key[:100]!r}… has {len(key)} characters, more than the limit of {MAX_KEY}"
            )

    def _publish(self, kind: Literal["put", "delete", "expire"], key: str, value: bytes) -> None:
        event = StoreEvent(kind, key, value, self.history.version)
        for watcher in self._requests.watchers.of(key):
            if watcher.position is None:
                self._requests.outbox.append((watcher.session, watcher.request, event))

    # Waiting for keys

    def missing(self, keys: tuple[str, ...] | list[str]) -> list[str]:
        """Return those keys that do not exist."""
        values, queues = self.values, self.queues
        return [key for key in keys if key not in values and key not in queues]

    def await_keys(
        self,
        session: Hashable,
        request: int,
        command: _Awaiting,
        keys: tuple[str, ...] | list[str],
        now: float,
    ) -> object:
        """Return the result of a command if its keys exist, else have it wait for them.

        Raises:
            StoreTimeoutError: they do not, and it may not wait.
            StoreError: its session has too many that wait.
        """
        absent = self.missing(keys)
        if not absent:
            return self._result(command)
        missing = tuple(dict.fromkeys(absent))
        waiter = Waiter(session, request, command, now + command.timeout, self.absent, missing)
        return self._requests.enlist(waiter, command.timeout)

    def wake(self, key: str, at_most: float = math.inf) -> None:
        """Let those go on who missed nothing but this key; the others miss one key less."""
        for waiter in self.absent.take(key):
            if not at_most:
                self.absent.add(waiter)
                continue
            waiter.missing -= 1
            if waiter.missing:
                continue
            command = waiter.command
            keys = command.keys if isinstance(command, Wait | MultiGet) else (key,)
            missing = tuple(dict.fromkeys(self.missing(keys)))
            if missing:  # deleted again while others were awaited
                waiter.keys = missing
                waiter.missing = len(missing)
                self.absent.add(waiter)
            else:
                self._requests.answer(waiter, self._result(command))
                at_most -= 1

    def _result(self, command: object) -> object:
        # A queue has no value of its own: reading one gives empty bytes, as in the reference.
        if isinstance(command, Get):
            return self.values.get(command.key, b"")
        if isinstance(command, MultiGet):
            return [self.values.get(key, b"") for key in command.keys]
        return None

    def _late(self, waiter: Waiter) -> StoreTimeoutError:
        command = waiter.command
        if isinstance(command, Wait | MultiGet):
            return missing_error(self.missing(command.keys), command.timeout)
        return missing_error([command.key], command.timeout)
