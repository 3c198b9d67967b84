"""Streams within one process and loop: a network of names, for tests and for calls to oneself.

The same `Stream` as over sockets runs on a transport that hands bytes to its twin by `call_soon`,
so everything above behaves as over a socket, without system calls and in a repeatable order.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from asyncrpc.transport.address import Address
from asyncrpc.transport.stream import Stream, StreamHandler

if TYPE_CHECKING:
    from asyncrpc.transport.base import Listener, MakeHandler

__all__ = ("MemoryNetwork", "memory_pair")

_HIGH_WATER = 512 * 1024


class MemoryNetwork:
    """A network of names; workers that share the object can reach each other."""

    def __init__(self) -> None:
        self._listeners: dict[str, _MemoryListener] = {}

    async def connect(self, address: Address, handler: StreamHandler, *, timeout: float) -> Stream:  # noqa: ARG002 -- answers at once
        """Open a stream; see `asyncrpc.transport.Network.connect`."""
        await asyncio.sleep(0)
        listener = self._listeners.get(address.host)
        if listener is None:
            refused = ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
            raise ConnectionError(f"cannot connect to {address}: connection refused") from refused
        near, far = Stream(handler), listener.make_stream()
        _link(near, far)
        near.peer = str(address)
        return near

    async def listen(
        self, address: Address, make_handler: MakeHandler, *, max_connections: int
    ) -> Listener:
        """Listen on a name; see `asyncrpc.transport.Network.listen`."""
        if address.host in self._listeners:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {address}: address already in use")
        listener = _MemoryListener(self._listeners, address, make_handler, max_connections)
        self._listeners[address.host] = listener
        return listener


def memory_pair(near: StreamHandler, far: StreamHandler) -> tuple[Stream, Stream]:
    """Return two streams linked to each other, with a handler on each."""
    streams = Stream(near), Stream(far)
    _link(*streams)
    return streams


class _MemoryListener:
    def __init__(
        self,
        listeners: dict[str, _MemoryListener],
        address: Address,
        make_handler: MakeHandler,
        max_connections: int,
    ) -> None:
        self.address = address
        self._listeners = listeners
        self._make_handler = make_handler
        self._max_connections = max_connections
        self._count = 0

    async def close(self) -> None:
        """Stop accepting; see `asyncrpc.transport.Listener.close`."""
        if self._listeners.get(self.address.host) is self:
            del self._listeners[self.address.host]

    def make_stream(self) -> Stream:
        return Stream(accepted=self._accept, closed=self._forget)

    def _accept(self, stream: Stream) -> StreamHandler | None:
        self._count += 1
        return self._make_handler(stream) if self._count <= self._max_connections else None

    def _forget(self, _stream: Stream) -> None:
        self._count -= 1


class _MemoryTransport(asyncio.Transport):
    """One end of a link: what is written is queued at the twin and read from there."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._stream = stream
        self.twin: _MemoryTransport = cast("_MemoryTransport", None)  # set by _link
        self._inbox: deque[memoryview | None] = deque()  # None is the end of the stream
        self._queued = 0  # bytes written here that the twin has not read
        self._is_scheduled = False
        self._is_paused = False
        self._is_choked = False
        self._is_closing = False
        self._is_gone = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 -- asyncio's
        return default  # there is no socket and no name

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Keep the stream, which is the only protocol here."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Keep the one limit that memory links have."""

    def get_write_buffer_size(self) -> int:
        return self._queued

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_closing or self.twin._is_gone:
            return
        part = memoryview(bytes(data))  # a copy, as a socket makes: the writer may reuse its memory
        self._queued += part.nbytes
        self.twin._inbox.append(part)
        self.twin._schedule()
        if self._queued > _HIGH_WATER and not self._is_choked:
            self._is_choked = True
            self._stream.pause_writing()

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._schedule()

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self.twin._inbox.append(None)
        self.twin._schedule()
        self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        if self._is_gone:
            return
        self._is_closing = True
        twin = self.twin
        twin._inbox.clear()
        self._loop.call_soon(twin._lose, ConnectionResetError("connection reset by peer"))
        self._loop.call_soon(self._lose, None)

    def _schedule(self) -> None:
        if not self._is_scheduled and not self._is_paused:
            self._is_scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Give the stream what is there, as one turn of a socket loop would."""
        self._is_scheduled = False
        for _ in range(len(self._inbox)):
            if self._is_paused or self._is_gone or not self._inbox:
                return
            part = self._inbox.popleft()
            if part is None:
                self._stream.eof_received()
                self._is_closing = True
                self._lose(None)
                return
            self._feed(part)

    def _feed(self, part: memoryview) -> None:
        # a stream that was closed in the midst of it reads no more, and may have no room to
        while part.nbytes and not self._is_closing:
            room = memoryview(self._stream.get_buffer(part.nbytes))
            count = min(room.nbytes, part.nbytes)
            room[:count] = part[:count]
            part = part[count:]
            self.twin._drained(count)
            try:
                self._stream.buffer_updated(count)
            except Exception as error:  # noqa: BLE001 -- as the loops' own transports do
                self._fail(error)
                return
            if self._is_paused and part.nbytes:
                self._inbox.appendleft(part)
                return

    def _fail(self, error: Exception) -> None:
        """Break the link because its handler did, and tell the loop."""
        self._loop.call_exception_handler(
            {"message": "protocol.buffer_updated() call failed.", "exception": error,
             "transport": self, "protocol": self._stream}
        )  # fmt: skip
        self.abort()

    def _drained(self, count: int) -> None:
        self._queued -= count
        if self._is_choked and self._queued <= _HIGH_WATER // 2:
            self._is_choked = False
            self._loop.call_soon(self._unchoke)

    def _unchoke(self) -> None:
        if not self._is_gone and not self._is_choked:
            self._stream.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if self._is_gone:
            return
        self._is_gone = self._is_closing = True
        self._inbox.clear()
        self._stream.connection_lost(error)


def _link(near: Stream, far: Stream) -> None:
    one, two = _MemoryTransport(near), _MemoryTransport(far)
    one.twin, two.twin = two, one
    far.connection_made(two)
    near.connection_made(one)
