"""Frames: how messages are laid out in a byte stream, and the incremental reader that finds them.

Sans-IO: bytes in, tuples out. `agent.connection` owns the reader and sits between it and a stream.

Theory of operation. A frame is a fixed header of 32 bytes, a header map (msgpack, mostly absent),
a body (msgpack) and, when ``BUFFERS`` is set, large buffers out of band::

    length u32 | type u16 | flags u8 | depth u8 | call u64 | function u32 | map length u32 | time f64
    map | [count u32, count x u64 lengths] | body | buffers

``length`` counts what follows the header; ``time`` is the seconds left of the deadline, 0 for none.
A message above `CHUNK_SIZE` travels as a *transfer*: one CHUNK frame with ``FIRST`` describes it
(its own header and the lengths of its sections: map, body, each buffer), the next ones carry
consecutive bytes of the sections, never crossing from one into the next. Chunks of several transfers
and small frames interleave, so bulk never blocks small calls.

The reader hands out the memory to receive into. Small frames are parsed where they arrived (the
body is a view that is valid until the next call); a frame that does not fit and every chunk is
received straight into its final place. After a chunk only a header is asked for, so that the next
chunk's bytes are not caught by the scratch memory, at the price of one small read per 256 KiB.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from asyncrpc.errors import MessageTooLargeError, RemoteProtocolError
from asyncrpc.wire.messages import MessageType

__all__ = (
    "ABORT",
    "BUFFERS",
    "CHUNK_SIZE",
    "DEDUP",
    "ERROR",
    "FIRST",
    "HEADER",
    "Frame",
    "FrameReader",
    "Transfer",
    "encode_frame",
)

HEADER = struct.Struct("<IHBBQIId")
HEADER_SIZE = HEADER.size
_LENGTH = struct.Struct("<Q")
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

CHUNK_SIZE = 256 * 1024
"""Bytes of a message from which it is sent in chunks; a compromise between the cost per chunk
and the time a small frame waits behind one (about 0.1 ms on loopback)."""

_MAX_FRAME = CHUNK_SIZE + 64 * 1024  # a plain frame is below CHUNK_SIZE; the rest is map and lengths
_SCRATCH = 64 * 1024
_DIRECT = 8 * 1024  # incomplete frames above this get memory of their own instead of the scratch
_MAX_BUFFERS = 65_536
_MAX_TRANSFERS = 64  # a sender interleaves far fewer

_CHUNK = int(MessageType.CHUNK)

Frame = tuple[int, int, int, int, int, float, "memoryview | None", memoryview, Sequence[memoryview]]
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
    lengths = _COUNT.pack(len(buffers)) + b"".join([_LENGTH.pack(b.nbytes) for b in buffers])
    tail = b"".join([meta, lengths, body, *buffers])
    header = HEADER.pack(
        len(tail), kind, flags | BUFFERS, depth, call, function, len(meta), remaining
    )
    return header + tail


class Transfer:
    """One large message on its way out, cut into chunks that never cross a section.

    Args:
        header: the message's own frame header; its length field is not used.
        sections: header map, body and buffers: bytes-like, not copied, unchanged until sent.
        call: id of the call it belongs to.

    Attributes:
        ident: id of the transfer, unique among those open on its connection, which sets it.
    """

    __slots__ = ("_at", "_described", "_header", "_index", "_sections", "call", "ident", "kind")

    def __init__(
        self, header: bytes, sections: Sequence[bytes | memoryview], *, call: int
    ) -> None:
        self.ident = 0
        self.call = call
        self.kind = HEADER.unpack(header)[1]
        self._header = header
        self._sections = [memoryview(s).cast("B") for s in sections]
        self._described = False
        self._index = 0
        self._at = 0

    @property
    def is_started(self) -> bool:
        """Whether the first chunk was handed out, so that only an abort ends it early."""
        return self._described

    def next_chunk(self) -> list[bytes | memoryview] | None:
        """Return the parts of the next chunk frame, or ``None`` after the last."""
        if not self._described:
            self._described = True
            return [self._describe()]
        while self._index < len(self._sections):
            section = self._sections[self._index]
            part = section[self._at : self._at + CHUNK_SIZE]
            if part.nbytes == 0:
                self._index += 1
                self._at = 0
                continue
            self._at += part.nbytes
            return [HEADER.pack(part.nbytes, _CHUNK, 0, 0, self.ident, 0, 0, 0.0), part]
        return None

    def abort_frame(self) -> bytes:
        """Return the frame that makes the receiver drop what it has of this transfer."""
        return HEADER.pack(0, _CHUNK, ABORT, 0, self.ident, 0, 0, 0.0)

    def _describe(self) -> bytes:
        lengths = b"".join([_LENGTH.pack(s.nbytes) for s in self._sections])
        payload = self._header + lengths
        return HEADER.pack(len(payload), _CHUNK, FIRST, 0, self.ident, 0, 0, 0.0) + payload


class _Incoming:
    """One large message on its way in."""

    __slots__ = ("at", "header", "index", "lengths", "sections")

    def __init__(self, header: tuple[int, ...], lengths: list[int]) -> None:
        self.header = header
        self.lengths = lengths
        self.sections: list[memoryview] = []  # allocated when their first byte is announced
        self.index = 0
        self.at = 0


class FrameReader:
    """Finds frames in a byte stream, receiving large ones straight into their final memory.

    Use as an `asyncio.BufferedProtocol` would: ask `get_buffer`, fill it, call `received`.

    Args:
        max_message_size: bytes above which an announced message is refused.
        allocate: makes the memory for a large section, given its length in bytes.
    """

    __slots__ = (
        "_allocate",
        "_end",
        "_filled",
        "_finish",
        "_header_only",
        "_max_message_size",
        "_scratch",
        "_start",
        "_target",
        "_transfers",
        "_view",
    )

    def __init__(
        self, *, max_message_size: int, allocate: Callable[[int], bytearray | memoryview] = bytearray
    ) -> None:
        self._max_message_size = max_message_size
        self._allocate = allocate
        self._scratch = bytearray(_SCRATCH)
        self._view = memoryview(self._scratch)
        self._start = 0  # unread bytes are scratch[start:end]
        self._end = 0
        self._header_only = False
        self._target: memoryview | None = None  # bypasses the scratch; filled so far:
        self._filled = 0
        self._finish: Callable[[], Frame | None] = lambda: None
        self._transfers: dict[int, _Incoming] = {}

    def get_buffer(self) -> memoryview:
        """Return the memory for the next bytes; never empty."""
        if self._target is not None:
            return self._target[self._filled :]
        if self._header_only:
            return self._view[self._end : self._start + HEADER_SIZE]
        return self._view[self._end :]

    def received(self, count: int) -> list[Frame]:
        """Take in ``count`` bytes written to `get_buffer`'s memory; return the frames they end.

        The body and map of a returned frame are views that are valid until the next call.

        Raises:
            RemoteProtocolError: the bytes are no frames; the connection must be closed.
            MessageTooLargeError: a message is announced above the limit; likewise.
        """
        frames: list[Frame] = []
        if self._target is not None:
            self._filled += count
            if self._filled == self._target.nbytes:
                self._complete(frames)
            return frames
        end = self._end = self._end + count
        start = self._start
        view = self._view
        scratch = self._scratch
        unpack_from = HEADER.unpack_from
        append = frames.append
        while end - start >= HEADER_SIZE:
            header = unpack_from(scratch, start)
            length, kind, flags, depth, call, function, meta, remaining = header
            if length > _MAX_FRAME or not remaining >= 0.0:
                raise RemoteProtocolError(f"frame header is damaged: length {length}")
            body = start + HEADER_SIZE
            if kind == _CHUNK:
                self._start = body
                self._header_only = True
                self._chunk(length, flags, call, frames)
                start, end = self._start, self._end
                continue
            stop = body + length
            if stop > end:
                self._start = start
                self._await_rest(header, length)
                return frames
            if meta or flags & BUFFERS:
                append(_split(header, memoryview(bytearray(view[body:stop]))))
            else:
                append((kind, flags, depth, call, function, remaining, None, view[body:stop], ()))
            self._header_only = False
            start = stop
        if start == end:
            self._start = self._end = 0
        else:
            self._start = start
            self._compact()
        return frames

    def _compact(self) -> None:
        """Move the unread rest to the front of the scratch, where a small frame has room."""
        size = self._end - self._start
        self._view[:size] = self._view[self._start : self._end]
        self._start, self._end = 0, size

    def _await_rest(self, header: tuple[int, ...], length: int) -> None:
        """Arrange for the rest of an incomplete frame."""
        self._header_only = False
        if length <= _DIRECT:
            self._compact()
            return
        memory = memoryview(bytearray(length))

        def finish() -> Frame:
            return _split(header, memory)

        self._start += HEADER_SIZE
        self._receive_into(memory, finish)

    def _receive_into(self, memory: memoryview, finish: Callable[[], Frame | None]) -> None:
        """Fill ``memory`` with what the scratch holds, then from the stream."""
        have = min(self._end - self._start, memory.nbytes)
        memory[:have] = self._view[self._start : self._start + have]
        self._start += have
        if self._start == self._end:
            self._start = self._end = 0
        self._target, self._filled, self._finish = memory, have, finish

    def _complete(self, frames: list[Frame]) -> None:
        finish = self._finish
        self._target = None
        self._finish = lambda: None
        frame = finish()
        if frame is not None:
            frames.append(frame)

    def _chunk(self, length: int, flags: int, ident: int, frames: list[Frame]) -> None:
        """Handle one chunk whose header was just taken from the scratch."""
        if flags & FIRST:
            self._receive_into(
                memory := memoryview(bytearray(length)), lambda: self._open(ident, memory)
            )
        elif flags & ABORT:
            self._transfers.pop(ident, None)
            return
        else:
            transfer = self._transfers.get(ident)
            if transfer is None or length == 0:
                raise RemoteProtocolError(f"chunk of an unknown transfer {ident}")
            section = self._section(transfer)
            if transfer.at + length > section.nbytes:
                raise RemoteProtocolError("chunk crosses the end of its section")
            target = section[transfer.at : transfer.at + length]
            transfer.at += length
            self._receive_into(target, lambda: self._advance(ident, transfer))
        if self._target is not None and self._filled == self._target.nbytes:
            self._complete(frames)

    def _section(self, transfer: _Incoming) -> memoryview:
        """Return the section being filled, allocating it and skipping empty ones."""
        while True:
            if transfer.index >= len(transfer.lengths):
                raise RemoteProtocolError("chunk after the end of its transfer")
            if len(transfer.sections) <= transfer.index:
                length = transfer.lengths[transfer.index]
                transfer.sections.append(memoryview(self._allocate(length)))
            section = transfer.sections[transfer.index]
            if transfer.at < section.nbytes:
                return section
            transfer.index += 1
            transfer.at = 0

    def _open(self, ident: int, payload: memoryview) -> Frame | None:
        """Start the transfer that the first chunk describes."""
        rest = payload.nbytes - HEADER_SIZE
        if rest < 16 or rest % 8 or ident in self._transfers:
            raise RemoteProtocolError("first chunk of a transfer is damaged")
        if len(self._transfers) >= _MAX_TRANSFERS:
            raise RemoteProtocolError(f"more than {_MAX_TRANSFERS} transfers are open")
        header = HEADER.unpack_from(payload)
        if header[1] == _CHUNK or not header[7] >= 0.0:
            raise RemoteProtocolError("first chunk of a transfer is damaged")
        lengths = [n for (n,) in _LENGTH.iter_unpack(payload[HEADER_SIZE:])]
        size = sum(lengths)
        if size > self._max_message_size:
            raise MessageTooLargeError(
                f"peer announced a message of {size} bytes, above max_message_size "
                f"{self._max_message_size}"
            )
        transfer = self._transfers[ident] = _Incoming(header, lengths)
        return self._advance(ident, transfer)

    def _advance(self, ident: int, transfer: _Incoming) -> Frame | None:
        """Return the message if every section is complete."""
        lengths = transfer.lengths
        while transfer.index < len(lengths) and transfer.at == lengths[transfer.index]:
            if len(transfer.sections) == transfer.index:
                transfer.sections.append(memoryview(b""))
            transfer.index += 1
            transfer.at = 0
        if transfer.index < len(lengths):
            return None
        del self._transfers[ident]
        _, kind, flags, depth, call, function, _, remaining = transfer.header
        meta, body, *buffers = transfer.sections
        return (kind, flags, depth, call, function, remaining, meta or None, body, buffers)


def _split(header: tuple[int, ...], payload: memoryview) -> Frame:
    """Cut a complete payload, whose memory the frame may keep, into map, body and buffers."""
    _, kind, flags, depth, call, function, meta_length, remaining = header
    if meta_length > payload.nbytes:
        raise RemoteProtocolError("header map is longer than its frame")
    meta = payload[:meta_length] or None
    at = meta_length
    buffers: list[memoryview] = []
    if flags & BUFFERS:
        lengths, at = _buffer_lengths(payload, at)
        stop = payload.nbytes
        for length in reversed(lengths):
            stop -= length
            if stop < at:
                raise RemoteProtocolError("buffers are longer than their frame")
            buffers.append(payload[stop : stop + length])
        buffers.reverse()
        return (kind, flags, depth, call, function, remaining, meta, payload[at:stop], buffers)
    return (kind, flags, depth, call, function, remaining, meta, payload[at:], buffers)


def _buffer_lengths(payload: memoryview, at: int) -> tuple[list[int], int]:
    """Read the buffers' lengths at ``at``; return them and where the body starts."""
    if payload.nbytes - at < _COUNT.size:
        raise RemoteProtocolError("frame ends within its buffer lengths")
    (count,) = _COUNT.unpack_from(payload, at)
    at += _COUNT.size
    end = at + count * _LENGTH.size
    if count > _MAX_BUFFERS or end > payload.nbytes:
        raise RemoteProtocolError(f"frame announces {count} buffers, more than it can hold")
    return [n for (n,) in _LENGTH.iter_unpack(payload[at:end])], end
