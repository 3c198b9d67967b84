"""`asyncrpc.store.torch_codec`: requests of torch's dialect from bytes, replies to bytes."""

from __future__ import annotations

import contextlib
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.errors import RemoteProtocolError
from asyncrpc.store.commands import (
    NO_LEASE,
    Add,
    Append,
    Barrier,
    Check,
    CompareSet,
    DeleteKey,
    Get,
    ListKeys,
    MultiGet,
    MultiSet,
    NumKeys,
    QueueLen,
    QueuePop,
    QueuePush,
    Set,
    Wait,
)
from asyncrpc.store.torch_codec import CancelWait, Echo, Request, RequestReader, encode_reply
from tests.store import torch_wire as wire

KEY = "/ключ\udcff"
"""A key of two bytes per letter, and a byte that is no letter."""
NAME = KEY.encode(errors="surrogateescape")
BYTES = bytes(range(256))

REQUESTS: list[tuple[bytes, Request]] = [
    (wire.set_(NAME, BYTES), Set(KEY, BYTES, NO_LEASE)),
    (wire.compare_set(NAME, b"a", b""), CompareSet(KEY, b"a", b"", NO_LEASE)),
    (wire.get(NAME), Get(KEY, 0.0)),
    (wire.add(NAME, -(1 << 63)), Add(KEY, -(1 << 63), NO_LEASE)),
    (wire.check(NAME, b""), Check([KEY, ""])),
    (wire.wait(), Wait([], math.inf)),
    (wire.wait(NAME, b"b"), Wait([KEY, "b"], math.inf)),
    (wire.NUM_KEYS, NumKeys()),
    (wire.delete_key(NAME), DeleteKey(KEY)),
    (wire.append(NAME, BYTES), Append(KEY, BYTES)),
    (wire.multi_get(NAME, b"b"), MultiGet([KEY, "b"], 0.0)),
    (wire.multi_set((NAME, BYTES), (b"", b"")), MultiSet([KEY, ""], [BYTES, b""])),
    (wire.CANCEL_WAIT, CancelWait()),
    (wire.ping(0x01020304), Echo(b"\4\3\2\1")),
    (wire.queue_push(NAME, BYTES), QueuePush(KEY, BYTES)),
    (wire.queue_pop(NAME), QueuePop(KEY, block=False, timeout=0.0)),
    (wire.queue_len(NAME), QueueLen(KEY)),
    (wire.LIST_KEYS, ListKeys("")),
    (wire.barrier(NAME, 3), Barrier(KEY, 3, math.inf, b"")),
]
"""Every request, as bytes and as what they mean."""

ALL = wire.VALIDATE + b"".join(data for data, _ in REQUESTS)


def test_every_opcode_is_read() -> None:
    """All at once, in order, each to the command that every other front applies too."""
    assert [request for _, request in REQUESTS] == list(RequestReader().feed(ALL))
    assert {data[0] for data, _ in REQUESTS} == set(range(1, 19))


def test_bytes_may_come_one_at_a_time() -> None:
    """A request is handed out with its last byte, not before and not after."""
    reader = RequestReader()
    assert list(reader.feed(wire.VALIDATE)) == []

    for data, request in REQUESTS:
        for at in range(len(data) - 1):
            assert list(reader.feed(data[at : at + 1])) == []
        assert [request] == list(reader.feed(data[-1:]))


@given(st.lists(st.integers(0, len(ALL)), max_size=8))
def test_bytes_may_come_in_any_pieces(cuts: list[int]) -> None:
    """Where one read ends and the next begins means nothing."""
    reader = RequestReader()
    stops = [*sorted(cuts), len(ALL)]
    found: list[Request] = []
    for start, stop in zip([0, *stops], stops, strict=False):
        found += reader.feed(ALL[start:stop])

    assert [request for _, request in REQUESTS] == found


def test_the_limits_are_torchs() -> None:
    """The longest key, the largest value and the most keys are taken."""
    key, value = b"k" * 8192, b"v" * (8 << 20)
    data = wire.set_(key, value) + wire.check(*[b""] * (1 << 17))

    large, many = RequestReader().feed(wire.VALIDATE + data)

    assert Set(key.decode(), value, NO_LEASE) == large
    assert Check([""] * (1 << 17)) == many


@pytest.mark.parametrize("data", wire.REFUSED.values(), ids=wire.REFUSED)
def test_what_is_beyond_them_is_refused(data: bytes) -> None:
    """Lengths, counts and opcodes are refused as soon as they are read; what came before counts."""
    found: list[Request] = []
    with pytest.raises(RemoteProtocolError, match="store request"):
        for request in RequestReader().feed(wire.VALIDATE + wire.NUM_KEYS + data):
            found.append(request)  # noqa: PERF402 -- the error comes after the first

    assert [NumKeys()] == found


@pytest.mark.parametrize("data", [b"\r1234", b"GET / HTTP/1.1", b"\0\1\2\3\4"])
def test_another_beginning_is_refused(data: bytes) -> None:
    """Only who says at first that it is a client of torch's is listened to."""
    reader = RequestReader()
    with pytest.raises(RemoteProtocolError, match="began with something else"):
        list(reader.feed(data))

    assert not reader.is_validated


@given(st.binary(max_size=200))
def test_any_bytes_are_requests_or_an_error(data: bytes) -> None:
    """Nothing but `RemoteProtocolError` comes of bytes that a stranger has made up."""
    with contextlib.suppress(RemoteProtocolError):
        list(RequestReader().feed(wire.VALIDATE + data))


def test_a_length_takes_no_memory() -> None:
    """Only bytes that have arrived do: a length may be a lie."""
    reader = RequestReader()
    list(reader.feed(wire.VALIDATE + b"\x06" + (1 << 17).to_bytes(8, "little")))
    tracemalloc.start()
    try:
        list(reader.feed((8192).to_bytes(8, "little")))
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert size < 10_000


@pytest.mark.parametrize(
    ("request_", "result", "expected"),
    [
        (Set("a", b"", 0), None, b""),
        (CompareSet("a", b"", b"x", 0), b"x", wire.text(b"x")),
        (Get("a", 0.0), BYTES, wire.text(BYTES)),
        (Add("a", 1, 0), -1, wire.number(-1)),
        (Check(["a"]), True, b"\0"),
        (Check(["a"]), False, b"\1"),
        (Wait(["a"], 0.0), None, wire.GO_ON),
        (NumKeys(), 7, wire.number(7)),
        (DeleteKey("a"), True, wire.number(1)),
        (DeleteKey("a"), False, wire.number(0)),
        (Append("a", b""), None, b""),
        (MultiGet(["a", "b"], 0.0), [b"", b"x"], wire.text(b"") + wire.text(b"x")),
        (MultiSet([], []), None, b""),
        (CancelWait(), None, wire.CANCELED),
        (Echo(b"1234"), b"1234", b"1234"),
        (QueuePush("a", b""), None, b""),
        (QueuePop("a", block=False, timeout=0.0), (2, b""), wire.number(2) + wire.text(b"")),
        (QueuePop("a", block=False, timeout=0.0), (0, b""), wire.number(0)),
        (QueueLen("a"), 3, wire.number(3)),
        (ListKeys(""), [KEY, ""], wire.number(2) + wire.text(NAME) + wire.text(b"")),
        (Barrier("a", 1, 0.0, b""), None, wire.GO_ON),
    ],
)
def test_replies(request_: Request, result: object, expected: bytes) -> None:
    """What is not answered gives no bytes; all else what torch's clients wait for."""
    assert expected == encode_reply(request_, result)
