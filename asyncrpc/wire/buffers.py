"""bytes, bytearray and memoryview: small ones inside the body, large ones out of band.

Sans-IO. msgpack cannot tell the three apart, so all but small bytes are marked.
"""

from __future__ import annotations

from typing import Any

from .state import (
    LARGE,
    Builder,
    BytesLike,
    DecodeState,
    Encoder,
    EncodeState,
    Kind,
    MalformedError,
    UnencodableError,
    mark,
)

__all__ = ("BUFFER_BUILDERS", "BUFFER_ENCODERS", "get_data", "put_data")

_BYTES = mark(Kind.BYTES)
_BYTEARRAY = mark(Kind.BYTEARRAY)
_MEMORYVIEW = mark(Kind.MEMORYVIEW)
_FORMATS = frozenset("bBhHiIlLqQnNfdec?")  # the native single items that memoryview.cast takes


def put_data(state: EncodeState, data: BytesLike) -> bytes | int:
    """Return small ``data`` as bytes for the body, large data as the index of its buffer.

    Args:
        state: of the message.
        data: one-dimensional, C-contiguous, item size 1.
    """
    if len(data) < LARGE:
        return bytes(data)
    return state.put_buffer(memoryview(data))


def get_data(state: DecodeState, item: object) -> BytesLike:
    """Return what `put_data` turned into ``item``.

    Raises:
        MalformedError: it is neither bytes nor a buffer's index.
    """
    if type(item) is bytes:
        return item
    return state.take_buffer(item)


def _encode_bytes(state: EncodeState, value: bytes) -> object:
    if len(value) < LARGE:
        return value
    return [_BYTES, state.put_buffer(memoryview(value))]


def _build_bytes(state: DecodeState, node: list[Any]) -> bytes:
    _, index = node
    return bytes(state.take_buffer(index))


def _encode_bytearray(state: EncodeState, value: bytearray) -> object:
    return [_BYTEARRAY, put_data(state, value)]


def _build_bytearray(state: DecodeState, node: list[Any]) -> bytearray:
    _, item = node
    data = get_data(state, item)
    return data if type(data) is bytearray else bytearray(data)


def _encode_memoryview(state: EncodeState, value: memoryview) -> object:
    try:
        shape = value.shape or ()
        is_flat = value.ndim == 1
        format_ = value.format.removeprefix("@")
        data = _flatten(value, shape)
    except (ValueError, BufferError) as error:
        raise UnencodableError(f"its memory cannot be read: {error}") from error
    if format_ not in _FORMATS or (not is_flat and 0 in shape):
        raise UnencodableError(
            f"a memoryview of format {value.format!r} and shape {shape} cannot be rebuilt"
        )
    details = [] if is_flat and format_ == "B" else [format_, *shape]
    return [_MEMORYVIEW, put_data(state, data), value.readonly, *details]


def _flatten(view: memoryview, shape: tuple[int, ...]) -> memoryview:
    """Return the items as one row of bytes, without a copy where they lie in order."""
    if not view.c_contiguous or 0 in shape:
        return memoryview(view.tobytes())
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _build_memoryview(state: DecodeState, node: list[Any]) -> memoryview:
    data = memoryview(get_data(state, node[1]))
    is_readonly = node[2]
    if data.readonly and not is_readonly:
        data = memoryview(bytearray(data))
    elif is_readonly:
        data = data.toreadonly()
    if len(node) == len(("mark", "data", "readonly")):
        return data
    format_, *shape = node[3:]
    if format_ not in _FORMATS:
        raise MalformedError(f"a memoryview cannot have format {format_!r}")
    if len(shape) == 1:
        return data.cast(format_) if data.nbytes else data
    return data.cast(format_, shape)


BUFFER_ENCODERS: dict[type, Encoder] = {
    bytes: _encode_bytes,
    bytearray: _encode_bytearray,
    memoryview: _encode_memoryview,
}
BUFFER_BUILDERS: dict[Kind, Builder] = {
    Kind.BYTES: _build_bytes,
    Kind.BYTEARRAY: _build_bytearray,
    Kind.MEMORYVIEW: _build_memoryview,
}
