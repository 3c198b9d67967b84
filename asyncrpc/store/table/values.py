"""The commands of a table that are about values: pure, as all of the table."""

from __future__ import annotations

from collections.abc import Hashable

from asyncrpc.errors import StoreError
from asyncrpc.store.commands import (
    Add,
    Append,
    Check,
    Command,
    CompareSet,
    DeleteKey,
    Get,
    ListKeys,
    MultiGet,
    MultiSet,
    NumKeys,
    Set,
    Snapshot,
    Wait,
)
from asyncrpc.store.table.content import Content
from asyncrpc.store.table.requests import Handler

__all__ = ("Values", "integer_of")

_INT64 = 1 << 63


class Values:
    """Reads and writes values of a content; `handlers` has what it does by command."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._values = content.values
        self._leases = content.leases
        self.handlers: dict[type[Command], Handler] = {
            Set: self._set,
            Get: self._get,
            Add: self._add,
            CompareSet: self._compare_set,
            Wait: self._wait,
            Check: self._check,
            DeleteKey: self._delete_key,
            NumKeys: self._num_keys,
            Append: self._append,
            MultiGet: self._multi_get,
            MultiSet: self._multi_set,
            ListKeys: self._list_keys,
            Snapshot: self._snapshot,
        }

    def _set(self, _session: object, _request: int, command: Set, _now: float) -> None:
        key, value, lease_id = command
        self._content.put(key, value, self._leases.find(lease_id) if lease_id else None)

    def _get(self, session: Hashable, request: int, command: Get, now: float) -> object:
        value = self._values.get(command[0])
        if value is not None:
            return value
        return self._content.await_keys(session, request, command, (command.key,), now)

    def _add(self, _session: object, _request: int, command: Add, _now: float) -> int:
        key, amount, lease_id = command
        old = self._values.get(key)
        total = amount if old is None else integer_of(key, old) + amount
        if not -_INT64 <= total < _INT64:
            raise StoreError(f"add to key {key!r} leaves the range of 64-bit integers: {total}")
        lease = self._leases.find(lease_id) if lease_id else self._leases.of_key.get(key)
        self._content.put(key, b"%d" % total, lease)
        return total

    def _compare_set(self, _s: object, _r: int, command: CompareSet, _now: float) -> bytes:
        key, expected, desired, lease_id = command
        lease = self._leases.find(lease_id) if lease_id else None
        value = self._values.get(key)
        if value is None:
            if expected:
                return expected
        elif value != expected:
            return value
        self._content.put(key, desired, lease)
        return desired

    def _wait(self, session: Hashable, request: int, command: Wait, now: float) -> object:
        values = self._values
        for key in command[0]:
            if key not in values:
                return self._content.await_keys(session, request, command, command.keys, now)
        return None

    def _multi_get(self, session: Hashable, request: int, command: MultiGet, now: float) -> object:
        return self._content.await_keys(session, request, command, command.keys, now)

    def _check(self, _session: object, _request: int, command: Check, _now: float) -> bool:
        return not self._content.missing(command.keys)

    def _delete_key(self, _s: object, _r: int, command: DeleteKey, _now: float) -> bool:
        had_queue = self._content.queues.pop(command.key, None) is not None
        had_value = command.key in self._values
        if had_value:
            self._leases.attach(command.key, None)
            self._content.remove(command.key, "delete")
        return had_value or had_queue

    def _num_keys(self, _session: object, _request: int, _command: NumKeys, _now: float) -> int:
        return len(self._values)

    def _append(self, _session: object, _request: int, command: Append, _now: float) -> None:
        key, value = command
        self._content.put(key, self._values.get(key, b"") + value, self._leases.of_key.get(key))

    def _multi_set(self, _session: object, _request: int, command: MultiSet, _now: float) -> None:
        keys, values = command
        if len(keys) != len(values):
            raise StoreError(f"multi_set got {len(keys)} keys and {len(values)} values")
        for key, value in zip(keys, values, strict=True):
            self._content.check_size(key, value)
        for key, value in zip(keys, values, strict=True):
            self._content.put(key, value, None)

    def _list_keys(self, _s: object, _r: int, command: ListKeys, _now: float) -> list[str]:
        return sorted(key for key in self._values if key.startswith(command.prefix))

    def _snapshot(self, _s: object, _r: int, command: Snapshot, _now: float) -> list[object]:
        flat: list[object] = [self._content.history.version]
        for key, value in self._values.items():
            if key.startswith(command.prefix):
                flat += (key, value)
        return flat


def integer_of(key: str, value: bytes) -> int:
    """Return the number that a counter holds.

    Raises:
        StoreError: it is none; names the key.
    """
    # int() also takes spaces and underscores, which no counter of ours or torch's has.
    if not (value.isdigit() or (value[1:].isdigit() and value[:1] == b"-")) or len(value) > 20:
        raise StoreError(f"value of key {key!r} is no integer, so nothing can be added to it")
    return int(value)
