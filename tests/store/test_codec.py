"""Frames whole, byte by byte and with a tail; hostile lengths and bytes."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncrpc.errors import (
    QueueEmptyError,
    RemoteProtocolError,
    StoreConnectionError,
    StoreError,
    StoreTimeoutError,
)
from asyncrpc.store import commands
from asyncrpc.store.codec import (
    FrameReader,
    Packer,
    decode_reply,
    decode_requests,
    failure,
)

EVERY_COMMAND: list[commands.Command] = [
    commands.Set("k", b"v", 3),
    commands.Get("k", 1.5),
    commands.Add("k", -1, 0),
    commands.CompareSet("k", b"", b"x", 0),
    commands.Wait(["a", "b"], float("inf")),
    commands.Check([]),
    commands.DeleteKey("ü"),
    commands.NumKeys(),
    commands.Append("k", b"\x00"),
    commands.MultiGet(["a"], 0.0),
    commands.MultiSet(["a"], [b"1"]),
    commands.ListKeys(""),
    commands.QueuePush("q", b"1"),
    commands.QueueReturn("q", b"1"),
    commands.QueuePop("q", True, 2.0),
    commands.QueueLen("q"),
    commands.Barrier("b", 4, 1.0, b"token"),
    commands.Snapshot("p/"),
    commands.Watch("p/", -1),
    commands.Cancel(9),
    commands.GrantLease(1 << 62, 3.0),
    commands.RenewLease(1),
    commands.RevokeLease(1),
    commands.Ping(),
]
NUMBERED = list(enumerate(EVERY_COMMAND, 1))


def frame(body: bytes) -> bytes:
    """Return a frame of these bytes, whatever they are."""
    return struct.pack(">I", len(body)) + body


def requests_of(data: bytes) -> list[tuple[int, commands.Command]]:
    """Decode what one peer has sent."""
    return decode_requests(FrameReader(1 << 20).feed(data))


def test_every_command_travels() -> None:
    """Each command comes out as it went in, of the same type."""
    decoded = requests_of(Packer().requests(NUMBERED))

    assert decoded == NUMBERED
    for numbered in NUMBERED:
        assert Packer().request(*numbered) == Packer().requests([numbered])
    assert Packer().reply((1, b"x")) == Packer().replies([(1, b"x")])
    assert [type(item) for item in EVERY_COMMAND] == [type(item) for _, item in decoded]
    assert set(commands.COMMANDS) == {type(item) for item in EVERY_COMMAND}


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
def test_frames_may_come_in_any_pieces(step: int) -> None:
    """The frames of a stream are the same however it was cut."""
    packer = Packer()
    data = packer.requests(NUMBERED[:3]) + packer.requests(NUMBERED[3:])
    reader = FrameReader(1 << 20)
    items: list[Any] = []
    for start in range(0, len(data), step):
        items += reader.feed(data[start : start + step])

    assert decode_requests(items) == NUMBERED


def test_a_tail_waits_for_the_rest() -> None:
    """The beginning of a frame behind a whole one is kept until the rest comes."""
    packer = Packer()
    one, two = packer.requests(NUMBERED[:1]), packer.requests(NUMBERED[1:2])
    reader = FrameReader(1 << 20)

    assert len(reader.feed(one + two[:5])) == 1
    assert len(reader.feed(two[5:])) == 1


def test_large_frames_pass() -> None:
    """A frame larger than the buffer arrives whole, and small ones after it."""
    packer = Packer()
    large: list[tuple[int, commands.Command]] = [(1, commands.Set("k", bytes(3 << 20), 0))]
    reader = FrameReader(4 << 20)
    items = reader.feed(packer.requests(large) + packer.requests(NUMBERED[:1]))

    assert [*large, *NUMBERED[:1]] == decode_requests(items)
    assert len(reader.get_buffer()) < 1 << 17


def test_a_claimed_length_takes_no_memory() -> None:
    """Room is made for what has come, not for what was announced."""
    reader = FrameReader(1 << 31)
    reader.feed(struct.pack(">I", 1 << 31) + bytes(100))

    assert len(reader.get_buffer()) < 1 << 17


@pytest.mark.parametrize("length", [0, (1 << 20) + 1, 1 << 31, (1 << 32) - 1])
def test_hostile_lengths_are_refused(length: int) -> None:
    """An empty frame and one beyond the limit break the protocol at once."""
    with pytest.raises(RemoteProtocolError, match=f"{length} bytes"):
        FrameReader(1 << 20).feed(struct.pack(">I", length))


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",  # never used
        b"\x93\x01",  # too short
        msgpack.packb([]) + b"\x00",  # too long
        msgpack.packb({}),
        msgpack.packb(7),
        msgpack.packb([{"a": 1}]),
        msgpack.packb([msgpack.ExtType(5, b"x")]),
        b"\xdd\xff\xff\xff\xff",  # an array of 4 G items
        b"\xdb\xff\xff\xff\xffx",  # a str of 4 GiB
        b"\x91" * 5000 + b"\x90",  # a deep nest
        b"\x91\xa2\xff\xff",  # no UTF-8
        b"\x91\xd7\xff" + bytes(8),  # a timestamp
    ],
)
def test_bodies_that_are_no_array_are_refused(body: bytes) -> None:
    """Whatever is no msgpack array of plain values breaks the protocol."""
    with pytest.raises(RemoteProtocolError):
        requests_of(frame(body))


@pytest.mark.parametrize(
    "item",
    [
        [],
        [1],
        7,
        None,
        "abc",
        [1, 0, []],
        [1, 0, ["k", "text", 0]],
        [1, 0, ["k", b"v", 0, 1]],
        [1, 0, None],
        [1, 0, 5],
        [1, 99, []],
        [1, -1, []],
        [1, "0", []],
        [1, [], []],
        [1, 1.5, []],
        [0, 7, []],
        [-1, 7, []],
        ["1", 7, []],
        [True, 7, []],
        [1, 4, [["a", 5], 1.0]],
        [1, 5, [[b"a"]]],
        [1, 10, [["a"], ["text"]]],
        [1, 1, ["k", 5]],
    ],
)
def test_requests_of_wrong_shape_are_refused(item: object) -> None:
    """A request with a wrong number, opcode or argument type breaks the protocol."""
    with pytest.raises(RemoteProtocolError):
        requests_of(frame(msgpack.packb([item])))


@given(st.binary(max_size=200))
def test_random_bytes_raise_only_protocol_errors(data: bytes) -> None:
    """Bytes of a peer raise RemoteProtocolError or nothing."""
    for stream in (data, frame(data)):
        with contextlib.suppress(RemoteProtocolError):
            items = FrameReader(1 << 16).feed(stream)
            for item in items:
                with contextlib.suppress(RemoteProtocolError):
                    decode_reply(item)
            decode_requests(items)


@given(st.data())
def test_changed_bytes_raise_only_protocol_errors(data: st.DataObject) -> None:
    """A valid stream with one byte changed raises RemoteProtocolError or nothing."""
    stream = bytearray(Packer().requests(NUMBERED))
    index = data.draw(st.integers(0, len(stream) - 1))
    stream[index] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        requests_of(bytes(stream))


def test_replies_travel() -> None:
    """Results, failures and events come out as they went in."""
    event = commands.StoreEvent("put", "k", b"v", 12)
    errors = [
        StoreError("one"),
        StoreTimeoutError("two", keys=("a", "b")),
        QueueEmptyError("three"),
        StoreConnectionError("four"),
    ]
    batch = [(1, b"x"), (2, None), (3, [b"a", "b", 1]), (4, *event)]
    data = Packer().replies([*batch, *(failure(5, error) for error in errors)])
    replies = FrameReader(1 << 20).feed(data)

    assert replies[:3] == [[1, b"x"], [2, None], [3, [b"a", "b", 1]]]
    assert event == decode_reply(replies[3])
    rebuilt = [decode_reply(reply) for reply in replies[4:]]
    assert [(type(error), str(error)) for error in errors] == [
        (type(error), str(error)) for error in rebuilt
    ]
    assert isinstance(rebuilt[1], StoreTimeoutError)
    assert rebuilt[1].keys == ("a", "b")


@pytest.mark.parametrize(
    "item",
    [7, [], ["x", 1], [1], [1, 2, 3], [1, 9, "x", []], [1, 0, 5, []], [1, "put", "k", "v", 1]],
)
def test_replies_of_wrong_shape_are_refused(item: object) -> None:
    """A reply without a number, or of another shape, breaks the protocol."""
    with pytest.raises(RemoteProtocolError):
        decode_reply(item)
