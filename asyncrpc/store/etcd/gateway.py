"""`Gateway`: requests to an etcd over HTTP, whichever of its members answers.

The only module that knows of aiohttp, which is imported when a gateway is opened.

Theory of operation: all go to one member until it fails; then the next one is asked, and streams
of the old one end, so that they follow. Every request may be sent again when it is not known
whether the one before was carried out: whoever makes requests sees to it that this does no harm.
What etcd refuses is not tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from asyncrpc.errors import (
    AuthenticationError,
    Delivery,
    StatusCode,
    StoreConnectionError,
    StoreError,
)
from asyncrpc.store.etcd.address import EtcdAddress, EtcdCredentials
from asyncrpc.store.etcd.messages import read_reply
from asyncrpc.store.etcd.refusals import (
    MemberError,
    RefusedError,
    StaleTokenError,
    check_version,
    refusal,
    refusal_of,
    translated,
)

if TYPE_CHECKING:
    import ssl

    import aiohttp

__all__ = ("Gateway", "Reply")

_ATTEMPT = 1.5  # seconds for one member at first: a request is lost with the leader it went to
_MAX_ATTEMPT = 10.0  # seconds for one that has become slow
_CONNECT = 2.0  # seconds for one member to take a connection
_OPENING = 3.0  # seconds for one to begin a stream: one that stands still takes the request, too
_LEAST_ATTEMPT = 0.3
_FIRST_PAUSE = 0.02  # seconds before all members are asked again
_MAX_PAUSE = 0.5
_MAX_REPLY = 1 << 30  # bytes

_LOGIN = "/v3/auth/authenticate"
_AUTH_OFF = "authentication is not enabled"
_HINTS = {
    "http": "; if it speaks TLS, say so: protocol=https, or its cacert",
    "https": "; if it does not speak TLS, leave cacert and protocol out",
}
_KEEPALIVE = (  # a member whose machine is gone is noticed after some 15 seconds
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
)

_log = logging.getLogger("asyncrpc.store")


class Reply(NamedTuple):
    """What etcd has answered."""

    fields: dict[str, Any]
    may_have_run: bool
    """Whether the request was carried out, perhaps, before the time that this is the answer to."""


class Gateway:
    """Talks to an etcd.

    Args:
        address: its members.
        credentials: for all of them.
        patience: seconds after which a request gives up that no member answers.
    """

    def __init__(self, address: EtcdAddress, credentials: EtcdCredentials, patience: float) -> None:
        self.address = address
        self._credentials = credentials
        self._patience = patience
        self._members = [f"{credentials.scheme}://{part}" for part in address.authority.split(",")]
        self._current = 0  # index of the member that is asked
        self.ssl_context: ssl.SSLContext | None = None
        """What TLS connections are made with; ``None`` without TLS, and before `open`."""
        self._session: aiohttp.ClientSession | None = None  # None before `open`
        self.token = ""
        """What stands for user and password, for a while; empty without them."""
        self._logging_in = asyncio.Lock()
        self._streams: dict[aiohttp.ClientResponse, str] = {}  # and the members they come from
        self._is_closed = False

    def __repr__(self) -> str:
        return str(self.address)

    async def open(self, probe: dict[str, Any], timeout: float) -> None:
        """Reach a member and see whether it is of use.

        Args:
            probe: reads something, for which rights may be needed.
            timeout: seconds to try.

        Raises:
            StoreError: aiohttp is not installed, or the server is too old; says which.
            StoreConnectionError: no member could be reached.
            AuthenticationError: user or password are wrong.
            ValueError: a file of the credentials is not what it should be.
        """
        try:
            import aiohttp  # noqa: PLC0415 -- an extra, and slow to load
        except ImportError as error:
            raise StoreError(
                "a store on etcd needs aiohttp: pip install 'asyncrpc[etcd]'"
            ) from error
        self.ssl_context = self._credentials.make_context()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.ssl_context or True),
            auto_decompress=False,
            read_bufsize=1 << 18,
        )
        try:
            reply = await self._ask("/version", None, timeout)
            check_version(str(reply.fields.get("etcdserver", "")), self.address)
            if self._credentials.user:
                await self._log_in(timeout)
            await self.call("/v3/kv/range", probe["request_range"], timeout)
        except RefusedError as error:
            await self.close()
            if error.code is StatusCode.UNAUTHENTICATED:
                raise AuthenticationError(str(error)) from None
            raise
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End all requests and streams. Idempotent."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # transports are closed in the loop's next turn

    async def call(self, path: str, body: dict[str, Any], timeout: float | None = None) -> Reply:
        """Send a request until a member has answered.

        Args:
            path: of the gateway, from ``/v3``.
            body: of the request.
            timeout: seconds to try; ``None``: for as long as this gateway has patience.

        Raises:
            RefusedError: etcd did not carry it out; says why.
            StoreConnectionError: no member answered in time.
        """
        for is_fresh in (False, True):
            token = self.token
            try:
                return await self._ask(path, body, self._patience if timeout is None else timeout)
            except StaleTokenError as error:
                if is_fresh:
                    raise self._unauthenticated(error) from None
                await self._renew_token(token, error)
        raise AssertionError("unreachable")

    async def stream(
        self, path: str, body: dict[str, Any], take: Callable[[dict[str, Any]], None]
    ) -> None:
        """Send a request and pass on what comes, until the stream breaks or its member is left.

        Args:
            path: of the gateway, from ``/v3``.
            body: of the request.
            take: is called with each result; what it raises ends the stream.

        Raises:
            RefusedError: etcd did not carry it out; says why.
        """
        member, token = self._members[self._current], self.token
        try:
            with self._turning_away(member), translated():
                async with contextlib.AsyncExitStack() as stack:
                    async with asyncio.timeout(_OPENING):
                        request = self._post(member, path, body, None)
                        response = await stack.enter_async_context(request)
                    if response.status != 200:
                        raise self._refusal_of(response.status, await response.read())
                    _keep_alive(response)
                    self._streams[response] = member
                    try:
                        async for line in _lines(response):
                            take(self._result(line))
                    finally:
                        del self._streams[response]
        except MemberError as error:
            _log.debug("stream of etcd member %s broke: %s", member, error)
        except StaleTokenError as error:
            await self._renew_token(token, error)

    # Asking members

    async def _ask(self, path: str, body: dict[str, Any] | None, timeout: float) -> Reply:
        """Ask one member after the other until one answers; see `call`."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        may_have_run = False
        hopeless = 0  # members in a row
        for attempt in itertools.count(1):
            member = self._members[self._current]
            remaining = begun + timeout - loop.time()
            try:
                patience = min(_ATTEMPT * 2 ** min(attempt - 1, 8), _MAX_ATTEMPT)
                limit = max(min(patience, remaining), _LEAST_ATTEMPT)
                with self._turning_away(member), translated():
                    fields = await self._attempt(member, path, body, limit)
            except MemberError as error:
                last = error
            else:
                return Reply(fields, may_have_run)
            may_have_run |= last.may_have_run
            hopeless = hopeless + 1 if last.is_hopeless else 0
            rounds, rest = divmod(attempt, len(self._members))
            pause = 0.0 if rest else min(_FIRST_PAUSE * 2 ** min(rounds - 1, 8), _MAX_PAUSE)
            is_over = loop.time() + pause - begun >= timeout or hopeless >= len(self._members)
            if self._is_closed or is_over:
                raise self._unreachable(last, attempt, loop.time() - begun, may_have_run)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _attempt(
        self, member: str, path: str, body: dict[str, Any] | None, limit: float
    ) -> dict[str, Any]:
        async with self._post(member, path, body, limit) as response:
            data = await response.read()
            if response.status != 200:
                raise self._refusal_of(response.status, data)
            fields = read_reply(data)
            return cast("dict[str, Any]", fields.get("result", fields))

    def _post(
        self, member: str, path: str, body: dict[str, Any] | None, limit: float | None
    ) -> Any:
        import aiohttp  # noqa: PLC0415 -- it has been imported before

        if self._session is None or self._is_closed:
            raise StoreConnectionError(
                f"the client of the store at {self} was closed", delivery=Delivery.NOT_SENT
            )
        headers = {"Authorization": self.token} if self.token and path != _LOGIN else {}
        if limit is None:  # a member without a leader would go on in silence
            headers["Grpc-Metadata-hasleader"] = "true"
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=_CONNECT)
        if body is None:
            return self._session.get(member + path, headers=headers, timeout=timeout)
        headers["Content-Type"] = "application/json"
        data = BytesIO(json.dumps(body).encode())  # written in pieces, as it may be large
        return self._session.post(member + path, data=data, headers=headers, timeout=timeout)

    def _result(self, line: bytes) -> dict[str, Any]:
        fields = read_reply(line)
        if "result" not in fields:
            raise refusal(fields, self.address, self._credentials.user)
        result: dict[str, Any] = fields["result"]
        return result

    def _refusal_of(self, status: int, data: bytes) -> Exception:
        return refusal_of(status, data, self.address, self._credentials.user)

    @contextlib.contextmanager
    def _turning_away(self, member: str) -> Iterator[None]:
        """Leave a member that fails, and what streams from it."""
        try:
            yield
        except MemberError:
            if self._members[self._current] == member:
                self._current = (self._current + 1) % len(self._members)
            for response in [r for r, source in self._streams.items() if source == member]:
                response.close()
            raise

    # Tokens

    async def _renew_token(self, stale: str, error: StaleTokenError) -> None:
        """Log in anew, unless somebody else has done so meanwhile."""
        if not self._credentials.user:
            raise self._unauthenticated(error) from None
        async with self._logging_in:
            if self.token == stale:
                await self._log_in(self._patience)

    def _unauthenticated(self, error: Exception) -> RefusedError:
        code = StatusCode.UNAUTHENTICATED
        return RefusedError(f"etcd at {self} wants user and password: {error}", code=code)

    async def _log_in(self, timeout: float) -> None:
        """Get a token; they are short-lived."""
        body = {"name": self._credentials.user, "password": self._credentials.password}
        try:
            reply = await self._ask(_LOGIN, body, timeout)
        except (RefusedError, StaleTokenError) as error:
            if _AUTH_OFF in str(error):
                return  # then everybody may do everything
            raise RefusedError(
                f"etcd at {self} does not accept user {self._credentials.user!r}: {error}",
                code=StatusCode.UNAUTHENTICATED,
            ) from None
        self.token = str(reply.fields.get("token", ""))

    def _unreachable(
        self, last: MemberError, attempts: int, span: float, may_have_run: bool
    ) -> StoreConnectionError:
        if self._is_closed:
            text = f"the client of the store at {self} was closed"
        else:
            tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            text = (
                f"cannot reach the store at {self}: {tries} in {span:.1f} s, "
                f"the last failed with {last}"
            )
            if isinstance(last.__cause__, ConnectionError) or "disconnected" in str(last):
                text += _HINTS[self._credentials.scheme]
        delivery = Delivery.UNKNOWN if may_have_run else Delivery.NOT_SENT
        code = StatusCode.UNAUTHENTICATED if last.is_hopeless else StatusCode.UNAVAILABLE
        return StoreConnectionError(text, delivery=delivery, code=code)


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of a stream, of any length."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        head, *tails = chunk.split(b"\n")
        parts.append(head)
        size += len(chunk)
        if size > _MAX_REPLY:
            raise MemberError(f"a reply has more than {_MAX_REPLY} bytes", may_have_run=True)
        for tail in tails:
            line = b"".join(parts)
            parts, size = [tail], len(tail)
            if line.strip():
                yield line


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    connection = response.connection
    transport = None if connection is None else connection.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is not None:
        for level, option, value in _KEEPALIVE:
            with contextlib.suppress(OSError):
                sock.setsockopt(level, option, value)
