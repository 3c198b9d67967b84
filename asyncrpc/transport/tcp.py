"""Streams over sockets: tcp, tls and unix addresses, on whatever loop runs.

Called through `Network` by agents and stores. Errors of the system are translated here, once, into
ConnectionError, TimeoutError or OSError whose text names the address.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from asyncrpc.errors import AuthenticationError
from asyncrpc.observe import Clock, LoopClock, time_limit
from asyncrpc.transport.address import Address
from asyncrpc.transport.stream import Stream, StreamHandler

if TYPE_CHECKING:
    import ssl

    from asyncrpc.transport.base import Listener, MakeHandler
    from asyncrpc.transport.tls import TlsOptions

__all__ = ("SocketNetwork",)

_BACKLOG = 1024
_TLS_TIMEOUT = 5.0  # seconds for a TLS handshake, and for its farewell; as `handshake_timeout`

# Milliseconds that data may wait for the peer's system to take it, before the link breaks. It ends
# half-open links that nobody pings; and links whose peer does not read for so long, even if its
# system answers: a loop blocked by user code must not lose its links, so this is ample. (The
# system's own limit is about 15 minutes.)
_USER_TIMEOUT = 120_000

# Bytes of bulk that may lie in the system, unsent and (on one host, where the delay is nothing)
# unread: a small frame waits for all of them. The system would let megabytes pile up, to no gain.
_UNSENT = 128 << 10
_UNREAD = 256 << 10  # twice as much in fact: see socket(7)


class SocketNetwork:
    """Opens streams and listeners on the machine's sockets.

    Args:
        tls: certificates for ``tls://`` addresses; ``None`` refuses them.
        listening: a tcp socket that listens already; the first `listen` takes it over, whatever
            the address, with the connections that wait in it.
        clock: measures how long opening a stream may take.
    """

    def __init__(
        self,
        tls: TlsOptions | None = None,
        *,
        listening: socket.socket | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = LoopClock() if clock is None else clock
        self._tls = tls
        self._listening = listening

    async def connect(self, address: Address, handler: StreamHandler, *, timeout: float) -> Stream:
        """Open a stream; see `asyncrpc.transport.Network.connect`."""
        _check_scheme(address)
        try:
            async with time_limit(self._clock, timeout):
                stream = await self._open(address, handler)
        except TimeoutError as error:
            raise TimeoutError(
                f"no answer from {address} within {round(timeout, 2):g} s"
            ) from error
        except (OSError, UnicodeError) as error:  # a name that IDNA refuses is a UnicodeError
            kind = AuthenticationError if _is_untrusted(address, error) else ConnectionError
            raise kind(f"cannot connect to {address}: {_reason(error)}") from error
        stream.peer = str(address)
        return stream

    async def _open(self, address: Address, handler: StreamHandler) -> Stream:
        loop = asyncio.get_running_loop()
        if address.scheme == "unix":
            _, stream = await loop.create_unix_connection(lambda: Stream(handler), address.path)
            return stream
        context = self._client_context(address)
        _, stream = await loop.create_connection(
            lambda: Stream(handler),
            address.host,
            address.port,
            ssl=context,
            server_hostname=self._server_hostname(address),
            ssl_shutdown_timeout=_TLS_TIMEOUT if context else None,
        )
        _tune(stream)
        return stream

    async def listen(
        self, address: Address, make_handler: MakeHandler, *, max_connections: int
    ) -> Listener:
        """Listen on a socket; see `asyncrpc.transport.Network.listen`."""
        _check_scheme(address)
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
        """Begin to accept: on ``listening`` if it is given, else at the address.

        Raises:
            OSError: the address cannot be bound; the message names it.
        """
        address = self.address
        try:
            if listening is None and address.scheme == "unix":
                await self._start_unix()
                return
            self._server = await self._start_tcp(context, listening)
        except (OSError, UnicodeError) as error:
            raise _listen_error(address, error) from error
        port = self._server.sockets[0].getsockname()[1]
        self.address = Address(address.scheme, address.host, port)

    async def _start_tcp(
        self, context: ssl.SSLContext | None, listening: socket.socket | None
    ) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        limit = _TLS_TIMEOUT if context else None
        if listening is not None:
            return await loop.create_server(
                self._make_stream, sock=listening, ssl=context, backlog=_BACKLOG,
                ssl_handshake_timeout=limit, ssl_shutdown_timeout=limit,
            )  # fmt: skip
        host = self.address.host
        if self.address.port == 0:
            host = await _first_address(host)
        return await loop.create_server(
            self._make_stream, host, self.address.port, ssl=context, backlog=_BACKLOG,
            ssl_handshake_timeout=limit, ssl_shutdown_timeout=limit,
        )  # fmt: skip

    async def _start_unix(self) -> None:
        path = self.address.path
        sock = _bind_unix(path)
        try:
            status = os.stat(path)
            self._inode = (status.st_dev, status.st_ino)
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._make_stream, sock=sock, backlog=_BACKLOG
            )
        except BaseException:
            sock.close()
            raise

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


async def _first_address(host: str) -> str:
    """Return the first address of a host: with port 0 each would get a port of its own."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    addresses = [str(info[4][0]) for info in found]
    return addresses[0] if len(addresses) > 1 else host


def _bind_unix(path: str) -> socket.socket:
    """Listen on a unix socket that only its owner may use, replacing one that nobody serves."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        if _is_stale(path):
            with contextlib.suppress(FileNotFoundError):  # somebody else replaces it too
                os.unlink(path)
        sock.bind(path)
        os.chmod(path, 0o600)  # before listen(): until then nobody can connect
        sock.listen(_BACKLOG)  # at once: bound but not served, it would look stale to others
    except BaseException:
        sock.close()
        raise
    return sock


def _is_stale(path: str) -> bool:
    """Whether there is a socket at ``path`` that nobody listens on."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog would block, and is an answer too
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _tune(stream: Stream) -> None:
    """Send small writes at once, let bulk not queue in the system, notice a peer gone silent."""
    sock = stream.socket
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with contextlib.suppress(OSError):  # the peer may be gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        if sock.getpeername()[0] == sock.getsockname()[0]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD)


def _check_scheme(address: Address) -> None:
    if address.scheme not in {"tcp", "tls", "unix"}:
        raise ValueError(f"address {address} must start with tcp://, tls:// or unix://")


def _is_untrusted(address: Address, error: Exception) -> bool:
    """Whether it is the peer's certificate that a link failed of."""
    if address.scheme != "tls":
        return False
    import ssl  # noqa: PLC0415 -- it has been loaded

    return isinstance(error, ssl.SSLCertVerificationError)


def _listen_error(address: Address, error: OSError | UnicodeError) -> OSError:
    code = error.errno if isinstance(error, OSError) else None
    if type(error) is OSError and code is None:
        # asyncio of Python 3.13 passes over addresses that are not this host's, until none is left.
        error = OSError(code := errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return OSError(code, f"cannot listen on {address}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Say in the system's words what went wrong; TLS and the resolver have numbers of their own."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str):
        detail = getattr(error, "verify_message", None)
        return reason.lower().replace("_", " ") + (f": {detail}" if detail else "")
    if isinstance(error, OSError) and error.errno:
        is_system = error.errno > 0 and not isinstance(error, socket.gaierror)
        return (os.strerror(error.errno) if is_system else str(error.strerror)).lower()
    return str(error) or type(error).__name__
