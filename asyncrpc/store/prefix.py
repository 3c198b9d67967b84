"""`PrefixStore`: a part of another store, under a prefix that its users do not see."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from asyncrpc.errors import StoreTimeoutError
from asyncrpc.store.arguments import UNSET, Timeout, Value, check_key, check_keys
from asyncrpc.store.base import Store, StoreWatch
from asyncrpc.store.commands import StoreEvent
from asyncrpc.store.lease import Lease

__all__ = ("PrefixStore",)

_T = TypeVar("_T")


class PrefixStore:
    """Every key of this store is ``prefix/key`` in the store below.

    All operations are those of the store below; `num_keys` counts all its keys, as the reference
    does. Errors name keys as this store's users know them in ``keys``, and in full in the text.

    Args:
        prefix: put before each key, with a slash between.
        store: the store below; it stays open.
    """

    __slots__ = ("__weakref__", "_prefix", "_store")

    def __init__(self, prefix: str, store: Store) -> None:
        if not isinstance(store, Store):
            raise TypeError(f"store must be a Store, got {type(store).__name__}")
        self._prefix = check_key(prefix, "prefix") + "/"
        self._store = store

    def __repr__(self) -> str:
        return f"PrefixStore({self._prefix[:-1]!r}, {self._store!r})"

    @property
    def prefix(self) -> str:
        """The prefix, without the slash."""
        return self._prefix[:-1]

    @property
    def underlying_store(self) -> Store:
        """The store below."""
        return self._store

    async def set(self, key: str, value: Value, *, lease: Lease | None = None) -> None:
        """Write a value; see `Store.set`."""
        await self._store.set(self._full(key), value, lease=lease)

    async def get(self, key: str, timeout: Timeout = UNSET) -> bytes:
        """Wait for a key and return its value; see `Store.get`."""
        return await self._renaming(self._store.get(self._full(key), timeout))

    async def add(self, key: str, n: int, *, lease: Lease | None = None) -> int:
        """Add to a counter; see `Store.add`."""
        return await self._store.add(self._full(key), n, lease=lease)

    async def compare_set(
        self, key: str, expected: Value, desired: Value, *, lease: Lease | None = None
    ) -> bytes:
        """Write a value if the present one is as expected; see `Store.compare_set`."""
        return await self._store.compare_set(self._full(key), expected, desired, lease=lease)

    async def wait(self, keys: Iterable[str], timeout: Timeout = UNSET) -> None:
        """Wait until all keys exist; see `Store.wait`."""
        await self._renaming(self._store.wait(self._all(keys), timeout))

    async def check(self, keys: Iterable[str]) -> bool:
        """Return whether all keys exist; see `Store.check`."""
        return await self._store.check(self._all(keys))

    async def delete_key(self, key: str) -> bool:
        """Remove a key; see `Store.delete_key`."""
        return await self._store.delete_key(self._full(key))

    async def num_keys(self) -> int:
        """Return the number of keys of the whole store below."""
        return await self._store.num_keys()

    async def append(self, key: str, value: Value) -> None:
        """Add to the end of a value; see `Store.append`."""
        await self._store.append(self._full(key), value)

    async def multi_get(self, keys: Iterable[str], timeout: Timeout = UNSET) -> list[bytes]:
        """Wait for keys and return their values; see `Store.multi_get`."""
        return await self._renaming(self._store.multi_get(self._all(keys), timeout))

    async def multi_set(self, keys: Iterable[str], values: Sequence[Value]) -> None:
        """Write several values; see `Store.multi_set`."""
        await self._store.multi_set(self._all(keys), values)

    async def list_keys(self, prefix: str = "") -> list[str]:
        """Return the keys under a prefix; see `Store.list_keys`."""
        keys = await self._store.list_keys(self._full(prefix, "prefix"))
        return [self._short(key) for key in keys]

    async def queue_push(self, key: str, value: Value) -> None:
        """Put a value at the end of a queue; see `Store.queue_push`."""
        await self._store.queue_push(self._full(key), value)

    async def queue_pop(self, key: str, block: bool = True, timeout: Timeout = UNSET) -> bytes:
        """Take the first value of a queue; see `Store.queue_pop`."""
        return await self._renaming(self._store.queue_pop(self._full(key), block, timeout))

    async def queue_len(self, key: str) -> int:
        """Return the length of a queue; see `Store.queue_len`."""
        return await self._store.queue_len(self._full(key))

    async def barrier(self, key: str, world_size: int, timeout: Timeout = UNSET) -> None:
        """Wait until all have arrived; see `Store.barrier`."""
        await self._renaming(self._store.barrier(self._full(key), world_size, timeout))

    async def snapshot(self, prefix: str = "") -> tuple[dict[str, bytes], int]:
        """Return what is under a prefix, and the version; see `Store.snapshot`."""
        values, version = await self._store.snapshot(self._full(prefix, "prefix"))
        return {self._short(key): value for key, value in values.items()}, version

    def watch(self, prefix: str = "", since: int | None = None) -> StoreWatch:
        """Report the changes under a prefix; see `Store.watch`."""
        inner = self._store.watch(self._full(prefix, "prefix"), since)
        return _PrefixWatch(inner, len(self._prefix))

    def lease(self, ttl: float) -> Lease:
        """Return a lease of the store below; see `Store.lease`."""
        return self._store.lease(ttl)

    def _full(self, key: str, field: str = "key") -> str:
        return self._prefix + check_key(key, field)

    def _all(self, keys: Iterable[str]) -> list[str]:
        return [self._prefix + key for key in check_keys(keys)]

    def _short(self, key: str) -> str:
        return key[len(self._prefix) :]

    async def _renaming(self, operation: Awaitable[_T]) -> _T:
        try:
            return await operation
        except StoreTimeoutError as error:
            error.keys = tuple(map(self._short, error.keys))
            raise


class _PrefixWatch:
    """A watch whose events have keys without the prefix."""

    __slots__ = ("_inner", "_length")

    def __init__(self, inner: StoreWatch, length: int) -> None:
        self._inner = inner
        self._length = length

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoreEvent:
        kind, key, value, version = await self._inner.__anext__()
        return StoreEvent(kind, key[self._length :], value, version)

    async def aclose(self) -> None:
        """Withdraw the watch."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._inner.aclose()
