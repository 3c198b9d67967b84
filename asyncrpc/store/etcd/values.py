"""Operations on values: each one transaction, or a few until nobody else comes in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from asyncrpc.errors import StoreError
from asyncrpc.store.commands import (
    Add,
    Append,
    Check,
    CompareSet,
    DeleteKey,
    ListKeys,
    MultiSet,
    NumKeys,
    Set,
    Snapshot,
)
from asyncrpc.store.etcd.core import Core
from asyncrpc.store.etcd.keys import version_at
from asyncrpc.store.etcd.messages import (
    Row,
    delete,
    exists,
    is_absent,
    modified_by,
    prefix_end,
    put,
    read,
    read_prefix,
    revision_of,
    rows_of,
    txn,
    value_is,
)
from asyncrpc.store.table import integer_of

__all__ = ("Values",)

_INT64 = 1 << 63
_PAGE = 1000  # keys in one reply
_FIRST_PAUSE = 0.002  # seconds, at most, after a race was lost
_MAX_PAUSE = 0.1


class Values:
    """Carries out commands on values; the caller gives each its turn.

    Args:
        core: of the client.
        max_value: largest value, in bytes.
    """

    def __init__(self, core: Core, max_value: int) -> None:
        self._core = core
        self._layout = core.layout
        self._max_value = max_value

    async def set(self, command: Set) -> None:
        """Write a value."""
        place = self._layout.value(command.key)
        await self._core.writer.write([], [put(place, command.value, command.lease)])

    async def add(self, command: Add) -> int:
        """Add to a counter."""
        key, amount, lease = command

        def change(old: bytes | None) -> bytes:
            total = amount if old is None else integer_of(key, old) + amount
            if not -_INT64 <= total < _INT64:
                raise StoreError(f"add to key {key!r} leaves the range of 64-bit integers: {total}")
            return b"%d" % total

        return int(await self._change(key, change, lease))

    async def append(self, command: Append) -> None:
        """Add to the end of a value."""
        key, value = command

        def change(old: bytes | None) -> bytes:
            new = (old or b"") + value
            if len(new) > self._max_value:
                raise StoreError(
                    f"value of key {key[:100]!r} has {len(new)} bytes, "
                    f"more than the store's limit of {self._max_value}"
                )
            return new

        await self._change(key, change, 0)

    async def compare_set(self, command: CompareSet) -> bytes:
        """Write a value if the present one is as expected."""
        key, expected, desired, lease = command
        place = self._layout.value(key)
        write, present = put(place, desired, lease), read(place)
        if not expected:
            written = await self._core.writer.write([is_absent(place)], [write], [present])
            if written.is_done:
                return desired
            row = _only(written.responses)
            if row is not None and row.value:
                return row.value
            # an empty value is as good as none
        written = await self._core.writer.write([value_is(place, expected)], [write], [present])
        if written.is_done:
            return desired
        row = _only(written.responses)
        if row is not None:
            return row.value
        # it has gone in between
        return expected or await self.compare_set(command)

    async def check(self, command: Check) -> bool:
        """Return whether keys or queues of these names exist."""
        operations = []
        for key in dict.fromkeys(command.keys):
            operations.append(read(self._layout.value(key), count_only=True))
            operations.append(read_prefix(self._layout.items(key), count_only=True))
        found, _ = await self._core.look(operations)
        counts = [int(response.get("count", 0)) for response in found]
        return all(map(max, counts[::2], counts[1::2]))

    async def delete_key(self, command: DeleteKey) -> bool:
        """Remove a key and the queue of that name."""
        place = self._layout.value(command.key)
        items = self._layout.items(command.key)
        items_range = items, prefix_end(items)
        removal = [delete(place), delete(*items_range), delete(self._layout.tail(command.key))]
        count = read(*items_range, count_only=True)
        while True:
            written = await self._core.writer.write([exists(place)], removal, [count])
            if written.is_done:
                return True
            if not int(written.responses[0][1].get("count", 0)):
                return False
            written = await self._core.writer.write([exists(*items_range)], removal)
            if written.is_done:
                return True

    async def num_keys(self, _command: NumKeys) -> int:
        """Return the number of keys."""
        (found,), _ = await self._core.look([read_prefix(self._layout.values, count_only=True)])
        return int(found.get("count", 0))

    async def multi_set(self, command: MultiSet) -> None:
        """Write several values, all or nothing."""
        values = dict(zip(command.keys, command.values, strict=True))
        if values:
            writes = [put(self._layout.value(key), value) for key, value in values.items()]
            await self._core.writer.write([], [txn([], writes)])

    async def clear(self, kept: str, lease: int) -> None:
        """Delete all there is but one key, and let that hang on a lease."""
        place = self._layout.value(kept)
        start, end = self._layout.contents
        deletions = [delete(start, place), delete(place + b"\0", end)]
        row: Row | None = None
        while True:
            written = await self._core.writer.write(
                [is_absent(place) if row is None else modified_by(place, row.modified)],
                deletions if row is None else [*deletions, put(place, row.value, lease)],
                [read(place)],
            )
            if written.is_done:
                return
            row = _only(written.responses)

    async def list_keys(self, command: ListKeys) -> list[str]:
        """Return the keys under a prefix."""
        rows, _ = await self._rows(command.prefix, keys_only=True)
        return sorted(self._layout.key(row.key) for row in rows)

    async def snapshot(self, command: Snapshot) -> list[Any]:
        """Return the version and all keys and values under a prefix."""
        rows, revision = await self._rows(command.prefix)
        flat: list[Any] = [version_at(revision)]
        for row in rows:
            flat += (self._layout.key(row.key), row.value)
        return flat

    async def _change(self, key: str, change: Callable[[bytes | None], bytes], lease: int) -> bytes:
        """Write what follows from the present value, which keeps its lease if none is given."""
        place = self._layout.value(key)
        row: Row | None = None
        pause = _FIRST_PAUSE
        while True:
            new = change(None if row is None else row.value)
            written = await self._core.writer.write(
                [is_absent(place) if row is None else modified_by(place, row.modified)],
                [put(place, new, lease, keeps_lease=not lease and row is not None)],
                [read(place)],
            )
            if written.is_done:
                return new
            if row is not None:
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 -- no secret
                pause = min(pause * 2, _MAX_PAUSE)
            row = _only(written.responses)

    async def _rows(self, prefix: str, **options: object) -> tuple[list[Row], int]:
        """Return all keys under a prefix at one moment, and its revision."""
        start = self._layout.value(prefix)
        end = prefix_end(start)
        rows: list[Row] = []
        revision = 0
        while True:
            pinned = {"revision": str(revision)} if revision else {}
            request = read(start, end, limit=str(_PAGE), **pinned, **options)["request_range"]
            reply = await self._core.gateway.call("/v3/kv/range", request)
            revision = revision or revision_of(reply.fields)
            rows += rows_of(reply.fields)
            if not reply.fields.get("more"):
                return rows, revision
            start = rows[-1].key + b"\x00"


def _only(responses: list[tuple[str, dict[str, Any]]]) -> Row | None:
    rows = rows_of(responses[0][1])
    return rows[0] if rows else None
