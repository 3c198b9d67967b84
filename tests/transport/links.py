"""What the transport's tests put on streams, and the four kinds of link they run over."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trustme

from asyncrpc.transport import (
    Address,
    Listener,
    MemoryNetwork,
    Network,
    SocketNetwork,
    Stream,
    StreamHandler,
    TlsOptions,
)

KINDS = ("tcp", "unix", "tls", "memory")
TIMEOUT = 5.0


class Recorder:
    """A handler that keeps what it gets.

    Args:
        room: bytes it offers for one read.
    """

    def __init__(self, room: int = 65_536) -> None:
        self._room = memoryview(bytearray(room))
        self.data = bytearray()
        self.ends: list[Exception | None] = []
        self.ready = 0
        self.on_data: Callable[[], object] = lambda: None
        self.on_ready: Callable[[], object] = lambda: None
        self._changed = asyncio.Event()

    def get_buffer(self, size_hint: int) -> memoryview:
        return self._room

    def buffer_updated(self, count: int) -> None:
        self.data += self._room[:count]
        self._changed.set()
        self.on_data()

    def stream_closed(self, error: Exception | None) -> None:
        self.ends.append(error)
        self._changed.set()

    def write_ready(self) -> None:
        self.ready += 1
        self._changed.set()
        self.on_ready()

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Wait until something that the stream tells makes the condition true."""
        async with asyncio.timeout(TIMEOUT * 2):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()

    async def received(self, count: int) -> bytes:
        """Wait for that many bytes in all and return what came."""
        await self.until(lambda: len(self.data) >= count)
        return bytes(self.data)

    async def ended(self) -> Exception | None:
        """Wait for the end of the stream and return its error."""
        await self.until(lambda: bool(self.ends))
        return self.ends[0]


class Sender:
    """Writes a large content in parts, as long as the stream takes them.

    Args:
        stream: to write to; its handler is a `Recorder`.
        content: bytes to send.
        size: bytes of each part.
    """

    def __init__(self, stream: Stream, content: bytes, size: int = 1 << 18) -> None:
        self._stream = stream
        self._parts = [
            memoryview(content)[start : start + size] for start in range(0, len(content), size)
        ]
        self.stops = 0
        self.most_unsent = 0
        recorder = stream.handler
        assert isinstance(recorder, Recorder)
        recorder.on_ready = self.pump

    @property
    def is_done(self) -> bool:
        return not self._parts

    def pump(self) -> None:
        while self._parts and self._stream.is_writable:
            part = self._parts.pop(0)
            self._stream.write_parts([b"", part])
            self.most_unsent = max(self.most_unsent, self._stream.unsent)
        self.stops += bool(self._parts)


@dataclasses.dataclass
class Server:
    """A listener and the streams it accepted, each with a `Recorder` on it."""

    network: Network
    listener: Listener
    streams: list[Stream]

    @property
    def address(self) -> Address:
        return self.listener.address

    async def connect(self, handler: StreamHandler | None = None) -> Stream:
        return await self.network.connect(self.address, handler or Recorder(), timeout=TIMEOUT)

    async def pair(self) -> tuple[Stream, Stream]:
        """Open a stream; return it and its accepted end."""
        count = len(self.streams)
        near = await self.connect()
        async with asyncio.timeout(TIMEOUT):
            while len(self.streams) == count:
                await asyncio.sleep(0)
        return near, self.streams[count]


def recorder(stream: Stream) -> Recorder:
    """Return the `Recorder` on a stream."""
    handler = stream.handler
    assert isinstance(handler, Recorder)
    return handler


def identity(
    directory: Path, authority: trustme.CA, *names: str, trusted: trustme.CA | None = None
) -> TlsOptions:
    """Write a certificate of ``authority`` for ``names`` and return options that use it."""
    directory.mkdir()
    issued = authority.issue_cert(*names)
    issued.private_key_pem.write_to_path(directory / "key.pem")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(directory / "cert.pem", append=True)
    (trusted or authority).cert_pem.write_to_path(directory / "ca.pem")
    return TlsOptions(directory / "cert.pem", directory / "key.pem", directory / "ca.pem")


def network_of(kind: str, directory: Path, options: TlsOptions) -> tuple[Network, Address]:
    """Return a network and an address to listen on for one kind of link."""
    match kind:
        case "tcp":
            return SocketNetwork(), Address.parse("tcp://127.0.0.1:0")
        case "unix":
            return SocketNetwork(), Address.parse(f"unix://{directory}/socket")
        case "tls":
            return SocketNetwork(options), Address.parse("tls://127.0.0.1:0")
        case _:
            return MemoryNetwork(), Address.parse("memory://server")


@contextlib.asynccontextmanager
async def serving(
    network: Network, address: Address, *, max_connections: int = 100
) -> AsyncIterator[Server]:
    """Listen, and end all streams at the end."""
    streams: list[Stream] = []

    def accept(stream: Stream) -> Recorder:
        streams.append(stream)
        return Recorder()

    listener = await network.listen(address, accept, max_connections=max_connections)
    try:
        yield Server(network, listener, streams)
    finally:
        await listener.close()
        for stream in streams:
            stream.abort()
            await stream.wait_closed()
