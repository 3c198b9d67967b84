"""What a frame is: the layout of one message, or of one piece of a large one, in a byte stream.

Sans-IO: values only; `framing` reads frames and `transfer` cuts large messages into them. A frame
is a fixed header of 32 bytes, a header map (msgpack, mostly absent), a body (msgpack) and, when
``BUFFERS`` is set, large buffers out of band::

    length u32, type u16, flags u8, depth u8, call u64, function u32, map length u32, time f64
    map | [count u32, count x u64 lengths] | body | buffers

``length`` counts what follows the header; ``time`` is the seconds left of the deadline, 0 for none.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from asyncrpc.errors import RemoteProtocolError

__all__ = (
    "ABORT",
    "BUFFERS",
    "CHUNK_SIZE",
    "DEDUP",
    "EARLY",
    "ERROR",
    "FIRST",
    "HEADER",
    "LENGTH",
    "MAX_BUFFERS",
    "MAX_FRAME",
    "PLACE",
    "REFERENCES",
    "SHARED",
    "Frame",
    "encode_frame",
    "split_payload",
)

HEADER = struct.Struct("<IHBBQIId")
LENGTH = struct.Struct("<Q")
PLACE = struct.Struct("<QQ")  # where a section lies in shared memory, its length
_COUNT = struct.Struct("<I")

BUFFERS = 0x01
"""The frame carries out-of-band buffers."""
DEDUP = 0x02
"""The callee keeps the reply, so that a resent request does not run again."""
ERROR = 0x04
"""The reply is a failure."""
FIRST = 0x08
"""The chunk describes a new transfer."""
ABORT = 0x10
"""The chunk ends its transfer early; what came of it is dropped."""

REFERENCES = 0x20
"""The message encloses remote references; a result or one-way call is answered by RREF_TAKEN."""
EARLY = 0x40
"""The reply says only that the request was taken in; the outcome follows in another one."""

SHARED = 0x80
"""The chunk says where its section lies in memory that both sides see."""

CHUNK_SIZE = 256 * 1024
"""Bytes of a message from which it is sent in chunks; a compromise between the cost per chunk
and the time a small frame waits behind one (about 0.1 ms on loopback)."""

MAX_FRAME = CHUNK_SIZE + 64 * 1024
"""Bytes after the header of any frame but the first of a transfer: the content is below
`CHUNK_SIZE`, the rest is map and lengths."""

MAX_BUFFERS = 1 << 19
"""Buffers of one message. The codec takes out what has 4 KiB or more, so twice the default
`max_message_size` fits; more would make the description of a transfer a large message itself."""

Frame = tuple[
    int, int, int, int, int, float, "memoryview | None", "bytes | memoryview", Sequence[memoryview]
]
"""type, flags, depth, call, function, time left, header map, body, buffers."""


def encode_frame(
    kind: int,
    call: int,
    body: bytes = b"",
    *,
    flags: int = 0,
    depth: int = 0,
    function: int = 0,
    remaining: float = 0.0,
    meta: bytes = b"",
    buffers: Sequence[memoryview] = (),
) -> bytes:
    """Return one small frame as bytes; the caller has seen that it is below `CHUNK_SIZE`.

    Args:
        kind: a `MessageType`.
        call: call id the frame belongs to.
        body: encoded body.
        flags: `DEDUP`, `ERROR`; ``BUFFERS`` is set here.
        depth: how many calls deep the caller itself is being served, 0 to 255.
        function: interned id of the function, 0 for none.
        remaining: seconds left of the deadline, 0 for none.
        meta: encoded header map, empty for none.
        buffers: C-contiguous unsigned-byte views, joined into the frame.
    """
    if not buffers:
        return (
            HEADER.pack(
                len(meta) + len(body), kind, flags, depth, call, function, len(meta), remaining
            )
            + meta
            + body
        )
    sizes = [buffer.nbytes for buffer in buffers]
    lengths = _COUNT.pack(len(sizes)) + b"".join(map(LENGTH.pack, sizes))
    length = len(meta) + len(lengths) + len(body) + sum(sizes)
    header = HEADER.pack(length, kind, flags | BUFFERS, depth, call, function, len(meta), remaining)
    return b"".join([header, meta, lengths, body, *buffers])


def split_payload(header: tuple[int, ...], payload: memoryview) -> Frame:
    """Cut a complete payload, whose memory the frame may keep, into map, body and buffers.

    Raises:
        RemoteProtocolError: the parts that it announces do not fit into it.
    """
    _, kind, flags, depth, call, function, meta_length, remaining = header
    if meta_length > payload.nbytes:
        raise RemoteProtocolError("header map is longer than its frame")
    meta = payload[:meta_length] or None
    at = meta_length
    stop = payload.nbytes
    buffers: list[memoryview] = []
    if flags & BUFFERS:
        lengths, at = _buffer_lengths(payload, at)
        for length in reversed(lengths):
            if length > stop - at:
                raise RemoteProtocolError("buffers are longer than their frame")
            buffers.append(payload[stop - length : stop])
            stop -= length
        buffers.reverse()
    return (kind, flags, depth, call, function, remaining, meta, payload[at:stop], buffers)


def _buffer_lengths(payload: memoryview, at: int) -> tuple[list[int], int]:
    """Read the buffers' lengths at ``at``; return them and where the body starts."""
    if payload.nbytes - at < _COUNT.size:
        raise RemoteProtocolError("frame ends within its buffer lengths")
    (count,) = _COUNT.unpack_from(payload, at)
    at += _COUNT.size
    end = at + count * LENGTH.size
    if end > payload.nbytes:
        raise RemoteProtocolError(f"frame announces {count} buffers, more than it can hold")
    return [n for (n,) in LENGTH.iter_unpack(payload[at:end])], end
