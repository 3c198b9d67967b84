"""numpy arrays and scalars, torch tensors: their memory travels out of band, uncopied.

Sans-IO. Neither library is imported to encode (a value of theirs means that it is loaded);
one is imported to decode when such a value arrives before it was used here.
"""

from __future__ import annotations

import ctypes
import importlib
import math
import sys
from typing import Any

from asyncrpc.errors import EncodingError

from .state import (
    Builder,
    BytesLike,
    DecodeState,
    Encoder,
    EncodeState,
    ForbiddenError,
    Kind,
    MalformedError,
    UnencodableError,
    mark,
)

__all__ = ("ARRAY_BUILDERS", "find_array_encoder")

_NDARRAY = mark(Kind.NDARRAY)
_NUMPY_SCALAR = mark(Kind.NUMPY_SCALAR)
_TENSOR = mark(Kind.TENSOR)
_OBJECT = "|O"
_PLAIN_KINDS = "biufcmMSUV?"  # dtype kinds whose items are nothing but their own bytes
_TENSOR_CLASSES = ("Tensor", "Parameter")


def find_array_encoder(cls: type) -> Encoder | None:
    """Return the encoder of a numpy or torch class, or ``None`` for any other class."""
    numpy = sys.modules.get("numpy")
    if cls is getattr(numpy, "ndarray", None):
        return _encode_ndarray
    if cls.__module__ == "numpy" and issubclass(cls, getattr(numpy, "generic", ())):
        return _encode_numpy_scalar
    torch = sys.modules.get("torch")
    # getattr: the library may be half way through its own import.
    if cls is getattr(torch, "Tensor", None):
        return _encode_tensor
    if cls.__name__ == "Parameter" and cls is getattr(
        getattr(torch, "nn", None), cls.__name__, None
    ):
        return _encode_tensor
    return None


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EncodingError(f"a {name} value arrived, and {name} is not installed here") from error


def _writable(data: BytesLike) -> BytesLike:
    """Return ``data`` itself if it can be written to, else a copy that can."""
    return bytearray(data) if memoryview(data).readonly else data


def _check_shape(shape: list[Any], item_size: int, length: int) -> None:
    if any(type(size) is not int or size < 0 for size in shape):
        raise MalformedError(f"a shape must be of ints from 0, got {shape}")
    if math.prod(shape) * item_size != length:
        raise MalformedError(f"shape {shape} of {item_size}-byte items is not {length} bytes long")


# numpy


def _describe_dtype(numpy: Any, dtype: Any) -> object:
    """Return a str, or for a structured dtype the nested list of `numpy.lib.format`."""
    if dtype.hasobject or dtype.kind not in _PLAIN_KINDS:
        raise UnencodableError(f"an array of dtype {dtype} is more than its bytes")
    if dtype.names is None:
        text: str = dtype.str
        if numpy.dtype(text) == dtype:
            return text
    elif dtype.metadata is None:
        description = numpy.lib.format.dtype_to_descr(dtype)
        if numpy.lib.format.descr_to_dtype(description) == dtype:
            return description
    raise UnencodableError(f"dtype {dtype} has no description that travels")


def _read_dtype(numpy: Any, description: object) -> Any:
    if type(description) is str:
        dtype = numpy.dtype(description)
    elif type(description) is list:
        dtype = numpy.lib.format.descr_to_dtype(description)
    else:
        raise MalformedError("a dtype must be a str or a list")
    if dtype.hasobject or dtype.kind not in _PLAIN_KINDS:
        raise MalformedError(f"dtype {dtype} is more than its bytes")
    return dtype


def _encode_ndarray(state: EncodeState, value: Any) -> object:
    numpy = sys.modules["numpy"]
    if value.dtype.str == _OBJECT and value.dtype.metadata is None:
        return [_NDARRAY, _OBJECT, "C", value.reshape(-1).tolist(), *value.shape]
    description = _describe_dtype(numpy, value.dtype)
    if value.nbytes == 0:
        return [_NDARRAY, description, "C", None, *value.shape]
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    if order == "F":
        flat = value.T.reshape(-1)
    else:
        flat = (value if value.flags.c_contiguous else _make_contiguous(value)).reshape(-1)
    view = memoryview(flat.view(numpy.uint8))
    return [_NDARRAY, description, order, state.put_buffer(view), *value.shape]


def _make_contiguous(array: Any) -> Any:
    """Copy in C order; gaps between fields are zero, not what lay in memory before."""
    numpy: Any = sys.modules["numpy"]
    copy = numpy.zeros(array.shape, array.dtype)
    copy[...] = array
    return copy


def _build_ndarray(state: DecodeState, node: list[Any]) -> object:
    _, description, order, index, *shape = node
    numpy = _load("numpy")
    if description == _OBJECT:
        return _build_objects(numpy, index, shape)
    dtype = _read_dtype(numpy, description)
    data = bytearray() if index is None else _writable(state.take_buffer(index))
    _check_shape(shape, dtype.itemsize, len(data))
    if order not in ("C", "F"):
        raise MalformedError(f"order must be C or F, got {order!r}")
    return numpy.ndarray(tuple(shape), dtype, data, order=order)


def _build_objects(numpy: Any, items: object, shape: list[Any]) -> object:
    if type(items) is not list:
        raise MalformedError("an array of objects must hold a list of them")
    _check_shape(shape, 1, len(items))
    array = numpy.empty(len(items), object)
    for at, item in enumerate(items):  # one by one: numpy would look into items that are sequences
        array[at] = item
    return array.reshape(shape)


def _encode_numpy_scalar(_: EncodeState, value: Any) -> object:
    numpy: Any = sys.modules["numpy"]
    if value.dtype.kind in "US":  # a dtype of fixed width would drop trailing NULs
        return [_NUMPY_SCALAR, value.dtype.kind, value[:]]
    description = _describe_dtype(numpy, value.dtype)
    if type(description) is str and numpy.dtype(description).type is not type(value):
        description = value.dtype.char  # longlong beside int64: same bytes, another class
    return [_NUMPY_SCALAR, description, value.tobytes()]


def _build_numpy_scalar(_: DecodeState, node: list[Any]) -> object:
    _mark, description, item = node
    numpy = _load("numpy")
    if description == "U" and type(item) is str:
        return numpy.str_(item)
    if type(item) is not bytes:
        raise MalformedError("a numpy scalar must hold bytes")
    if description == "S":
        return numpy.bytes_(item)
    dtype = _read_dtype(numpy, description)
    _check_shape([], dtype.itemsize, len(item))
    return numpy.ndarray((), dtype, bytearray(item))[()]


# torch


def _encode_tensor(state: EncodeState, value: Any) -> object:
    torch = sys.modules["torch"]
    device = state.policy.place(state.to, str(value.device))
    if value.device.type != "cpu" and device is None:
        raise ForbiddenError(
            f"a tensor on {value.device} travels only where device_maps names its device"
        )
    if value.layout is not torch.strided or value.is_quantized:
        raise UnencodableError(f"a tensor of layout {value.layout} is more than its bytes")
    name = str(value.dtype).removeprefix("torch.")
    if device is not None:
        name = f"{name}@{device}"
    dense = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
    index = state.put_buffer(_tensor_memory(dense)) if dense.numel() else None
    class_index = _TENSOR_CLASSES.index(type(value).__name__)
    return [_TENSOR, name, class_index, bool(value.requires_grad), index, *value.shape]


def _tensor_memory(tensor: Any) -> memoryview:
    """Return the bytes of a contiguous tensor; torch offers no buffer of its own."""
    size = tensor.numel() * tensor.element_size()
    block = (ctypes.c_ubyte * size).from_address(tensor.data_ptr())
    block.owner = tensor  # keeps the memory while the view lives
    return memoryview(block).cast("B")


def _build_tensor(state: DecodeState, node: list[Any]) -> object:
    _, name, class_index, requires_grad, index, *shape = node
    torch = _load("torch")
    name, _, device = name.partition("@") if type(name) is str else ("", "", "")
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise MalformedError(f"torch has no dtype {name!r}")
    if type(requires_grad) is not bool or class_index not in (0, 1):
        raise MalformedError("a tensor must say whether it requires grad, and its class")
    data = bytearray() if index is None else _writable(state.take_buffer(index))
    _check_shape(shape, dtype.itemsize, len(data))
    if index is None:
        tensor = torch.empty(shape, dtype=dtype)
    else:
        tensor = torch.frombuffer(data, dtype=dtype).reshape(shape)
    if device:
        tensor = _moved(tensor, device)
    if class_index == 1:
        return torch.nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_() if requires_grad else tensor


def _moved(tensor: Any, device: str) -> Any:
    try:
        return tensor.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's own words
        raise EncodingError(f"a tensor cannot be put on device {device!r}: {error}") from None


ARRAY_BUILDERS: dict[Kind, Builder] = {
    Kind.NDARRAY: _build_ndarray,
    Kind.NUMPY_SCALAR: _build_numpy_scalar,
    Kind.TENSOR: _build_tensor,
}
