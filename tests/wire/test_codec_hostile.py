"""Codec: whatever a peer sends raises an RpcError, in bounded memory and time."""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import pathlib
import random
import time
import tracemalloc
import uuid
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncrpc.errors import EncodingError, MessageTooLargeError, RemoteProtocolError
from asyncrpc.identity import WorkerInfo
from asyncrpc.wire.codec import Codec
from asyncrpc.wire.state import Kind

ALLOWED = (RemoteProtocolError, MessageTooLargeError, EncodingError)
MARKED = b"\xc1"


def mark(kind: int) -> msgpack.ExtType:
    """Return the first item of an array of ``kind``."""
    return msgpack.ExtType(1, bytes([kind]))


def marked_body(root: object, names: object = ()) -> bytes:
    """Pack a body with marks, as an encoder that lies would."""
    body: bytes = msgpack.packb([names, root])
    return MARKED + body


def decode_quietly(codec: Codec, body: bytes, buffers: list[Any]) -> None:
    """Decode both ways; errors of a peer's bytes are what is expected."""
    for decode in (codec.decode, codec.decode_call):
        try:
            decode(body, list(buffers))
        except ALLOWED:
            continue


def _seeds() -> list[tuple[bytes, list[bytearray]]]:
    values: list[Any] = [
        {"a": [1, 2.5, None, True, "text", b"bytes", 2**70]},
        (1, {2, 3}, frozenset({4}), {(1, 2): 3}, complex(1, 2), range(3), slice(1, 2, 3)),
        [decimal.Decimal("1.5"), fractions.Fraction(1, 3), uuid.UUID(int=1), pathlib.Path("/a")],
        [
            dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
            dt.time(1, 2, tzinfo=dt.timezone(dt.timedelta(hours=1), "x")),
            dt.date(2024, 1, 2),
            dt.timedelta(1, 2, 3),
        ],
        [bytearray(5), memoryview(b"abc"), memoryview(bytes(16)).cast("I", (2, 2)), bytes(5000)],
        [np.arange(6).reshape(2, 3), np.float32(1), np.zeros(2, [("a", "i4"), ("b", "S3")])],
        [ValueError("x", 1), OSError(2, "a", "b"), ExceptionGroup("g", [KeyError(1)])],
        [WorkerInfo("worker1", 3), Kind.SET],
    ]
    codec = Codec(allow_pickle=False)
    seeds = [codec.encode(value) for value in values]
    seeds += [codec.encode_call((value,), {"k": value}) for value in values]
    deep: Any = 1
    for _ in range(900):
        deep = [deep, ()]
    seeds.append(Codec(max_nesting=1000).encode(deep))
    return [(body, [bytearray(buffer) for buffer in buffers]) for body, buffers in seeds]


SEEDS = _seeds()


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore")  # numpy warns of some of the dtypes
def test_mutated_bodies_raise_only_rpc_errors() -> None:
    """Bytes flipped, inserted, removed, repeated; buffers missing or of another length."""
    chance = random.Random(7)
    codecs = [Codec(allow_pickle=False), Codec(allow_pickle=False, max_nesting=1000)]
    for _ in range(30_000):
        body, buffers = chance.choice(SEEDS)
        data = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            position = chance.randrange(len(data) + 1)
            kind = chance.randrange(4)
            if kind == 0 and position < len(data):
                data[position] = chance.randrange(256)
            elif kind == 1:
                data[position:position] = chance.randbytes(chance.randint(1, 4))
            elif kind == 2:
                del data[position : position + chance.randint(1, 4)]
            else:
                data[position:position] = data[position : position + chance.randint(1, 9)]
        kept = [buffer for buffer in buffers if chance.random() < 0.95]
        decode_quietly(chance.choice(codecs), bytes(data), kept)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.lists(st.binary(max_size=20), max_size=2))
@pytest.mark.slow
def test_random_bodies_raise_only_rpc_errors(
    data: bytes, is_marked: bool, buffers: list[bytes]
) -> None:
    """Nothing in particular, with and without the prefix of a marked body."""
    decode_quietly(Codec(allow_pickle=False), MARKED * is_marked + data, buffers)


ITEMS = st.recursive(
    st.one_of(
        st.none(),
        st.integers(-5, 300),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=20),
        st.sampled_from(["<f8", "C", "F", "utf-8", "|S3", "float32", "A"]),
        st.builds(msgpack.ExtType, st.integers(0, 14), st.binary(max_size=20)),
        st.sampled_from([mark(kind) for kind in Kind]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(st.sampled_from([mark(kind) for kind in Kind]), inner, inner),
        st.dictionaries(st.text(max_size=3) | st.integers(-9, 9), inner, max_size=3),
    ),
    max_leaves=12,
)
NAMES = st.lists(
    st.lists(
        st.sampled_from(
            [
                "asyncrpc.wire.state:Kind",
                "asyncrpc.errors:RpcError",
                "builtins:OSError",
                "builtins:SystemExit",
                "builtins:BaseExceptionGroup",
                "builtins:UnicodeDecodeError",
                "asyncrpc.wire.registry:Registration",
                "builtins:eval",
                "os:system",
                "cls",
                "x",
            ]
        ),
        max_size=3,
    ),
    max_size=3,
)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(ITEMS, NAMES)
@pytest.mark.filterwarnings("ignore")
def test_forged_structures_raise_only_rpc_errors(root: Any, names: Any) -> None:
    """Well-formed msgpack with marks in wrong places and of wrong contents."""
    decode_quietly(Codec(allow_pickle=False), marked_body(root, names), [bytearray(16)])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        MARKED,
        b"\xc1\xc0",
        b"\x91",
        b"\x01\x02",
        b"\xd9\xff",
        b"\xa1\xff",
        b"\x81\x90\x01",
        b"\xc7\x01\x63x",
        b"\xd4\x01\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1k" * 50_000 + b"\xc0",
        marked_body([1, mark(Kind.TUPLE)]),
        marked_body(mark(Kind.TUPLE)),
        marked_body({"k": mark(Kind.SET)}),
        marked_body([msgpack.ExtType(2, b"\x90")]),
        marked_body([mark(Kind.BYTES), 0]),
        marked_body([mark(Kind.SET), []]),
        marked_body([mark(Kind.DICT), 1]),
        marked_body([mark(Kind.RANGE), 1, 2, 0]),
        marked_body([mark(Kind.RANGE), 1.5, 2, 1]),
        marked_body([mark(Kind.FRACTION), 1, 0]),
        marked_body([mark(Kind.WORKER_INFO), "", -1]),
        marked_body([mark(Kind.ENUM), 0, "A"]),
        marked_body([mark(Kind.ENUM), 0, "A"], [["builtins:int"]]),
        marked_body([mark(Kind.EXCEPTION), 0, [], {}, {}, None, False], [["builtins:int"]]),
        marked_body([mark(Kind.NAMEDTUPLE), 0], [["builtins:int"]]),
        marked_body([mark(Kind.EXTENSION), 1, 2]),
        marked_body([mark(200), 1]),
    ],
    ids=range(33),
)
def test_malformed_body_is_a_protocol_error(body: bytes) -> None:
    """Truncated, too long, forged, or nested beyond msgpack's own stack."""
    codec = Codec(allow_pickle=False)
    for decode in (codec.decode, codec.decode_call):
        with pytest.raises(RemoteProtocolError):
            decode(body)


def test_pickle_is_not_loaded_where_it_is_off() -> None:
    """It fails the call that it came for; the link may have honest calls on it."""
    body = marked_body([mark(Kind.PICKLE), b"cos\nsystem\n(S'true'\ntR."])
    codec = Codec(allow_pickle=False)
    for decode in (codec.decode, codec.decode_call):
        with pytest.raises(EncodingError, match="pickle is off"):
            decode(body)


@pytest.mark.parametrize(
    "value",
    [1, [], [1], [["a"]], [1, 2], [1, [2]], [1, {}], [1, 2, ["a", "a"]], [1, ["a", "b"]], {}, "a"],
)
def test_body_of_a_call_has_one_shape(value: object) -> None:
    """A list of arguments, the last of which have the names in the list at its end."""
    with pytest.raises(RemoteProtocolError, match=r"\[\*args, \*kwargs, names"):
        Codec().decode_call(msgpack.packb(value))


@pytest.mark.parametrize("is_marked", [False, True])
def test_nesting_limit_holds_while_decoding(is_marked: bool) -> None:
    """A sender with a higher limit does not get past the receiver's."""
    value: Any = (1,) if is_marked else [1]
    for _ in range(64):
        value = [value, 2]
    strict = Codec(max_nesting=64)
    lax = Codec(max_nesting=65)
    body, buffers = lax.encode(value)
    call, call_buffers = lax.encode_call((value,), {})

    assert value == lax.decode(body, buffers)
    assert ((value,), {}) == lax.decode_call(call, call_buffers)
    for decode, data in ((strict.decode, body), (strict.decode_call, call)):
        with pytest.raises(RemoteProtocolError, match="max_nesting=64"):
            decode(data)


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd\x00\x40\x00\x00" + b"\x90" * (1 << 22),
        b"\xdd\x00\x40\x00\x00" + b"\x80" * (1 << 22),
        MARKED + b"\x92\x90\xdd\x00\x40\x00\x00" + b"\x90" * (1 << 22),
        b"\xdd\x00\x20\x00\x00" + b"\xd0\x90" * (1 << 21),
    ],
    ids=["lists", "maps", "marked", "ints"],
)
def test_object_budget_is_checked_before_unpacking(body: bytes) -> None:
    """4 MB of empty containers would become 300 MB; refused with less than thrice the body."""
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLargeError, match="max_object_bytes"):
            Codec(max_object_bytes=64 << 20).decode(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 3 * len(body) > peak


def test_small_object_budget_holds_for_small_bodies() -> None:
    """The estimate is 80 bytes an element and the body's length."""
    body, buffers = Codec().encode(list(range(10)))

    assert list(range(10)) == Codec(max_object_bytes=11 * 80 + 11).decode(body, buffers)
    with pytest.raises(
        MessageTooLargeError, match=r"11 bytes holds more than 10 .* of the receiver's"
    ):
        Codec(max_object_bytes=11 * 80 + 10).decode(body, buffers)


def test_large_payload_of_few_elements_is_within_the_budget() -> None:
    """What counts is elements, not bytes of text."""
    value = [
        "x" * 5_000_000,
        {"k" * 300: 1.5, "b": [2**40, -5, None, 2**80]},
        "y" * 70_000,
        "z" * 99,
    ]

    codec = Codec()

    assert value == codec.decode(*codec.encode(value))
    assert 2000 == len(Codec().decode(*codec.encode([b"b" * 4000] * 2000)))


def test_announced_arrays_are_not_allocated() -> None:
    """Nested arrays that each announce as many items as there are bytes make no memory."""
    header = b"\xdd\x00\x01\x00\x00"
    body = header * 60 + b"\x01" * (1 << 16)
    many = (header * 1000 + b"\x01" * (1 << 20))[: 1 << 20]
    for hostile in (body, many, b"\xdc\xff\xff" * 1000 + b"\x01" * (1 << 17)):
        tracemalloc.start()
        started = time.monotonic()
        try:
            with pytest.raises(RemoteProtocolError):
                Codec().decode(hostile)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (1 << 30) > peak  # reserved and freed, never touched
        assert time.monotonic() - started < 10


def test_parts_share_the_budget() -> None:
    """Containers packed by themselves count together."""
    value: Any = [0] * 50
    for _ in range(450):
        value = [value, ()]
    codec = Codec(max_nesting=1000, max_object_bytes=1_000_000)
    body, buffers = codec.encode(value)
    assert value == codec.decode(body, buffers)

    wide: Any = [[[i] * 50, ()] for i in range(300)]
    for _ in range(398):
        wide = [wide]
    body, buffers = codec.encode(wide)
    with pytest.raises(MessageTooLargeError):
        Codec(max_nesting=1000, max_object_bytes=600_000).decode(body, buffers)


def test_buffers_must_be_used_once_and_all() -> None:
    """A small body cannot ask for a large buffer again and again."""
    codec = Codec()
    buffer = bytearray(5000)
    twice = marked_body([[mark(Kind.BYTES), 0], [mark(Kind.BYTES), 0]])

    with pytest.raises(RemoteProtocolError, match="used twice"):
        codec.decode(twice, [buffer])
    with pytest.raises(RemoteProtocolError, match="not among"):
        codec.decode(twice, [])
    with pytest.raises(RemoteProtocolError, match="refers to none"):
        codec.decode(b"\x01", [buffer])
    with pytest.raises(RemoteProtocolError, match="referred to by nothing"):
        codec.decode(marked_body(1), [buffer])


def test_attributes_cannot_replace_the_class() -> None:
    """An instance dict that names `__class__` changes nothing."""
    body = marked_body(
        [mark(Kind.EXCEPTION), 0, [mark(Kind.TUPLE)], {"x": 1}, {"__class__": 5}, None, False],
        [["builtins:ValueError"]],
    )

    assert ValueError is type(Codec(allow_pickle=False).decode(body))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_body_may_be_any_bytes_like(wrap: Any) -> None:
    """It is read, not kept."""
    codec = Codec()
    for value in ([1, {"k": [2.5, "x" * 50]}], (1, {2: (3,)}), list(range(50_000))):
        body, buffers = codec.encode(value)
        assert value == codec.decode(wrap(body), buffers)
