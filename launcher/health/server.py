"""`HealthServer`: answers one HTTP request per connection, and lets nobody hold it up.

Bounded in what it reads, in how long it waits and in how many it serves at once; strangers get an
error or a closed connection. Knows nothing of what the pages show. Called by the api.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Self

from launcher.health.http import MAX_HEAD, HttpError, Request, Response, parse_head

__all__ = ("HealthServer", "Routes", "listen")

Routes = Mapping[tuple[str, str], Callable[[], Response]]
"""What makes the response, by method and path."""

_MAX_CONNECTIONS = 64  # at once; more are closed unheard
_TIMEOUT = 5.0  # seconds for the request, and again for the response


class HealthServer:
    """Serves pages until it is left as a context.

    Args:
        listening: a socket that listens; closed at the end.
        routes: the pages.
        is_admitted: whether a connection is heard at all; ``None``: each is.
    """

    def __init__(
        self,
        listening: socket.socket,
        routes: Routes,
        is_admitted: Callable[[socket.socket], bool] | None = None,
    ) -> None:
        self._listening = listening
        self._routes = routes
        self._is_admitted = is_admitted
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        is_unix = self._listening.family == socket.AF_UNIX
        start = asyncio.start_unix_server if is_unix else asyncio.start_server
        self._server = await start(self._accept, sock=self._listening, limit=MAX_HEAD)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        is_admitted = self._is_admitted is None or self._is_admitted(peer)
        if not is_admitted or len(self._tasks) >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                answer = await self._answer(reader)
            writer.write(answer)
            async with asyncio.timeout(_TIMEOUT):
                await writer.drain()
                writer.write_eof()
                # What is still to be read would make the system throw away the response.
                while await reader.read(MAX_HEAD):
                    pass
        except (OSError, TimeoutError):
            pass  # whoever asked has gone, or is too slow
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        is_head = False
        try:
            request = parse_head(await _read_head(reader))
            is_head = request.method == "HEAD"
            response = self._respond(request)
        except HttpError as error:
            response = Response(f"{error.text}\n", error.status)
        return response.render(has_body=not is_head)

    def _respond(self, request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        make = self._routes.get((method, request.path))
        if make is not None:
            return make()
        methods = [known for known, path in self._routes if path == request.path]
        if methods:
            allow = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
            text = f"expected {allow}, got {request.method}\n"
            return Response(text, HTTPStatus.METHOD_NOT_ALLOWED, allow=allow)
        paths = ", ".join(sorted({path for _, path in self._routes}))
        return Response(f"expected one of {paths}\n", HTTPStatus.NOT_FOUND)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Args:
        host: name or address; of a name, the first address that it has.
        port: from 1.

    Raises:
        OSError: somebody listens there, or the host is none of this machine.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        # Connections of a run before may linger; a listener is still refused.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    head = b""
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # longer than the reader's limit
            line = b"x" * (MAX_HEAD + 1)
        if len(head) + len(line) > MAX_HEAD:
            text = f"expected a head of at most {MAX_HEAD} bytes"
            raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)
        if not line.endswith(b"\n"):
            raise HttpError(HTTPStatus.BAD_REQUEST, "expected a request, the connection ended")
        if line in (b"\r\n", b"\n"):
            return head.rstrip(b"\r\n")
        head += line
