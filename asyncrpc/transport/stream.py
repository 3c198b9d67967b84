"""The one asyncio protocol of the package: a byte stream with coalesced writes.

Owns its transport: nobody else reads, writes or closes the socket, so cancelling a caller can never
tear a frame. Knows nothing of messages; a `StreamHandler` sits on it and may be swapped.

What is written in one turn of the loop leaves in one system call; only a full batch leaves before,
so that the peer works on it while this side makes the next. While the transport's buffer is over
its limit, writes wait in this stream's own batch. Large parts go past the batch: uvloop
keeps references to them and writes them as one vector; the stock loop copies what the socket does
not take at once, which is why its buffer limit is zero and the next chunk waits until it is empty.

The end of the peer's bytes is the end of the stream: there is no life half-closed. What the
transport has taken by then is still sent; the batch is not, so that the handler can see in
`stream_closed` what never left.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Protocol, cast

__all__ = ("Stream", "StreamHandler")

_FULL_BATCH = 32
"""Writes that leave before the turn ends: fewer cost system calls, more leave the peer idle."""
_UVLOOP_HIGH_WATER = 1024  # uvloop writes at once what is above, the rest at the end of the turn
_TLS_HIGH_WATER = 64 * 1024  # TLS copies anyway, and asyncio's never resumes from 0


class StreamHandler(Protocol):
    """What sits on a stream and takes its bytes."""

    def get_buffer(self, size_hint: int) -> memoryview | bytearray:
        """Return writable memory, not empty, for the next bytes."""
        ...

    def buffer_updated(self, count: int) -> None:
        """Take in ``count`` bytes at the front of the memory `get_buffer` gave."""
        ...

    def stream_closed(self, error: Exception | None) -> None:
        """Learn that the stream is gone; called once, with ``None`` for an orderly end."""
        ...

    def write_ready(self) -> None:
        """Learn that there is room again after `Stream.is_writable` was false."""
        ...


class Stream(asyncio.BufferedProtocol):
    """A connected byte stream.

    Args:
        handler: takes the bytes; ``None`` when ``accepted`` will give one.
        accepted: called with the stream once it is connected, returns its handler, or ``None``
            to refuse the stream unread.
        closed: called once the stream is gone.
    """

    def __init__(
        self,
        handler: StreamHandler | None = None,
        *,
        accepted: Callable[[Stream], StreamHandler | None] | None = None,
        closed: Callable[[Stream], None] | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.handler = cast("StreamHandler", handler)  # set in connection_made when accepted
        self.is_writable = True
        """Whether large parts may be written now; the handler hears of it when it turns true."""
        self.is_closed = False
        """Whether the stream is gone or on its way."""
        self.peer = ""
        self.local = ""
        self._accepted = accepted
        self._on_closed = closed
        self._call_soon = loop.call_soon
        self._closed: asyncio.Future[None] = loop.create_future()
        # None until connection_made, which comes before anybody but us has the stream
        self._transport = cast("asyncio.Transport", None)
        self.batch: list[bytes] = []
        """What was written and has not been handed to the system; entries may be emptied."""
        self.sent = 0
        """Bytes handed to the transport."""
        self.is_flush_due = False
        """Whether a flush will come anyway: from the loop, or from whoever handles a read."""
        self._is_open = False  # connected, and neither closing nor lost
        self._is_lost = False
        self._error: Exception | None = None
        self._is_vectored = False

    # -- writing

    def write(self, data: bytes) -> None:
        """Send ``data`` with everything else of this loop turn; dropped when the stream is gone.

        Args:
            data: bytes of any length; small ones, since they are joined.
        """
        batch = self.batch
        batch.append(data)
        if not self.is_flush_due:
            self.is_flush_due = True
            self._call_soon(self.flush)
        elif len(batch) >= _FULL_BATCH:
            self.flush()
            self.is_flush_due = True  # it is, for the rest of this turn

    def flush_soon(self) -> None:
        """Flush after the callbacks that are ready now, with what they write."""
        if not self.is_flush_due:
            self.is_flush_due = True
            self._call_soon(self.flush)

    def flush(self) -> None:
        """Hand the batch to the transport, unless its buffer is over the limit."""
        self.is_flush_due = False
        batch = self.batch
        if not batch:
            return
        if self._is_open:
            if self.is_writable:
                self.batch = []
                data = batch[0] if len(batch) == 1 else b"".join(batch)
                self.sent += len(data)
                self._transport.write(data)
        elif self._is_lost:  # until then its writer may want to know what never left
            batch.clear()

    def write_now(self, data: bytes) -> None:
        """Send ``data`` at once, after everything written before; dropped when the stream is gone.

        Args:
            data: bytes of any length; kept, not copied, while there is no room.
        """
        if self.batch or not (self._is_open and self.is_writable):
            self.batch.append(data)
            self.flush()
        else:
            self.sent += len(data)
            self._transport.write(data)

    def write_parts(self, parts: Sequence[bytes | memoryview]) -> None:
        """Send large parts without joining them, after everything written before.

        Args:
            parts: sent in order; each must stay unchanged until sent. Write only while
                `is_writable`; otherwise copies are kept, behind what waits already.
        """
        self.flush()
        if not self._is_open:
            return
        if self.batch:  # not writable: nothing may overtake it
            self.batch.extend(map(bytes, parts))
            return
        self.sent += sum([memoryview(part).nbytes for part in parts])
        if self._is_vectored:
            self._transport.writelines(parts)
        else:
            for part in parts:  # the stock loop's writelines() joins
                self._transport.write(part)

    @property
    def unsent(self) -> int:
        """Bytes written but not yet taken by the system."""
        size = 0 if self._is_lost else self._transport.get_write_buffer_size()
        return size + sum(map(len, self.batch))

    @property
    def socket(self) -> socket.socket | None:
        """The socket below, for options only; ``None`` where there is none."""
        return cast("socket.socket | None", self._transport.get_extra_info("socket"))

    # -- reading

    def pause_reading(self) -> None:
        """Ask for no more bytes until `resume_reading`; the peer will feel back-pressure."""
        if self._is_open:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        if self._is_open:
            self._transport.resume_reading()

    def attach(self, handler: StreamHandler, received: bytes = b"") -> None:
        """Put ``handler`` on the stream, give it bytes already received, and go on reading.

        Args:
            handler: told of the end at once if the stream is gone already.
            received: what came after the last byte that the handler before it used.
        """
        self.handler = handler
        view = memoryview(received)
        was_closed = self.is_closed
        while view and self.is_closed == was_closed:
            room = memoryview(self.handler.get_buffer(len(view)))
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.handler.buffer_updated(count)  # may close the stream or swap the handler
            view = view[count:]
        self._shorten(self.handler)
        if self._is_lost:  # it ended before there was a handler to tell
            self.handler.stream_closed(self._error)
        else:
            self.resume_reading()

    def _shorten(self, handler: StreamHandler) -> None:
        """Let the loop call the handler itself: two calls less per read.

        Loops look these methods up once, when they are given the protocol.
        """
        if self._is_open:
            self.get_buffer = handler.get_buffer  # type: ignore[assignment, method-assign]  # on purpose
            self.buffer_updated = handler.buffer_updated  # type: ignore[assignment, method-assign]  # likewise
            self._transport.set_protocol(self)

    # -- closing

    def close(self) -> None:
        """Send what was written, then close. Idempotent."""
        if self._is_open:
            self.is_writable = True  # what is left goes to the transport, which sends it first
            self.flush()
            self._end()
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what was not sent is lost. Idempotent, and allowed after `close`."""
        if self._transport is not None:
            self._end()
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the stream is gone."""
        await asyncio.shield(self._closed)

    def _end(self) -> None:
        """Hand nothing more to the transport."""
        self._is_open = False
        self.is_closed = True

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 -- asyncio's
        self._transport = cast("asyncio.Transport", transport)
        self._is_open = True
        self._is_vectored = type(transport).__module__.startswith("uvloop")
        self._transport.set_write_buffer_limits(high=self._high_water(transport))
        self.peer = _name(transport.get_extra_info("peername"))
        self.local = _name(transport.get_extra_info("sockname"))
        if self._accepted is not None:
            self._accept(self._accepted)

    def _accept(self, accepted: Callable[[Stream], StreamHandler | None]) -> None:
        self._accepted = None
        try:
            handler = accepted(self)
        except BaseException:
            self.abort()
            raise
        if handler is None:
            self.abort()
        else:
            self.handler = handler

    def _high_water(self, transport: asyncio.BaseTransport) -> int:
        if transport.get_extra_info("sslcontext") is not None:
            return _TLS_HIGH_WATER
        return _UVLOOP_HIGH_WATER if self._is_vectored else 0

    def get_buffer(self, sizehint: int) -> memoryview | bytearray:  # noqa: D102 -- asyncio's
        return self.handler.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:  # noqa: D102 -- asyncio's
        self.handler.buffer_updated(nbytes)

    def eof_received(self) -> bool | None:  # noqa: D102 -- asyncio's
        self._end()
        return None  # the transport closes, which connection_lost reports

    def pause_writing(self) -> None:  # noqa: D102 -- asyncio's
        self.is_writable = False

    def resume_writing(self) -> None:  # noqa: D102 -- asyncio's
        self.is_writable = True
        self.flush()
        if self.is_writable and self._is_open:
            self.handler.write_ready()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102 -- asyncio's
        self._end()
        self._is_lost = True
        self._error = exc
        if not self._closed.done():
            self._closed.set_result(None)
        if self._transport is None:
            return  # a TLS handshake failed: `connect` raises that, and nobody accepted it
        if self._on_closed is not None:
            self._on_closed(self)
        if self.handler is not None:  # None: refused
            self.handler.stream_closed(exc)  # may look at what was left in the batch
        self.batch = []


def _name(address: object) -> str:
    """Print a socket's name as people write it."""
    if isinstance(address, tuple) and len(address) >= 2:
        host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
        return f"{host}:{address[1]}"
    if isinstance(address, bytes):
        return address.decode(errors="replace")
    return str(address or "")
