"""`TCPStore`: the client of a `TCPStoreServer`.

Theory of operation: `Exchange` has the requests and their replies; here is whose they are and the
life of the connection. When it breaks, another one is made. Then leases are renewed first, and the
exchange goes on. A server of another incarnation has other keys: then everything fails, as it does
when the server cannot be reached again in time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import warnings
import weakref
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncrpc.errors import AuthenticationError, StoreConnectionError
from asyncrpc.observe import Clock, Timer
from asyncrpc.store.arguments import (
    check_host,
    check_integer,
    check_port,
    check_span,
    check_timeout,
)
from asyncrpc.store.commands import Command, Ping, RenewLease
from asyncrpc.store.dialing import Credentials, Dialer
from asyncrpc.store.exchange import Exchange
from asyncrpc.store.failures import closed_error, lost_error
from asyncrpc.store.lease import Lease
from asyncrpc.store.operations import Operations
from asyncrpc.store.table import DEFAULT_GRACE, DEFAULT_MAX_VALUE
from asyncrpc.store.watch import Feed, Watch
from asyncrpc.transport import Address, Network, SocketNetwork
from asyncrpc.wire import Handshake

__all__ = ("TCPStore",)

_TICK = 5.0  # seconds between pings of an idle connection
_RECONNECT_TIMEOUT = 5.0
_log = logging.getLogger("asyncrpc.store")


class TCPStore(Operations):
    """A store on a `TCPStoreServer`; made by `connect`.

    An async context manager. See `asyncrpc.store.Store` for the operations. Belongs to the loop
    it was made in.
    """

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        timeout: float | None = 300.0,
        secret: bytes | Path | None = None,
        *,
        run_id: str | None = None,
        network: Network | None = None,
        reconnect_timeout: float = _RECONNECT_TIMEOUT,
        max_value: int = DEFAULT_MAX_VALUE,
        clock: Clock | None = None,
    ) -> Self:
        """Connect to a server, trying until it is there.

        Args:
            host: name or IP address.
            port: 1 to 65535.
            timeout: seconds for connecting, and for operations that are given none; ``None`` for
                no limit.
            secret: shared with the server: bytes, or the path of its file; ``None`` for
                ``$ASYNCRPC_SECRET_FILE``, else the per-user file.
            run_id: of the run; ``None`` for ``$TORCHELASTIC_RUN_ID``, else empty.
            network: opens the connection; ``None`` for sockets.
            reconnect_timeout: seconds to try when the connection broke; a second, when nobody
                listens there any more: a server that is gone took the keys with it.
            max_value: largest value, in bytes, that is taken at the call; the server has its own.
            clock: tells the time for deadlines and leases; ``None`` for the real one.

        Raises:
            AuthenticationError: the server has another secret or serves another run; at once.
            StoreConnectionError: it could not be reached in time; tells the address, how many
                attempts were made and why the last one failed.
            ValueError: an argument breaks its rule.
        """
        address = Address("tcp", check_host(host), check_port(port, 1))
        credentials = Credentials.load(secret, run_id)
        credentials.check_address(address)
        dialer = Dialer(network or SocketNetwork(), address, credentials)
        window = check_span(reconnect_timeout, "reconnect_timeout")
        check_integer(max_value, "max_value", 1)
        stream, incarnation, leftover = await dialer.dial(check_timeout(timeout), math.inf)
        store = cls(dialer, incarnation, timeout, window, max_value, clock)
        store._tick()
        store._exchange.begin(stream, leftover)
        return store

    def __init__(
        self,
        dialer: Dialer,
        incarnation: bytes,
        timeout: float | None,
        reconnect_timeout: float,
        max_value: int,
        clock: Clock | None,
    ) -> None:
        super().__init__(timeout, max_value, clock)
        self._loop = asyncio.get_running_loop()
        self._dialer = dialer
        self._reconnect_timeout = reconnect_timeout
        self._incarnation = incarnation  # of the server
        self._name = secrets.token_bytes(8)  # of this client, in the tokens of its barriers
        self._exchange = Exchange(self, self.clock, self._timeout, str(dialer.address))
        self._leases: weakref.WeakValueDictionary[int, Lease] = weakref.WeakValueDictionary()
        self._ticker: Timer | None = None
        self._reconnecting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<TCPStore {self._dialer.address}>"

    def __del__(self) -> None:
        exchange = getattr(self, "_exchange", None)
        if exchange is not None and exchange.failure is None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self._dialer.address

    def make_handshake(self) -> Handshake:
        """Return the machine for a further connection to the server."""
        return self._dialer.make_handshake()

    @property
    def host(self) -> str:
        """Host of the server, as given."""
        return self._dialer.address.host

    @property
    def port(self) -> int:
        """Port of the server."""
        return self._dialer.address.port

    @property
    def local_host(self) -> str:
        """Address of this host that the server is reached from; "" while there is no connection."""
        stream = self._exchange.outlet.stream
        sock = None if stream is None else stream.socket
        return "" if sock is None else str(sock.getsockname()[0])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Send what was asked, then close; what waits fails. Idempotent.

        Leases that were not left lapse after the server's grace.
        """
        stream = self._exchange.outlet.stream
        self._exchange.outlet.flush()
        self._fail(closed_error(str(self._dialer.address)))
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        if stream is not None:
            stream.close()
            await stream.wait_closed()

    def _call(
        self, command: Command, timeout: float | None = None, size: int = 0
    ) -> Coroutine[Any, Any, Any]:
        return self._exchange.call(command, timeout, size)

    # The connection (Owner of the exchange)

    def connection_lost(self, error: Exception | None) -> None:
        """Make another one."""
        self._reconnecting = self._loop.create_task(
            self._reconnect(error), name=f"reconnect {self!r}"
        )

    def connection_refused(self, reason: str) -> None:
        """Give up: another connection would be no better."""
        self._fail(self._lost(reason))

    async def _reconnect(self, cause: Exception | None) -> None:
        try:
            stream, incarnation, leftover = await self._dialer.dial(
                self._reconnect_timeout, DEFAULT_GRACE
            )
        except (StoreConnectionError, AuthenticationError) as error:
            error.__context__ = cause
            self._fail(error)
            return
        finally:
            self._reconnecting = None
        if incarnation != self._incarnation:
            stream.abort()
            self._fail(self._lost("it was started anew, its keys are gone"))
            return
        _log.info("reconnected to the store at %s", self._dialer.address)
        self._exchange.resume(stream, leftover, self._renew_leases)

    def _renew_leases(self) -> None:
        for lease in list(self._leases.values()):
            self._exchange.post(RenewLease(lease.id), partial(_note_renewal, lease))

    def _lost(self, reason: str) -> StoreConnectionError:
        return lost_error(str(self._dialer.address), reason)

    def _fail(self, error: StoreConnectionError | AuthenticationError) -> None:
        """Give up for good: every call now and later fails."""
        if self._exchange.failure is not None:
            return
        if self._ticker is not None:
            self._ticker.cancel()
        self._exchange.fail(error)
        for lease in list(self._leases.values()):
            lease.mark_lost()

    def _tick(self) -> None:
        """Ping an idle connection: so a dead one breaks, and watches know how far they are."""
        self._ticker = self.clock.call_at(self.clock.time() + _TICK, self._tick)
        exchange = self._exchange
        is_connected = exchange.outlet.stream is not None
        if is_connected and not exchange.has_heard and exchange.is_waiting:
            exchange.post(Ping(), exchange.advance_feeds)
        exchange.has_heard = False

    # Watches, leases, barriers

    def _watch(self, prefix: str, since: int) -> Watch:
        feed = Feed(prefix)
        number = self._exchange.watch(feed, since)
        return Watch(feed, partial(self._exchange.end_watch, number))

    async def grant_lease(self, lease: Lease) -> None:
        """Make a lease; from now on reconnecting resumes it."""
        await super().grant_lease(lease)
        self._leases[lease.id] = lease

    async def revoke_lease(self, lease: Lease) -> None:
        """End a lease."""
        self._leases.pop(lease.id, None)
        await super().revoke_lease(lease)

    def _arrival_token(self) -> bytes:
        return self._name + secrets.token_bytes(8)


def _note_renewal(lease: Lease, is_alive: bool) -> None:
    if not is_alive:
        lease.mark_lost()
