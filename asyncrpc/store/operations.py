"""The operations of a store, each checked and turned into one command.

`MemoryStore` and `TCPStore` are this plus a way to have a command carried out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from asyncrpc.observe import Clock, LoopClock
from asyncrpc.store.arguments import (
    UNSET,
    Timeout,
    Value,
    check_integer,
    check_key,
    check_keys,
    check_since,
    check_span,
    check_timeout,
    to_bytes,
)
from asyncrpc.store.commands import (
    NO_LEASE,
    Add,
    Append,
    Barrier,
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
    QueueLen,
    QueuePop,
    QueuePush,
    RenewLease,
    RevokeLease,
    Set,
    Snapshot,
    Wait,
    make,
)
from asyncrpc.store.lease import Lease
from asyncrpc.store.watch import Watch

__all__ = ("Operations",)


class Operations(ABC):
    """The whole of `asyncrpc.store.Store`; see there for what each operation means.

    Args:
        timeout: seconds for operations that are given none; ``None`` for no limit.
        max_value: largest value, in bytes, that is taken at the call.
        clock: tells the time; ``None`` for the real one.
    """

    def __init__(self, timeout: float | None, max_value: int, clock: Clock | None) -> None:
        self.clock: Clock = clock or LoopClock()
        """Tells the time, to leases too."""
        self._timeout = check_timeout(timeout)
        self._max_value = check_integer(max_value, "max_value", 1)

    @property
    def timeout(self) -> float:
        """Seconds for operations that are given no time-out; infinity for no limit."""
        return self._timeout

    async def set(self, key: str, value: Value, *, lease: Lease | None = None) -> None:
        """Write a value; see `Store.set`."""
        data = self._data(value)
        command = make(Set, (check_key(key), data, NO_LEASE if lease is None else _id_of(lease)))
        await self._call(command, None, len(data))

    async def get(self, key: str, timeout: Timeout = UNSET) -> bytes:
        """Wait for a key and return its value; see `Store.get`."""
        seconds = self._seconds(timeout)
        result: bytes = await self._call(make(Get, (check_key(key), seconds)), seconds)
        return result

    async def add(self, key: str, n: int, *, lease: Lease | None = None) -> int:
        """Add to a counter; see `Store.add`."""
        lease_id = NO_LEASE if lease is None else _id_of(lease)
        command = make(Add, (check_key(key), check_integer(n, "n"), lease_id))
        result: int = await self._call(command)
        return result

    async def compare_set(
        self, key: str, expected: Value, desired: Value, *, lease: Lease | None = None
    ) -> bytes:
        """Write a value if the present one is as expected; see `Store.compare_set`."""
        old, new = self._data(expected, "expected"), self._data(desired, "desired")
        lease_id = NO_LEASE if lease is None else _id_of(lease)
        command = make(CompareSet, (check_key(key), old, new, lease_id))
        result: bytes = await self._call(command, None, len(old) + len(new))
        return result

    async def wait(self, keys: Iterable[str], timeout: Timeout = UNSET) -> None:
        """Wait until all keys exist; see `Store.wait`."""
        seconds = self._seconds(timeout)
        checked = check_keys(keys)
        await self._call(make(Wait, (checked, seconds)), seconds, _size(checked))

    async def check(self, keys: Iterable[str]) -> bool:
        """Return whether all keys exist; see `Store.check`."""
        checked = check_keys(keys)
        result: bool = await self._call(Check(checked), None, _size(checked))
        return result

    async def delete_key(self, key: str) -> bool:
        """Remove a key; see `Store.delete_key`."""
        result: bool = await self._call(DeleteKey(check_key(key)))
        return result

    async def num_keys(self) -> int:
        """Return the number of keys; see `Store.num_keys`."""
        result: int = await self._call(NumKeys())
        return result

    async def append(self, key: str, value: Value) -> None:
        """Add to the end of a value; see `Store.append`."""
        data = self._data(value)
        await self._call(Append(check_key(key), data), None, len(data))

    async def multi_get(self, keys: Iterable[str], timeout: Timeout = UNSET) -> list[bytes]:
        """Wait for keys and return their values; see `Store.multi_get`."""
        seconds = self._seconds(timeout)
        checked = check_keys(keys)
        result: list[bytes] = await self._call(MultiGet(checked, seconds), seconds, _size(checked))
        return result

    async def multi_set(self, keys: Iterable[str], values: Sequence[Value]) -> None:
        """Write several values; see `Store.multi_set`."""
        checked = check_keys(keys)
        if isinstance(values, str | bytes | bytearray) or not isinstance(values, Iterable):
            raise TypeError(f"values must be a list of bytes or str, got {type(values).__name__}")
        data = [self._data(value, f"values[{index}]") for index, value in enumerate(values)]
        if len(data) != len(checked):
            raise ValueError(
                f"values must be as many as keys, got {len(data)} for {len(checked)} keys"
            )
        await self._call(MultiSet(checked, data), None, _size(checked) + sum(map(len, data)))

    async def list_keys(self, prefix: str = "") -> list[str]:
        """Return the keys under a prefix; see `Store.list_keys`."""
        result: list[str] = await self._call(ListKeys(check_key(prefix, "prefix")))
        return result

    async def queue_push(self, key: str, value: Value) -> None:
        """Put a value at the end of a queue; see `Store.queue_push`."""
        data = self._data(value)
        await self._call(QueuePush(check_key(key), data), None, len(data))

    async def queue_pop(self, key: str, block: bool = True, timeout: Timeout = UNSET) -> bytes:
        """Take the first value of a queue; see `Store.queue_pop`."""
        if not isinstance(block, bool):
            raise TypeError(f"block must be a bool, got {type(block).__name__}: {block!r:.100}")
        seconds = self._seconds(timeout)
        result: bytes = await self._call(QueuePop(check_key(key), block, seconds), seconds)
        return result

    async def queue_len(self, key: str) -> int:
        """Return the length of a queue; see `Store.queue_len`."""
        result: int = await self._call(QueueLen(check_key(key)))
        return result

    async def barrier(self, key: str, world_size: int, timeout: Timeout = UNSET) -> None:
        """Wait until all have arrived; see `Store.barrier`."""
        seconds = self._seconds(timeout)
        size = check_integer(world_size, "world_size", 1)
        command = Barrier(check_key(key), size, seconds, self._arrival_token())
        await self._call(command, seconds)

    async def snapshot(self, prefix: str = "") -> tuple[dict[str, bytes], int]:
        """Return what is under a prefix, and the version; see `Store.snapshot`."""
        flat = await self._call(Snapshot(check_key(prefix, "prefix")))
        return dict(zip(flat[1::2], flat[2::2], strict=True)), flat[0]

    def watch(self, prefix: str = "", since: int | None = None) -> Watch:
        """Report the changes under a prefix; see `Store.watch`."""
        return self._watch(check_key(prefix, "prefix"), check_since(since))

    def lease(self, ttl: float) -> Lease:
        """Return a lease to be entered; see `Store.lease`."""
        return Lease(self, check_span(ttl, "ttl"))

    async def grant_lease(self, lease: Lease) -> None:
        """Make a lease in the store; `Lease` calls it."""
        await self._call(GrantLease(lease.id, lease.ttl))

    async def renew_lease(self, lease: Lease) -> bool:
        """Renew a lease, saying whether it was alive; `Lease` calls it."""
        result: bool = await self._call(RenewLease(lease.id), lease.ttl)
        return result

    async def revoke_lease(self, lease: Lease) -> None:
        """End a lease; `Lease` calls it."""
        await self._call(RevokeLease(lease.id), lease.ttl)

    @abstractmethod
    async def _call(
        self,
        command: Command,
        timeout: float | None = None,
        size: int = 0,
    ) -> Any:
        """Have a command carried out.

        Args:
            command: checked.
            timeout: seconds after which to give up; ``None`` takes the store's own.
            size: about how many bytes it carries, where that may be many.
        """

    @abstractmethod
    def _watch(self, prefix: str, since: int) -> Watch: ...

    @abstractmethod
    def _arrival_token(self) -> bytes: ...

    def _seconds(self, timeout: Timeout) -> float:
        if timeout is UNSET:
            return self._timeout
        if type(timeout) is float and timeout >= 0:
            return timeout
        return check_timeout(timeout)

    def _data(self, value: Value, field: str = "value") -> bytes:
        data = to_bytes(value, field)
        if len(data) > self._max_value:
            raise ValueError(f"{field} must have at most {self._max_value} bytes, got {len(data)}")
        return data


def _id_of(lease: Lease) -> int:
    if not isinstance(lease, Lease):
        raise TypeError(f"lease must be a Lease or None, got {type(lease).__name__}")
    return lease.id


def _size(keys: list[str]) -> int:
    return sum(map(len, keys))
