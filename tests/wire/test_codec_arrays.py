"""Codec: numpy arrays, numpy scalars and torch tensors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as nps

from asyncrpc.errors import EncodingError, RemoteProtocolError
from asyncrpc.wire.codec import Codec

STRUCTURED = np.dtype([("a", "<i4"), ("b", ">f8", (2,)), ("c", [("d", "U3")])])
PADDED = np.dtype({"names": ["x", "y"], "formats": ["u1", "<f8"], "offsets": [0, 8]})
ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(24).reshape(2, 3, 4)[::-1, ::2, 1:],
    np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
    np.array(5),
    np.array("text"),
    np.zeros((0,)),
    np.zeros((3, 0, 2), "f4"),
    np.zeros((2,), "S0"),
    np.zeros((2, 2), "V3"),
    np.array([True, False]),
    np.arange(3, dtype=">i2"),
    np.arange(3, dtype="q"),
    np.array([1 + 2j], "c8"),
    np.array([1], "g"),
    np.array([1.5], "f2"),
    np.array(["2020-01-01", "NaT"], "M8[us]"),
    np.array([1, 2], "m8[3h]"),
    np.array(["ab", "c"]),
    np.array([b"ab\0c", b"c"]),
    np.zeros(3, STRUCTURED),
    np.ones((2, 2), PADDED)[::-1],
    np.broadcast_to(np.arange(3), (4, 3)),
    np.arange(10_000.0),
]


def travel(value: object, codec: Codec | None = None) -> Any:
    """Encode and decode, the buffers as writable memory of the receiver's own."""
    codec = codec or Codec(allow_pickle=False)
    body, buffers = codec.encode(value)
    return codec.decode(body, [memoryview(bytearray(buffer)) for buffer in buffers])


def assert_same_array(one: Any, other: Any) -> None:
    """Equal in items, dtype, shape and class, and writable."""
    assert np.ndarray is type(other)
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    # Bytes between the fields of a structure are nobody's.
    assert one.tobytes() == other.tobytes() or repr(one.tolist()) == repr(other.tolist())
    assert other.flags.writeable


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype.str}{array.shape}")
def test_array_comes_back(array: Any) -> None:
    """Any order, dtype and shape, without pickle; also beside other values."""
    assert_same_array(array, travel(array))
    assert_same_array(array, travel({"k": (1, [array])})["k"][1][0])


@settings(max_examples=150, deadline=None)
@given(nps.arrays(nps.array_dtypes() | nps.scalar_dtypes(), nps.array_shapes(min_side=0)))
@pytest.mark.slow
def test_any_array_comes_back(array: Any) -> None:
    """Whatever dtype and shape."""
    assert_same_array(array, travel(array))


@pytest.mark.parametrize("order", ["C", "F"])
def test_contiguous_array_is_not_copied(order: Any) -> None:
    """The buffer is the array's own memory, and the decoded array is the received buffer."""
    array = np.zeros((3, 2), order=order)
    codec = Codec()

    body, buffers = codec.encode(array)
    received = [bytearray(buffer) for buffer in buffers]
    decoded = codec.decode(body, received)
    array[2, 1] = 1.0
    decoded[0, 0] = 2.0

    assert [1] == [1 for buffer in buffers if memoryview(buffer)[-8:] == array[2, 1].tobytes()]
    assert bytes(received[0][:8]) == decoded[0, 0].tobytes()
    assert order == ("F" if decoded.flags.f_contiguous else "C")
    assert 100 > len(body)


def test_array_from_a_read_only_buffer_can_be_written() -> None:
    """It is copied then."""
    codec = Codec()
    body, buffers = codec.encode(np.arange(3))

    decoded = codec.decode(body, [bytes(buffer) for buffer in buffers])

    decoded[0] = 5
    assert [5, 1, 2] == decoded.tolist()


SCALARS = [
    np.float64(1.5),
    np.float32("nan"),
    np.float16(2),
    np.longdouble(3),
    np.complex128(1j),
    np.int64(5),
    np.longlong(5),
    np.ulonglong(5),
    np.uint8(255),
    np.bool_(True),
    np.str_("text\0"),
    np.str_(""),
    np.bytes_(b"by\0"),
    np.bytes_(b""),
    np.datetime64("2020-01-01T00:00", "ns"),
    np.datetime64("NaT", "s"),
    np.timedelta64(5, "D"),
    np.zeros(1, STRUCTURED)[0],
    np.void(b"abc"),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: type(scalar).__name__)
def test_scalar_comes_back(scalar: Any) -> None:
    """Of its own class: a float64 is no float, a longlong no int64."""
    for decoded in (travel(scalar), travel([scalar])[0], travel({1: scalar})[1]):
        assert type(scalar) is type(decoded)
        assert scalar.dtype == decoded.dtype
        assert scalar.tobytes() == decoded.tobytes()
        assert len(scalar) == len(decoded) if isinstance(scalar, str | bytes) else True


class Sub(np.ndarray[Any, Any]):
    pass


def test_arrays_that_are_more_than_bytes_are_pickled_where_allowed() -> None:
    """Subclasses of ndarray and fields of objects; large memory still goes out of band."""
    fields = np.array([(1, "a"), (2, None)], [("number", "i4"), ("object", "O")])
    masked = np.ma.masked_array(np.arange(10_000), np.arange(10_000) % 2 == 1)
    codec = Codec()

    assert fields.tolist() == travel(fields, codec).tolist()
    assert Sub is type(travel(np.zeros(3).view(Sub), codec))
    body, buffers = codec.encode(masked)
    decoded = codec.decode(body, [bytearray(buffer) for buffer in buffers])
    assert masked.sum() == decoded.sum()
    assert len(buffers) >= 1
    assert 1000 > len(body)
    for value in (fields, masked, np.zeros(3).view(Sub), np.dtype("f8")):
        with pytest.raises(EncodingError, match=r"args\[0\]"):
            Codec(allow_pickle=False).encode_call((value,), {})


@pytest.mark.parametrize("allow_pickle", [True, False])
def test_arrays_of_objects_come_back(allow_pickle: bool) -> None:
    """Item by item, whatever the items are, with or without pickle."""
    codec = Codec(allow_pickle=allow_pickle)
    mixed = np.array([[1, "a", None], [b"x" * 5000, {"k": (2.5,)}, 2**70]], object)
    holders = np.empty(4, object)
    holders[:] = [np.arange(3), [1, [2]], np.array(5), mixed]
    for array in (mixed, mixed.T, mixed[::-1, ::2], np.array(None), np.empty((0, 2), object)):
        decoded = travel(array, codec)

        assert (array.dtype, array.shape) == (decoded.dtype, decoded.shape)
        assert array.tolist() == decoded.tolist()
    decoded = travel(holders, codec)
    assert [np.ndarray, list, np.ndarray, np.ndarray] == [type(item) for item in decoded]
    assert mixed.tolist() == decoded[3].tolist()


def test_object_that_cannot_travel_is_named_by_its_place_in_the_array() -> None:
    """As `ndarray.flat` counts; an array that holds itself is refused like a list."""
    codec = Codec(allow_pickle=False)
    array = np.array([[1, 2], [3, None]], object)
    array[1, 1] = object()
    with pytest.raises(EncodingError, match=r"^args\[0\]\.flat\[3\] cannot be encoded"):
        codec.encode_call((array,), {})
    array[1, 1] = array
    with pytest.raises(EncodingError, match="it contains itself"):
        codec.encode_call((array,), {})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x92\x01\xc0\x02", b"\x92\x01\xc0\x03"),
        (b"\x92\x01\xc0\x02", b"\x92\x01\xc0\xff"),
        (b"\x92\x01\xc0\x02", b"\x02\x02"),
    ],
)
def test_forged_array_of_objects_is_a_protocol_error(old: bytes, new: bytes) -> None:
    """Too few items for the shape, a negative size, no items at all."""
    body, buffers = Codec().encode(np.array([1, None], object))
    assert 1 == body.count(old)

    with pytest.raises(RemoteProtocolError):
        Codec().decode(body.replace(old, new), buffers)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<f8", b"|O8"),
        (b"<f8", b"<f4"),
        (b"<f8", b"zzz"),
        (b"\xa1C", b"\xa1X"),
        (b"\x02\x03", b"\x02\x04"),
        (b"\x02\x03", b"\xff\x03"),
    ],
)
def test_forged_description_is_a_protocol_error(old: bytes, new: bytes) -> None:
    """A dtype of objects, a size that does not fit the buffer, nonsense."""
    body, buffers = Codec().encode(np.zeros((2, 3)))
    assert 1 == body.count(old)

    with pytest.raises(RemoteProtocolError):
        Codec().decode(body.replace(old, new), buffers)


def test_missing_numpy_is_an_encoding_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array that arrives where numpy is not installed fails the call, not the connection."""
    codec = Codec()
    body, buffers = codec.encode(np.zeros(3))
    monkeypatch.setitem(sys.modules, "numpy", None)

    with pytest.raises(EncodingError, match="numpy is not installed here"):
        codec.decode(body, buffers)


@pytest.mark.slow
def test_importing_the_codec_imports_no_array_library() -> None:
    """Nor anything that brings its own."""
    code = "import sys, asyncrpc.wire.codec; print({'numpy', 'torch'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "set()\n" == done.stdout


@pytest.mark.slow
def test_tensors_come_back() -> None:
    """dtype, shape, requires_grad and class; not copied on the way out, a view on the way in."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")
    tensors = [
        torch.arange(6.0).reshape(2, 3),
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor(5),
        torch.zeros(0, 3),
        torch.tensor([1.5, 2], dtype=torch.bfloat16),
        torch.tensor([1.5, 2], dtype=torch.float16)[::2],
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]).conj(),
        torch.ones(3, requires_grad=True),
        torch.ones(3, requires_grad=True) * 2,
        torch.nn.Parameter(torch.ones(2)),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
        torch.zeros(3, dtype=torch.float8_e5m2),
    ]
    for tensor in tensors:
        decoded = travel([tensor])[0]
        assert type(tensor) is type(decoded)
        assert (tensor.dtype, tensor.shape) == (decoded.dtype, decoded.shape)
        assert tensor.requires_grad == decoded.requires_grad
        assert torch.equal(tensor.to(torch.complex64), decoded.to(torch.complex64))
    shared = torch.zeros(3)
    codec = Codec()
    body, buffers = codec.encode(shared)
    shared[0] = 1.0
    received = [bytearray(buffer) for buffer in buffers]
    codec.decode(body, received)[2] = 7.0
    assert [1.0, 0.0, 7.0] == torch.frombuffer(received[0], dtype=torch.float32).tolist()
    with pytest.raises(EncodingError, match="device_maps"):
        Codec().encode(torch.zeros(2, device="meta"))
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(sparse.to_dense(), travel(sparse, Codec()).to_dense())
    with pytest.raises(EncodingError, match="layout"):
        Codec(allow_pickle=False).encode(sparse)
