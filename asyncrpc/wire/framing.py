"""The incremental reader that finds frames in a byte stream, and receives large ones in place.

Sans-IO: bytes in, tuples out. `agent.connection` owns the reader and sits between it and a stream.
What a frame is: `frame`; how large messages travel: `transfer`.

Theory of operation. The reader hands out the memory to receive into. Small frames are parsed where
they arrived, in the scratch memory (the body is a view that is valid until the next call); a frame
that does not fit and every chunk is received straight into its final place. After a chunk only a
header is asked for, so that the next chunk's bytes are not caught by the scratch memory, at the
price of one small read per 256 KiB. Readers of one loop may share the scratch memory, since a read
is handled before the next one: a reader takes memory of its own when a read first ends within a
small frame. So an idle peer costs none.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncrpc.errors import RemoteProtocolError
from asyncrpc.wire.frame import (
    ABORT,
    BUFFERS,
    FIRST,
    HEADER,
    MAX_FRAME,
    PLACE,
    SHARED,
    Frame,
    split_payload,
)
from asyncrpc.wire.messages import MessageType
from asyncrpc.wire.transfer import (
    MAX_DESCRIPTION,
    Allocate,
    IncomingTransfers,
    Show,
    allocate_buffer,
)

__all__ = ("FrameReader", "new_scratch")

_HEADER_SIZE = HEADER.size
_SCRATCH = 64 * 1024
_DIRECT = 8 * 1024  # incomplete frames above this get memory of their own instead of the scratch
_CHUNK = int(MessageType.CHUNK)


class FrameReader:
    """Finds frames in a byte stream, receiving large ones straight into their final memory.

    Use as an `asyncio.BufferedProtocol` would: ask `get_buffer`, fill it, call `received`. After
    an error the reader is of no more use.

    Args:
        max_message_size: bytes above which an announced message is refused.
        allocate: makes the memory for a large section, given its length in bytes.
        scratch: `new_scratch` that readers of the same loop share; None for one of its own.
    """

    __slots__ = (
        "_end",
        "_filled",
        "_finish",
        "_header_only",
        "_is_shared",
        "_start",
        "_target",
        "_transfers",
        "is_between",
        "view",
    )

    def __init__(
        self,
        *,
        max_message_size: int,
        allocate: Allocate = allocate_buffer,
        scratch: memoryview | None = None,
    ) -> None:
        self._transfers = IncomingTransfers(max_message_size, allocate)
        self._is_shared = scratch is not None
        self.view = new_scratch() if scratch is None else scratch
        """The scratch memory."""
        self.is_between = True
        """Whether the next bytes begin a frame, and come to the front of `view`."""
        self._start = 0  # unread bytes are scratch[start:end]
        self._end = 0
        self._header_only = False
        self._target: memoryview | None = None  # bypasses the scratch; filled so far:
        self._filled = 0
        self._finish: Callable[[], Frame | None] = _nothing

    def open_window(self, show: Show) -> None:
        """Let sections be received through memory that both sides see."""
        self._transfers.show = show

    def answers(self, call_id: int) -> bool:
        """Whether the reply to a call is on its way in, as a large message."""
        return self._transfers.answer(call_id)

    def get_buffer(self, size_hint: int = -1) -> memoryview:  # noqa: ARG002 -- BufferedProtocol's
        """Return the memory for the next bytes; never empty."""
        if self.is_between:
            return self.view
        if self._target is not None:
            return self._target[self._filled :]
        if self._start:
            self._compact()
        if self._header_only:
            return self.view[self._end : _HEADER_SIZE]
        return self.view[self._end :]

    def received(self, count: int, handled: int = 0) -> list[Frame]:
        """Take in ``count`` bytes written to `get_buffer`'s memory; return the frames they end.

        The body and map of a returned frame are views that are valid until the next call of
        either method, of any reader that shares the scratch memory.

        Args:
            count: how many bytes were written, from 1.
            handled: bytes at their front that the caller has handled itself: whole frames, found
                in `view` while `is_between`.

        Raises:
            RemoteProtocolError: the bytes are no frames; the connection must be closed.
            MessageTooLargeError: a message is announced above the limit; likewise.
        """
        self._start += handled
        frames = self._find(count)
        if self._end and self._is_shared:
            self._take_own()
        self.is_between = self._target is None and not (self._end or self._header_only)
        return frames

    def _find(self, count: int) -> list[Frame]:
        frames: list[Frame] = []
        if self._target is not None:
            self._filled += count
            if self._filled == self._target.nbytes:
                self._complete(frames)
            return frames
        end = self._end = self._end + count
        start = self._start
        view = self.view
        unpack_from = HEADER.unpack_from
        append = frames.append
        while end - start >= _HEADER_SIZE:
            header = unpack_from(view, start)
            length, kind, flags, depth, call, function, meta, remaining = header
            if length > MAX_FRAME or not remaining >= 0.0:
                _check_header(length, kind, flags, remaining)
            body = start + _HEADER_SIZE
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
                append(split_payload(header, memoryview(bytearray(view[body:stop]))))
            else:
                append((kind, flags, depth, call, function, remaining, None, view[body:stop], ()))
            self._header_only = False
            start = stop
        if start == end:
            self._start = self._end = 0
        else:
            self._start = start  # moved to the front once the frames' views are done with
        return frames

    def _take_own(self) -> None:
        """Save the unread rest from the memory that others receive into next."""
        rest = self.view[self._start : self._end]
        self.view = new_scratch()
        self.view[: rest.nbytes] = rest
        self._start, self._end = 0, rest.nbytes
        self._is_shared = False

    def _compact(self) -> None:
        """Move the unread rest to the front of the scratch, where a small frame has room."""
        size = self._end - self._start
        self.view[:size] = self.view[self._start : self._end]
        self._start, self._end = 0, size

    def _await_rest(self, header: tuple[int, ...], length: int) -> None:
        """Arrange for the rest of an incomplete frame."""
        self._header_only = False
        if length > _DIRECT:
            memory = memoryview(bytearray(length))
            self._start += _HEADER_SIZE
            self._receive_into(memory, lambda: split_payload(header, memory))

    def _receive_into(self, memory: memoryview, finish: Callable[[], Frame | None]) -> None:
        """Fill ``memory`` with what the scratch holds, then from the stream."""
        have = min(self._end - self._start, memory.nbytes)
        memory[:have] = self.view[self._start : self._start + have]
        self._start += have
        if self._start == self._end:
            self._start = self._end = 0
        self._target, self._filled, self._finish = memory, have, finish

    def _complete(self, frames: list[Frame]) -> None:
        finish = self._finish
        self._target = None
        self._finish = _nothing
        frame = finish()
        if frame is not None:
            frames.append(frame)

    def _chunk(self, length: int, flags: int, ident: int, frames: list[Frame]) -> None:
        """Handle one chunk whose header was just taken from the scratch."""
        transfers = self._transfers
        if flags & ABORT:
            if length:
                raise RemoteProtocolError(f"abort of transfer {ident} carries {length} bytes")
            transfers.abort(ident)
            return
        if flags & SHARED:
            if length != PLACE.size:
                raise RemoteProtocolError(f"shared chunk of transfer {ident} has {length} bytes")
            place = memoryview(bytearray(length))
            self._receive_into(place, lambda: transfers.see(ident, place))
        elif flags & FIRST:
            description = memoryview(bytearray(length))
            self._receive_into(description, lambda: transfers.open(ident, description))
        else:
            room = transfers.place(ident, length)
            self._receive_into(room, lambda: transfers.filled(ident, length))
        if self._target is not None and self._filled == self._target.nbytes:
            self._complete(frames)


def new_scratch() -> memoryview:
    """Return memory for small frames to arrive in."""
    return memoryview(bytearray(_SCRATCH))


def _check_header(length: int, kind: int, flags: int, remaining: float) -> None:
    """Raise unless it is the description of a message with very many buffers."""
    if not remaining >= 0.0:  # NaN as well
        raise RemoteProtocolError(f"frame header is damaged: {remaining} seconds left")
    if kind != _CHUNK or not flags & FIRST or length > MAX_DESCRIPTION:
        raise RemoteProtocolError(f"frame header is damaged: length {length}")


def _nothing() -> None:
    """Finish nothing: no target is set."""
