"""Entries of the store come back as they were, and garbage is refused by name."""

from __future__ import annotations

import msgpack
import pytest

from asyncrpc.discovery import (
    Record,
    Verdict,
    decode_entry,
    find_entry,
    key_of,
    name_key,
    worker_key,
)
from asyncrpc.identity import WorkerInfo
from asyncrpc.transport import Address

RECORD = Record(
    WorkerInfo("trainer:a-b", 7),
    bytes(range(16)),
    (Address("tcp", "::1", 80), Address("unix", path="/tmp/a socket")),
    bytes(16),
    Address("tcp", "10.0.0.1", 9),
    3,
)


@pytest.mark.parametrize(
    "entry",
    [
        RECORD,
        Record(WorkerInfo("w", 0), b"i" * 16, (Address("memory", "w-1"),), b"h" * 16),
        Verdict("lost", "no sign of life for 6 s", b"i" * 16, b"j" * 16),
        Verdict("conflict", "two of a kind"),
    ],
)
def test_round_trip(entry: Record | Verdict) -> None:
    """What was put comes back equal and in the same bytes: the store compares those."""
    data = entry.encode()

    assert entry == decode_entry(data)
    assert data == decode_entry(data).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        msgpack.packb(1),
        msgpack.packb({"verdict": "guilty", "reason": "", "incarnation": b"", "by": b""}),
        msgpack.packb({"verdict": "lost"}),
        msgpack.packb({**msgpack.unpackb(RECORD.encode()), "incarnation": b"short"}),
        msgpack.packb({**msgpack.unpackb(RECORD.encode()), "addresses": []}),
        msgpack.packb({**msgpack.unpackb(RECORD.encode()), "name": "no name"}),
    ],
)
def test_garbage(data: bytes) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError, match="is no entry of a worker"):
        decode_entry(data)
    assert find_entry(data) is None


def test_keys() -> None:
    """A destination's key is that of its name, or of its id."""
    assert name_key("a") == key_of("a") == key_of(WorkerInfo("a", 3))
    assert worker_key(3) == key_of(3)
