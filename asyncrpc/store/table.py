"""The store itself: keys, queues, waiters, leases, watches and versions, without I/O or clock.

Called by `server` and `memory`, which own the clock and the connections. Every call takes `now`
(seconds of any monotonic clock) and nothing happens by itself: the caller asks `next_expiry`
when time matters next and then calls `expire`.

Theory of operation: `apply` interprets one command of one session. It returns the result, raises
the error, or returns `PENDING` and keeps the request among the waiters. Whatever becomes due for
*other* requests (a waiter's answer, a watch's event) is put in `outbox` as
``(session, request, outcome)``, in order; the caller takes it from there after each `apply` or
batch of them. An outcome is a `StoreEvent`, a `StoreError`, the result, or `BEHIND`.

Every write makes the next version, and one event. A waiter stands under each key it misses with
a count of them, so a write costs one look-up however many wait. The count is only a filter:
keys may be deleted again, so all are looked up once more before the waiter is answered.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Any, Literal

from asyncrpc.errors import QueueEmptyError, StoreError, StoreTimeoutError
from asyncrpc.store.changes import History, Watcher, Watchers
from asyncrpc.store.commands import (
    NO_LEASE,
    NO_VERSION,
    Add,
    Append,
    Barrier,
    Cancel,
    Check,
    Command,
    CompareSet,
    DeleteKey,
    Get,
    GrantLease,
    ListKeys,
    MultiGet,
    MultiSet,
    NumKeys,
    Ping,
    QueueLen,
    QueuePop,
    QueuePush,
    QueueReturn,
    RenewLease,
    RevokeLease,
    Set,
    Snapshot,
    StoreEvent,
    Wait,
    Watch,
)
from asyncrpc.store.failures import barrier_error, mismatch_error, missing_error
from asyncrpc.store.leasing import LeaseRecord, LeaseTable
from asyncrpc.store.waiting import Deadlines, KeyIndex, Waiter

__all__ = (
    "BEHIND",
    "DEFAULT_GRACE",
    "DEFAULT_MAX_VALUE",
    "MAX_KEY",
    "PENDING",
    "Pending",
    "Table",
    "integer_of",
)

MAX_KEY = 8192  # characters; the reference store's limit in bytes
DEFAULT_MAX_VALUE = 8 << 20  # bytes; the reference store's limit
DEFAULT_GRACE = 1.0  # seconds: longer than a reconnect, shorter than anybody's patience
_MAX_EVENTS = 1 << 16
_MAX_EVENT_BYTES = 64 << 20
_TOKEN_LIFE = 60.0  # seconds an opened barrier knows its arrivals: longer than any reconnect
_MAX_WAITING = 1 << 16  # requests and watches of one session: more is a leak in the client
_INT64 = 1 << 63


class Pending(enum.Enum):
    """The type of `PENDING`."""

    PENDING = "pending"


PENDING: Literal[Pending.PENDING] = Pending.PENDING
"""What `Table.apply` returns for a request that waits."""


class Behind(enum.Enum):
    """The type of `BEHIND`."""

    BEHIND = "behind"


BEHIND: Literal[Behind.BEHIND] = Behind.BEHIND
"""What is in the outbox behind a part of a watch's past: `Table.replay` gives the next one."""


class Table:
    """All state of one store; see the module.

    Args:
        max_value: largest value, in bytes.
        max_events: events kept for `watch(since=)`.
        max_event_bytes: bytes of values those may hold.
        grace: seconds the leases of a closed session live on, if not shorter by themselves.
        push_wakes_one: whether a value pushed lets one of those go on who wait for the queue to
            exist, not all: as clients need that pop when they have waited.
    """

    def __init__(
        self,
        *,
        max_value: int = DEFAULT_MAX_VALUE,
        max_events: int = _MAX_EVENTS,
        max_event_bytes: int = _MAX_EVENT_BYTES,
        grace: float = DEFAULT_GRACE,
        push_wakes_one: bool = False,
    ) -> None:
        self.outbox: list[tuple[Any, int, object]] = []
        self._max_value = max_value
        self._grace = grace
        self._push_wakes_one = push_wakes_one
        self._values: dict[str, bytes] = {}
        self._queues: dict[str, deque[bytes]] = {}  # invariant: none is empty
        self._history = History(max_events, max_event_bytes)
        self._watchers = Watchers()
        self._leases = LeaseTable()
        self._deadlines = Deadlines()
        self._absent = KeyIndex()  # Get, Wait, MultiGet
        self._poppers = KeyIndex()  # QueuePop
        self._arrivals = KeyIndex()  # Barrier
        # Arrivals of opened barriers, until when they are remembered; oldest first.
        self._released: OrderedDict[bytes, float] = OrderedDict()
        self._requests: dict[Hashable, dict[int, Waiter | Watcher]] = {}
        self._handlers: dict[type[Command], Callable[[Any, int, Any, float], object]] = {
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
            QueuePush: self._queue_push,
            QueueReturn: self._queue_return,
            QueuePop: self._queue_pop,
            QueueLen: self._queue_len,
            Barrier: self._barrier,
            Snapshot: self._snapshot,
            Watch: self._watch,
            Cancel: self._cancel,
            GrantLease: self._grant_lease,
            RenewLease: self._renew_lease,
            RevokeLease: self._revoke_lease,
            Ping: self._ping,
        }

    @property
    def version(self) -> int:
        """The revision of the last write; 0 before the first."""
        return self._history.version

    def debug_info(self) -> dict[str, int]:
        """Return the sizes of all tables, for leak checks and status pages."""
        return {
            "keys": len(self._values),
            "queues": len(self._queues),
            "leases": len(self._leases),
            "waiting": sum(map(len, self._requests.values())),
            "version": self.version,
        }

    def contents(self) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
        """Return the values and the queues by key, without what hangs on a lease."""
        leased = self._leases.of_key
        values = {key: value for key, value in self._values.items() if key not in leased}
        return values, {key: list(queue) for key, queue in self._queues.items()}

    def apply(self, session: Hashable, request: int, command: Command, now: float) -> object:
        """Run one command.

        Args:
            session: whose it is; what waits is dropped by `close_session`.
            request: the session's number for it, not one that still waits.
            command: what to do.
            now: the time.

        Returns:
            The result, or `PENDING`: the answer will be in `outbox`.

        Raises:
            StoreError: the command failed and changed nothing.
        """
        return self._handlers[type(command)](session, request, command, now)

    def close_session(self, session: Hashable, now: float) -> None:
        """Withdraw all that a session waits for; its leases live on for the grace."""
        for entry in self._requests.pop(session, {}).values():
            if isinstance(entry, Watcher):
                self._watchers.remove(entry)
            else:
                self._retire(entry)
        self._leases.abandon(session, now + self._grace)

    def drop_watch(self, session: Hashable, request: int) -> None:
        """End a watch whose reader is too slow."""
        entry = self._forget(session, request)
        if isinstance(entry, Watcher):
            self._watchers.remove(entry)

    def next_expiry(self) -> float:
        """Return when `expire` must be called next; infinity if nothing can expire."""
        return min(self._deadlines.next(), self._leases.next())

    def expire(self, now: float) -> None:
        """Time out the waiters and lapse the leases whose time has come."""
        for waiter in self._deadlines.due(now):
            self._answer(waiter, self._timeout_error(waiter))
        for lease in self._leases.due(now):
            self._vanish(lease)

    # Values

    def _set(self, _session: object, _request: int, command: Set, _now: float) -> None:
        key, value, lease_id = command
        self._put(key, value, self._leases.find(lease_id) if lease_id else None)

    def _get(self, session: Hashable, request: int, command: Get, now: float) -> object:
        value = self._values.get(command[0])
        if value is not None:
            return value
        return self._await_keys(session, request, command, (command.key,), now)

    def _add(self, _session: object, _request: int, command: Add, _now: float) -> int:
        key, amount, lease_id = command
        old = self._values.get(key)
        total = amount if old is None else integer_of(key, old) + amount
        if not -_INT64 <= total < _INT64:
            raise StoreError(f"add to key {key!r} leaves the range of 64-bit integers: {total}")
        lease = self._leases.find(lease_id) if lease_id else self._leases.of_key.get(key)
        self._put(key, b"%d" % total, lease)
        return total

    def _compare_set(self, _s: object, _r: int, command: CompareSet, _now: float) -> bytes:
        key, expected, desired, lease_id = command
        lease = self._leases.find(lease_id)
        value = self._values.get(key)
        if value is None:
            if expected:
                return expected
        elif value != expected:
            return value
        self._put(key, desired, lease)
        return desired

    def _wait(self, session: Hashable, request: int, command: Wait, now: float) -> object:
        return self._await_keys(session, request, command, tuple(command.keys), now)

    def _check(self, _session: object, _request: int, command: Check, _now: float) -> bool:
        return not self._missing(command.keys)

    def _delete_key(self, _s: object, _r: int, command: DeleteKey, _now: float) -> bool:
        had_queue = self._queues.pop(command.key, None) is not None
        had_value = command.key in self._values
        if had_value:
            self._leases.attach(command.key, None)
            self._remove(command.key, "delete")
        return had_value or had_queue

    def _num_keys(self, _session: object, _request: int, _command: NumKeys, _now: float) -> int:
        return len(self._values)

    def _append(self, _session: object, _request: int, command: Append, _now: float) -> None:
        key, value = command
        self._put(key, self._values.get(key, b"") + value, self._leases.of_key.get(key))

    def _multi_get(self, session: Hashable, request: int, command: MultiGet, now: float) -> object:
        return self._await_keys(session, request, command, tuple(command.keys), now)

    def _multi_set(self, _session: object, _request: int, command: MultiSet, _now: float) -> None:
        keys, values = command
        if len(keys) != len(values):
            raise StoreError(f"multi_set got {len(keys)} keys and {len(values)} values")
        for key, value in zip(keys, values, strict=True):
            self._check_size(key, value)
        for key, value in zip(keys, values, strict=True):
            self._put(key, value, None)

    def _list_keys(self, _s: object, _r: int, command: ListKeys, _now: float) -> list[str]:
        return sorted(key for key in self._values if key.startswith(command.prefix))

    def _snapshot(self, _s: object, _r: int, command: Snapshot, _now: float) -> list[object]:
        flat: list[object] = [self.version]
        for key, value in self._values.items():
            if key.startswith(command.prefix):
                flat += (key, value)
        return flat

    def _ping(self, session: Hashable, _request: int, _command: Ping, _now: float) -> int:
        """Return the version up to which all of a session's watches were told what there is."""
        entries = self._requests.get(session, {}).values()
        behind = [e.position for e in entries if isinstance(e, Watcher) and e.position is not None]
        return min(behind, default=self.version)

    # Queues and barriers

    def _queue_push(self, _s: object, _r: int, command: QueuePush, _now: float) -> None:
        key, value = command
        self._check_size(key, value)
        self._queues.setdefault(key, deque()).append(value)
        self._serve_queue(key)

    def _queue_return(self, _s: object, _r: int, command: QueueReturn, _now: float) -> None:
        key, value = command
        self._check_size(key, value)
        self._queues.setdefault(key, deque()).appendleft(value)
        self._serve_queue(key)

    def _serve_queue(self, key: str) -> None:
        # First those who wait for the queue to exist: it does, if only until it is popped.
        if key in self._absent:
            self._wake(key, 1 if self._push_wakes_one else math.inf)
        popper = self._poppers.first(key)
        if popper is not None:
            self._answer(popper, self._take(key))

    def _queue_pop(self, session: Hashable, request: int, command: QueuePop, now: float) -> object:
        key, block, timeout = command
        if key in self._queues:
            return self._take(key)
        if not block:
            raise QueueEmptyError(f"queue {key!r} is empty")
        return self._enlist(session, request, command, timeout, self._poppers, (key,), now)

    def _queue_len(self, _session: object, _request: int, command: QueueLen, _now: float) -> int:
        return len(self._queues.get(command.key, ()))

    def _take(self, key: str) -> bytes:
        queue = self._queues[key]
        value = queue.popleft()
        if not queue:
            del self._queues[key]
        return value

    def _barrier(self, session: Hashable, request: int, command: Barrier, now: float) -> object:
        key, world_size, timeout, token = command
        while self._released and next(iter(self._released.values())) <= now:
            self._released.popitem(last=False)
        if token in self._released:
            return None
        first = self._arrivals.first(key)
        if first is not None and isinstance(first.command, Barrier):
            expected = first.command.world_size
            if expected != world_size:
                raise mismatch_error(command, expected)
        if self._arrivals.count(key) + 1 < world_size:
            return self._enlist(session, request, command, timeout, self._arrivals, (key,), now)
        self._release(token, now)
        for waiter in self._arrivals.take(key):
            if isinstance(waiter.command, Barrier):
                self._release(waiter.command.token, now)
            self._answer(waiter, None)
        return None

    def _release(self, token: bytes, now: float) -> None:
        if token:
            self._released[token] = now + _TOKEN_LIFE

    # Watches and leases

    def _watch(self, session: Hashable, request: int, command: Watch, _now: float) -> int:
        prefix, since = command
        position = None if since == NO_VERSION else since
        if position is not None:
            self._history.portion(position, prefix)  # which refuses what it cannot give
        requests = self._requests_of(session, request)
        watcher = requests[request] = Watcher(session, request, prefix, position)
        self._watchers.add(watcher)
        self.replay(session, request)
        return self.version

    def replay(self, session: Hashable, request: int) -> None:
        """Put more of a watch's past into the outbox, and `BEHIND` after it if that is not all."""
        watcher = self._requests.get(session, {}).get(request)
        if not isinstance(watcher, Watcher) or watcher.position is None:
            return  # withdrawn, or new
        try:
            events, position = self._history.portion(watcher.position, watcher.prefix)
        except StoreError as error:  # the reader is slower than others write
            self.drop_watch(session, request)
            self.outbox.append((session, request, error))
            return
        self.outbox += ((session, request, event) for event in events)
        watcher.position = position if position < self.version else None
        if watcher.position is not None:
            self.outbox.append((session, request, BEHIND))

    def _cancel(self, session: Hashable, _request: int, command: Cancel, _now: float) -> bool:
        entry = self._forget(session, command.request)
        if entry is None:
            return False
        if isinstance(entry, Watcher):
            self._watchers.remove(entry)
        else:
            self._retire(entry)
        return True

    def _grant_lease(self, session: Hashable, _r: int, command: GrantLease, now: float) -> None:
        lease_id, ttl = command
        if lease_id == NO_LEASE or not 0 < ttl < math.inf:
            raise StoreError(f"lease {lease_id} with a ttl of {ttl} cannot be granted")
        self._leases.grant(lease_id, ttl, session, now)

    def _renew_lease(self, session: Hashable, _r: int, command: RenewLease, now: float) -> bool:
        return self._leases.renew(command.lease, session, now)

    def _revoke_lease(self, _s: object, _r: int, command: RevokeLease, _now: float) -> bool:
        lease = self._leases.remove(command.lease)
        if lease is None:
            return False
        self._vanish(lease)
        return True

    def _vanish(self, lease: LeaseRecord) -> None:
        for key in lease.keys:
            self._remove(key, "expire")

    # Writing

    def _put(self, key: str, value: bytes, lease: LeaseRecord | None) -> None:
        is_new = key not in self._values
        if is_new or len(value) > self._max_value:
            self._check_size(key, value)
        if lease is not None or self._leases.of_key:
            self._leases.attach(key, lease)
        self._values[key] = value
        self._history.record("put", key, value)
        if self._watchers:
            self._publish("put", key, value)
        if is_new and key in self._absent:
            self._wake(key)

    def _remove(self, key: str, kind: Literal["delete", "expire"]) -> None:
        del self._values[key]
        self._history.record(kind, key, b"")
        if self._watchers:
            self._publish(kind, key, b"")

    def _publish(self, kind: Literal["put", "delete", "expire"], key: str, value: bytes) -> None:
        event = StoreEvent(kind, key, value, self.version)
        for watcher in self._watchers.of(key):
            if watcher.position is None:
                self.outbox.append((watcher.session, watcher.request, event))

    def _check_size(self, key: str, value: bytes) -> None:
        if len(value) > self._max_value:
            raise StoreError(
                f"value of key {key[:100]!r} has {len(value)} bytes, "
                f"more than the store's limit of {self._max_value}"
            )
        if len(key) > MAX_KEY:
            raise StoreError(
                f"key {key[:100]!r}… has {len(key)} characters, more than the limit of {MAX_KEY}"
            )

    # Waiting

    def _missing(self, keys: tuple[str, ...] | list[str]) -> list[str]:
        values, queues = self._values, self._queues
        return [key for key in keys if key not in values and key not in queues]

    def _await_keys(
        self,
        session: Hashable,
        request: int,
        command: Get | Wait | MultiGet,
        keys: tuple[str, ...],
        now: float,
    ) -> object:
        absent = self._missing(keys)
        if not absent:
            return self._result(command)
        missing = tuple(dict.fromkeys(absent))
        return self._enlist(session, request, command, command.timeout, self._absent, missing, now)

    def _result(self, command: Get | Wait | MultiGet | QueuePop | Barrier) -> object:
        # A queue has no value of its own: reading one gives empty bytes, as in the reference.
        if isinstance(command, Get):
            return self._values.get(command.key, b"")
        if isinstance(command, MultiGet):
            return [self._values.get(key, b"") for key in command.keys]
        return None

    def _enlist(
        self,
        session: Hashable,
        request: int,
        command: Get | Wait | MultiGet | QueuePop | Barrier,
        timeout: float,
        index: KeyIndex,
        keys: tuple[str, ...],
        now: float,
    ) -> Pending:
        requests = self._requests_of(session, request)
        waiter = Waiter(session, request, command, now + timeout, index, keys)
        requests[request] = waiter
        index.add(waiter)
        if not timeout > 0:
            error = self._timeout_error(waiter)
            self._forget(session, request)
            self._retire(waiter)
            raise error
        self._deadlines.add(waiter)
        return PENDING

    def _wake(self, key: str, at_most: float = math.inf) -> None:
        """Let those go on who missed nothing but this key; the others miss one key less."""
        for waiter in self._absent.take(key):
            if not at_most:
                self._absent.add(waiter)
                continue
            waiter.missing -= 1
            if waiter.missing:
                continue
            command = waiter.command
            keys = command.keys if isinstance(command, Wait | MultiGet) else (key,)
            missing = tuple(dict.fromkeys(self._missing(keys)))
            if missing:  # deleted again while others were awaited
                waiter.keys = missing
                waiter.missing = len(missing)
                self._absent.add(waiter)
            else:
                self._answer(waiter, self._result(command))
                at_most -= 1

    def _answer(self, waiter: Waiter, outcome: object) -> None:
        self._forget(waiter.session, waiter.request)
        self._retire(waiter)
        self.outbox.append((waiter.session, waiter.request, outcome))

    def _retire(self, waiter: Waiter) -> None:
        if waiter.index is not None:
            waiter.index.remove(waiter)
            waiter.index = None
            self._deadlines.forget(waiter)

    def _requests_of(self, session: Hashable, request: int) -> dict[int, Waiter | Watcher]:
        requests = self._requests.setdefault(session, {})
        if len(requests) >= _MAX_WAITING:
            raise StoreError(f"this client has {_MAX_WAITING} waiting requests, no more are taken")
        if request in requests:
            raise StoreError(f"request {request} of this client is waiting already")
        return requests

    def _forget(self, session: Hashable, request: int) -> Waiter | Watcher | None:
        requests = self._requests.get(session)
        if requests is None:
            return None
        entry = requests.pop(request, None)
        if not requests:
            del self._requests[session]
        return entry

    def _timeout_error(self, waiter: Waiter) -> StoreTimeoutError:
        command = waiter.command
        if isinstance(command, Barrier):
            return barrier_error(command, self._arrivals.count(command.key))
        if isinstance(command, Wait | MultiGet):
            return missing_error(self._missing(command.keys), command.timeout)
        return missing_error([command.key], command.timeout)


def integer_of(key: str, value: bytes) -> int:
    """Return the number that a counter holds.

    Raises:
        StoreError: it is none; names the key.
    """
    # int() also takes spaces and underscores, which no counter of ours or torch's has.
    if not (value.isdigit() or (value[1:].isdigit() and value[:1] == b"-")) or len(value) > 20:
        raise StoreError(f"value of key {key!r} is no integer, so nothing can be added to it")
    return int(value)
