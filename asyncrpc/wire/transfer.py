"""Large messages: cut into chunks on the way out, put together in place on the way in.

Sans-IO. A message above `CHUNK_SIZE` travels as a *transfer*: one CHUNK frame with ``FIRST``
describes it (the message's own header and the lengths of its sections: map, body, each buffer), the
next ones carry consecutive bytes of the sections, never crossing from one into the next. Chunks of
several transfers and small frames interleave, so bulk never blocks small calls.

A buffer may also go through memory that both sides see: the sender copies it to a place there, a
piece at a time, and one chunk with ``SHARED`` says where it is. Whatever has no place goes as ever.

`Transfer` is the sender's side, driven by `agent.connection`; `IncomingTransfers` the receiver's,
owned by `framing.FrameReader`.

What a peer can make us allocate is bounded by what it sends: memory that is reserved for announced
bytes never exceeds the size of one message. A section that would go beyond that is collected in
pieces as they arrive and joined at its end, which costs a copy but refuses nobody.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Protocol

from asyncrpc.errors import MessageTooLargeError, RemoteProtocolError
from asyncrpc.wire.frame import (
    ABORT,
    CHUNK_SIZE,
    FIRST,
    HEADER,
    LENGTH,
    MAX_BUFFERS,
    PLACE,
    SHARED,
    Frame,
)
from asyncrpc.wire.messages import RESPONSE, MessageType

__all__ = (
    "MAX_DESCRIPTION",
    "Allocate",
    "IncomingTransfers",
    "SharedMemory",
    "Show",
    "Transfer",
    "allocate_buffer",
)

MAX_DESCRIPTION = HEADER.size + (MAX_BUFFERS + 2) * LENGTH.size
"""Bytes after the header of the first chunk of a transfer."""

_MAX_TRANSFERS = 4096  # open at once: one per call in flight and per reply, in a wide margin
_MAPPED = 8 * 1024 * 1024  # from here on mapping beats malloc plus clearing (measured)
_CHUNK = int(MessageType.CHUNK)
_FIRST_BUFFER = 2  # sections before are the map and the body, which are parsed: never shared
_PIECE = 1 << 20  # bytes copied into shared memory at one go: about 0.1 ms
_EMPTY = memoryview(b"")  # one for all: a description may list half a million empty sections

Allocate = Callable[[int], bytearray | memoryview]
"""Makes writable memory of exactly that many bytes."""


Show = Callable[[int, int], memoryview]
"""Gives the bytes at a place in shared memory, of a length; `ValueError` if they cannot be had."""


class SharedMemory(Protocol):
    """Memory that the receiver sees too."""

    def take(self, size: int) -> int | None:
        """Return a place for a buffer, ``None`` if there is none for it."""
        ...

    def put(self, place: int, data: memoryview) -> bool:
        """Copy bytes to a place that was taken; false if that cannot be done."""
        ...

    def hand_over(self, place: int) -> None:
        """Learn that a place is complete, and the receiver's until it says otherwise."""
        ...

    def free(self, place: int) -> None:
        """Take a place back that was not handed over."""
        ...


def allocate_buffer(size: int) -> bytearray | memoryview:
    """Return memory of ``size`` bytes; a large one costs nothing until it is written to.

    ``bytearray(size)`` clears all of it at once: 64 MiB stop the loop for 40 ms, and a peer that
    announces much and sends nothing takes real memory. Pages of a mapping come as they are filled,
    2 MiB at a time where the system can.
    """
    if size < _MAPPED or not hasattr(mmap, "MAP_PRIVATE"):
        return bytearray(size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without huge pages
            return memoryview(memory)
    return memoryview(memory)


class Transfer:
    """One large message on its way out, cut into chunks that never cross a section.

    Args:
        header: the message's own frame header; its length field is not used.
        sections: header map, body and buffers: bytes-like, not copied, unchanged until sent.
        call: id of the call it belongs to.

    Attributes:
        ident: id of the transfer, unique among those open on its connection, which sets it.
        kind: the message's `MessageType` as a plain int.
        header: as given.
        sections: as given, as views.

    Raises:
        MessageTooLargeError: more than `MAX_BUFFERS` buffers.
    """

    __slots__ = (
        "_at",
        "_described",
        "_index",
        "_memory",
        "_place",
        "call",
        "header",
        "ident",
        "kind",
        "sections",
    )

    def __init__(self, header: bytes, sections: Sequence[bytes | memoryview], *, call: int) -> None:
        if len(sections) > MAX_BUFFERS + 2:
            raise MessageTooLargeError(
                f"message has {len(sections) - 2} large buffers, expected at most {MAX_BUFFERS}"
            )
        self.ident = 0
        self.call = call
        self.kind = HEADER.unpack(header)[1]
        self.header = header
        self.sections = [memoryview(s).cast("B") for s in sections]
        self._described = False
        self._index = 0  # the section that the next chunk is cut from, never an empty one
        self._at = 0
        # where the section is being copied to, in which shared memory
        self._memory: SharedMemory | None = None
        self._place = 0
        self._skip_empty()

    @property
    def buffers(self) -> list[memoryview]:
        """The sections that may go through shared memory: all but those that are parsed."""
        return self.sections[_FIRST_BUFFER:]

    @property
    def is_started(self) -> bool:
        """Whether the first chunk was handed out, so that only an abort ends it early."""
        return self._described

    @property
    def is_finished(self) -> bool:
        """Whether the last chunk was handed out, so that nothing can take the message back."""
        return self._described and self._index == len(self.sections)

    def next_chunk(self, memory: SharedMemory | None = None) -> list[bytes | memoryview] | None:
        """Return the parts of the next chunk frame, or ``None`` after the last.

        Args:
            memory: through which buffers may go, the same as long as there is one.

        Returns:
            No parts at all if something was copied to ``memory`` and more is to be.
        """
        if not self._described:
            self._described = True
            return [self._describe()]
        if self._index == len(self.sections):
            return None
        if memory is not None and self._finds_place(memory):
            return self._share()
        part = self.sections[self._index][self._at : self._at + CHUNK_SIZE]
        self._at += part.nbytes
        self._skip_empty()
        return [HEADER.pack(part.nbytes, _CHUNK, 0, 0, self.ident, 0, 0, 0.0), part]

    def _finds_place(self, memory: SharedMemory) -> bool:
        """Whether the section is on its way into shared memory, or can be from its beginning."""
        if self._memory is None and not self._at and self._index >= _FIRST_BUFFER:
            place = memory.take(self.sections[self._index].nbytes)
            if place is not None:
                self._memory, self._place = memory, place
        return self._memory is not None

    def _share(self) -> list[bytes | memoryview]:
        """Copy a piece of the section; after the last, return the frame that says where it is."""
        assert self._memory is not None  # _finds_place() was true
        section = self.sections[self._index]
        piece = section[self._at : self._at + _PIECE]
        if not self._memory.put(self._place + self._at, piece):
            self.leave_memory()
            self._at = 0
            return self.next_chunk() or []  # through the stream: the section is not empty
        self._at += piece.nbytes
        if self._at < section.nbytes:
            return []
        self._memory.hand_over(self._place)
        self._memory = None
        self._skip_empty()
        header = HEADER.pack(PLACE.size, _CHUNK, SHARED, 0, self.ident, 0, 0, 0.0)
        return [header + PLACE.pack(self._place, section.nbytes)]

    def leave_memory(self) -> None:
        """Take back the place of a section that is not complete there."""
        if self._memory is not None:
            self._memory.free(self._place)
            self._memory = None

    def abort_frame(self) -> bytes:
        """Return the frame that makes the receiver drop what it has of this transfer."""
        return HEADER.pack(0, _CHUNK, ABORT, 0, self.ident, 0, 0, 0.0)

    def _skip_empty(self) -> None:
        """Go on to the next section that has bytes left."""
        sections = self.sections
        while self._index < len(sections) and self._at == sections[self._index].nbytes:
            self._index += 1
            self._at = 0

    def _describe(self) -> bytes:
        lengths = b"".join([LENGTH.pack(s.nbytes) for s in self.sections])
        payload = self.header + lengths
        return HEADER.pack(len(payload), _CHUNK, FIRST, 0, self.ident, 0, 0, 0.0) + payload


class IncomingTransfers:
    """The large messages that are on their way in, by transfer id.

    Args:
        max_message_size: bytes above which an announced message is refused, and that may be
            reserved for announced bytes at one time.
        allocate: makes the memory for a section.
    """

    __slots__ = ("_allocate", "_limit", "_open", "_reserved", "show")

    def __init__(self, max_message_size: int, allocate: Allocate) -> None:
        self._limit = max_message_size
        self._allocate = allocate
        self._open: dict[int, _Incoming] = {}
        self.show: Show | None = None
        """Shows what lies in shared memory, if there is any."""
        self._reserved = 0  # bytes allocated for sections and not yet received

    def answer(self, call_id: int) -> bool:
        """Whether the reply to a call is on its way in."""
        heads = [incoming.header for incoming in self._open.values()]
        return any(head[1] & RESPONSE and head[4] == call_id for head in heads)

    def open(self, ident: int, payload: memoryview) -> Frame | None:
        """Start the transfer that the first chunk describes; return it if it is empty.

        Raises:
            RemoteProtocolError: the description makes no sense, or too many transfers are open.
            MessageTooLargeError: the message is above the limit.
        """
        if payload.nbytes < HEADER.size + 2 * LENGTH.size or payload.nbytes % LENGTH.size:
            raise RemoteProtocolError(f"first chunk of a transfer has {payload.nbytes} bytes")
        header = HEADER.unpack_from(payload)
        if header[1] == _CHUNK or not header[7] >= 0.0:
            raise RemoteProtocolError("first chunk of a transfer is damaged")
        if ident in self._open:
            raise RemoteProtocolError(f"transfer {ident} is open already")
        if len(self._open) >= _MAX_TRANSFERS:
            raise RemoteProtocolError(f"more than {_MAX_TRANSFERS} transfers are open")
        incoming = _Incoming(header, payload[HEADER.size :])
        if incoming.size > self._limit:
            raise MessageTooLargeError(
                f"peer announced a message of {incoming.size} bytes, above max_message_size "
                f"{self._limit}"
            )
        self._open[ident] = incoming
        return self._finished(ident, incoming)

    def place(self, ident: int, length: int) -> memoryview:
        """Return where the next ``length`` bytes of a transfer go; then call `filled`.

        Raises:
            RemoteProtocolError: no such transfer is open, or the bytes are not its next ones.
            MessageTooLargeError: there is no memory for it.
        """
        incoming = self._open.get(ident)
        if incoming is None:
            raise RemoteProtocolError(f"chunk of an unknown transfer {ident}")
        if not 0 < length <= incoming.length - incoming.at:
            raise RemoteProtocolError(f"chunk of {length} bytes crosses the end of its section")
        if incoming.at == 0 and self._reserved + incoming.length <= self._limit:
            incoming.memory = self._new(incoming.length)
            self._reserved += incoming.length
        if incoming.memory is None:
            piece = self._new(length)
            incoming.pieces.append(piece)
            return piece
        return incoming.memory[incoming.at : incoming.at + length]

    def filled(self, ident: int, length: int) -> Frame | None:
        """Count the bytes that `place` asked for; return the message they end."""
        incoming = self._open[ident]
        incoming.at += length
        if incoming.memory is not None:
            self._reserved -= length
        if incoming.at < incoming.length:
            return None
        incoming.sections.append(incoming.memory or self._join(incoming))
        incoming.memory = None
        incoming.next_section()
        return self._finished(ident, incoming)

    def see(self, ident: int, place: memoryview) -> Frame | None:
        """Take a section that lies in shared memory; return the message it ends.

        Raises:
            RemoteProtocolError: there is no such section, or it may not lie there.
        """
        incoming = self._open.get(ident)
        at, length = PLACE.unpack(place)
        if incoming is None or incoming.at or not 0 < length == incoming.length:
            raise RemoteProtocolError(f"shared chunk of transfer {ident} fits no section of it")
        if self.show is None or len(incoming.sections) < _FIRST_BUFFER:
            raise RemoteProtocolError(f"shared chunk of transfer {ident} came without leave")
        try:
            incoming.sections.append(self.show(at, length))
        except ValueError as error:
            raise RemoteProtocolError(f"shared chunk of transfer {ident}: {error}") from error
        incoming.next_section()
        return self._finished(ident, incoming)

    def abort(self, ident: int) -> None:
        """Drop what came of a transfer; one that is complete or unknown is left alone."""
        incoming = self._open.pop(ident, None)
        if incoming is not None and incoming.memory is not None:
            self._reserved -= incoming.length - incoming.at

    def _finished(self, ident: int, incoming: _Incoming) -> Frame | None:
        if incoming.length:
            return None
        del self._open[ident]
        _, kind, flags, depth, call, function, _, remaining = incoming.header
        meta, body, *buffers = incoming.sections
        return (kind, flags, depth, call, function, remaining, meta or None, body, buffers)

    def _join(self, incoming: _Incoming) -> memoryview:
        memory = self._new(incoming.length)
        at = 0
        for piece in incoming.pieces:
            memory[at : at + piece.nbytes] = piece
            at += piece.nbytes
        incoming.pieces = []
        return memory

    def _new(self, size: int) -> memoryview:
        try:
            return memoryview(self._allocate(size))
        except (MemoryError, OSError) as error:  # a mapping that fails is an OSError
            raise MessageTooLargeError(f"no memory for a message part of {size} bytes") from error


class _Incoming:
    """One large message on its way in."""

    __slots__ = ("_index", "_lengths", "at", "header", "length", "memory", "pieces", "sections")

    def __init__(self, header: tuple[int, ...], lengths: memoryview) -> None:
        self.header = header
        self._lengths = lengths  # as they came: small, however many there are
        self._index = 0
        self.sections: list[memoryview] = []  # the complete ones
        self.length = 0  # of the section being filled; 0 once all are complete
        self.at = 0  # bytes of it that arrived
        self.memory: memoryview | None = None  # of all of it, else it is collected in
        self.pieces: list[memoryview] = []
        self.next_section()

    @property
    def size(self) -> int:
        return sum([n for (n,) in LENGTH.iter_unpack(self._lengths)])

    def next_section(self) -> None:
        """Go on to the next section that is not empty."""
        self.length = self.at = 0
        while self._index * LENGTH.size < self._lengths.nbytes and not self.length:
            (self.length,) = LENGTH.unpack_from(self._lengths, self._index * LENGTH.size)
            self._index += 1
            if not self.length:
                self.sections.append(_EMPTY)
