"""Streams over sockets: tcp, tls and unix addresses, on whatever loop runs.

Called through `Network` by agents and stores. Errors of the system are translated here, once, into
ConnectionError, TimeoutError or OSError whose text names the address.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

from asyncrpc.transport.address import Address
from asyncrpc.transport.stream import Stream, StreamHandler

if TYPE_CHECKING:
    import ssl

    from asyncrpc.transport.base import Listener, MakeHandler
    from asyncrpc.transport.tls import TlsOptions

__all__ = ("SocketNetwork",)

_BACKLOG = 1024
_USER_TIMEOUT = 15_000  # milliseconds; unacknowledged data for this long breaks a half-open link


class SocketNetwork:
    """Opens streams and listeners on the machine's sockets.

    Args:
        tls: certificates for ``tls://`` addresses; ``None`` refuses them.
        listening: a tcp socket that listens already; the first `listen` takes it over, whatever
            the address, with the connections that wait in it.
    """

    def __init__(
        self, tls: TlsOptions | None = None, *, listening: socket.socket | None = None
    ) -> None:
        self._tls = tls
        self._listening = listening

    async def connect(self, address: Address, handler: StreamHandler, *, timeout: float) -> Stream:
        """Open a stream; see `asyncrpc.transport.Network.connect`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                if address.scheme == "unix":
                    _, stream = await loop.create_unix_connection(
                        lambda: Stream(handler), address.path
                    )
                else:
                    _, stream = await loop.create_connection(
                        lambda: Stream(handler),
                        address.host,
                        address.port,
                        ssl=self._client_context(address),
                        server_hostname=self._server_hostname(address),
                    )
                    _tune(stream)
        except TimeoutError as error:
            raise TimeoutError(f"no answer from {address} within {timeout:g} s") from error
        except OSError as error:
            raise ConnectionError(f"cannot connect to {address}: {_reason(error)}") from error
        stream.peer = str(address)
        return stream

    async def listen(
        self, address: Address, make_handler: MakeHandler, *, max_connections: int
    ) -> Listener:
        """Listen on a socket; see `asyncrpc.transport.Network.listen`."""
        listener = _SocketListener(address, make_handler, max_connections)
        listening, self._listening = self._listening, None
        await listener.start(self._server_context(address), listening)
        return listener

    def _client_context(self, address: Address) -> ssl.SSLContext | None:
        if address.scheme != "tls":
            return None
        from asyncrpc.transport import tls  # noqa: PLC0415 -- ssl is loaded only when used

        return tls.client_context(self._options(address))

    def _server_context(self, address: Address) -> ssl.SSLContext | None:
        if address.scheme != "tls":
            return None
        from asyncrpc.transport import tls  # noqa: PLC0415 -- ssl is loaded only when used

        return tls.server_context(self._options(address))

    def _server_hostname(self, address: Address) -> str | None:
        if address.scheme != "tls":
            return None
        return self._options(address).server_hostname or address.host

    def _options(self, address: Address) -> TlsOptions:
        if self._tls is None:
            raise ValueError(f"address {address} needs tls options: pass tls=TlsOptions(…)")
        return self._tls


class _SocketListener:
    """A listening socket and the count of what it accepted."""

    def __init__(self, address: Address, make_handler: MakeHandler, max_connections: int) -> None:
        self.address = address
        self._make_handler = make_handler
        self._max_connections = max_connections
        self._count = 0
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None

    async def start(self, context: ssl.SSLContext | None, listening: socket.socket | None) -> None:
        loop = asyncio.get_running_loop()
        address = self.address
        try:
            if listening is not None:
                self._server = await loop.create_server(
                    self._make_stream, sock=listening, ssl=context, backlog=_BACKLOG
                )
            elif address.scheme == "unix":
                self._server = await loop.create_unix_server(
                    self._make_stream, sock=_bind_unix(address.path), backlog=_BACKLOG
                )
                status = os.stat(address.path)
                self._inode = (status.st_dev, status.st_ino)
                return
            else:
                self._server = await loop.create_server(
                    self._make_stream, address.host, address.port, ssl=context, backlog=_BACKLOG
                )
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {address}: {_reason(error)}") from error
        port = self._server.sockets[0].getsockname()[1]
        self.address = Address(address.scheme, address.host, port)

    async def close(self) -> None:
        """Stop accepting; see `asyncrpc.transport.Listener.close`."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._inode is not None:
            with contextlib.suppress(OSError):
                status = os.stat(self.address.path)
                if (status.st_dev, status.st_ino) == self._inode:
                    os.unlink(self.address.path)
        await asyncio.sleep(0)  # both loops let go of the socket in the next turn

    def _make_stream(self) -> Stream:
        return Stream(accepted=self._accept, closed=self._forget)

    def _accept(self, stream: Stream) -> StreamHandler | None:
        self._count += 1
        if self._count > self._max_connections or self._server is None:
            return None
        _tune(stream)
        return self._make_handler(stream)

    def _forget(self, _stream: Stream) -> None:
        self._count -= 1


def _bind_unix(path: str) -> socket.socket:
    """Bind a unix socket that only its owner may use, replacing one that nobody serves."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and not _is_served(path):
            os.unlink(path)
        sock.bind(path)
        os.chmod(path, 0o600)
    except BaseException:
        sock.close()
        raise
    return sock


def _is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _tune(stream: Stream) -> None:
    """Send small writes at once, and notice a peer that went silent with data outstanding."""
    sock = stream.socket
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):  # the peer may be gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
