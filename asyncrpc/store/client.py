"""`TCPStore`: the client of a `TCPStoreServer`.

Theory of operation: every operation is a numbered request and a future; nothing else is kept per
call, no task and no timer. Requests made while others are in flight are joined into one frame at
the end of the loop's turn; a lone one goes out at once. One timer stands at the earliest deadline.

When the connection breaks, a request still in the batch has not been sent and stays there. One
that was sent is sent again if that does no harm (`RESENDABLE`), else its fate is unknown and it
fails. After reconnecting, leases are renewed first, then watches resume after the last version
seen, then all the rest follows in its old order. A server of another incarnation has other keys:
then everything fails, as it does when the server cannot be reached again in time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncrpc.errors import (
    AuthenticationError,
    Delivery,
    RemoteProtocolError,
    StoreConnectionError,
    StoreError,
    StoreTimeoutError,
)
from asyncrpc.observe import Clock, Timer
from asyncrpc.store.arguments import (
    check_host,
    check_integer,
    check_port,
    check_span,
    check_timeout,
)
from asyncrpc.store.codec import (
    CONNECTION,
    FrameReader,
    Packer,
    decode_replies,
    event_of,
    failure_error,
)
from asyncrpc.store.commands import (
    NO_VERSION,
    RESENDABLE,
    Barrier,
    Cancel,
    Command,
    Get,
    MultiGet,
    Ping,
    QueuePop,
    QueueReturn,
    RenewLease,
    Wait,
)
from asyncrpc.store.commands import Watch as WatchCommand
from asyncrpc.store.dialing import Credentials, Dialer
from asyncrpc.store.lease import Lease
from asyncrpc.store.operations import Operations
from asyncrpc.store.table import DEFAULT_GRACE, DEFAULT_MAX_VALUE
from asyncrpc.store.watch import Feed, Watch
from asyncrpc.transport import Address, Network, SocketNetwork, Stream
from asyncrpc.wire import Handshake

__all__ = ("TCPStore",)

# A batch goes out before the turn ends when its values have that many bytes together, or it has
# that many requests: their keys may take 16 MiB. With the largest operation (64 MiB, which counts
# all it carries) that is below the 80 MiB of a frame that the server takes.
_FLUSH_AT = 1 << 20
_FLUSH_AT_COUNT = 512
_MAX_REPLY = 1 << 30  # bytes; a frame of the server, which is trusted more than it trusts us
_MAX_REQUEST = 62 << 20  # bytes of one operation
_SLACK = 0.25  # seconds past a deadline before we answer for a server that does not
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
        store._attach(stream, leftover)
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
        self._time = self.clock.time
        self._dialer = dialer
        self._reconnect_timeout = reconnect_timeout
        self._incarnation = incarnation  # of the server
        self._name = secrets.token_bytes(8)  # of this client, in the tokens of its barriers
        self._stream: Stream | None = None  # None while there is no connection
        self._reader = FrameReader(_MAX_REPLY)
        self._packer = Packer()
        self._numbers = itertools.count(1)
        self._batch: list[tuple[int, Command]] = []
        self._batch_size = 0
        self._is_scheduled = False
        # Whether replies come one by one: then nothing is gained by waiting for more requests.
        self._is_sequential = True
        self._calls: dict[int, tuple[asyncio.Future[Any], Command, float]] = {}
        # What to do with results that no future waits for; dropped when the connection breaks.
        self._callbacks: dict[int, Callable[[Any], None]] = {}
        self._feeds: dict[int, Feed] = {}
        self._leases: weakref.WeakValueDictionary[int, Lease] = weakref.WeakValueDictionary()
        self._wake_at = math.inf
        self._timer: Timer | None = None
        self._ticker: Timer | None = None
        self._has_heard = True
        self._reconnecting: asyncio.Task[None] | None = None
        self._failure: StoreConnectionError | AuthenticationError | None = None

    def __repr__(self) -> str:
        return f"<TCPStore {self._dialer.address}>"

    def __del__(self) -> None:
        if getattr(self, "_failure", True) is None:
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
        sock = None if self._stream is None else self._stream.socket
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
        stream = self._stream
        if stream is not None:
            self._flush()
        self._fail(
            StoreConnectionError(
                f"the client of the store at {self._dialer.address} was closed",
                delivery=Delivery.NOT_SENT,
            )
        )
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        if stream is not None:
            stream.close()
            await stream.wait_closed()

    # Calls

    async def _call(self, command: Command, timeout: float | None = None, size: int = 0) -> Any:
        if self._failure is not None:
            raise self._again(self._failure)
        if size > _MAX_REQUEST:
            raise ValueError(f"an operation must carry at most {_MAX_REQUEST} bytes, got {size}")
        number = next(self._numbers)
        future: asyncio.Future[Any] = self._loop.create_future()
        deadline = self._time() + (self._timeout if timeout is None else timeout) + _SLACK
        if deadline < self._wake_at:
            self._set_timer(deadline)
        is_alone = self._is_sequential and not self._calls
        self._calls[number] = (future, command, deadline)
        self._post(number, command, size, is_alone)
        try:
            return await future
        except asyncio.CancelledError:
            self._withdraw(number, future, command)
            raise

    def _post(self, number: int, command: Command, size: int = 0, is_alone: bool = False) -> None:
        self._batch.append((number, command))
        self._batch_size += size
        if is_alone or self._batch_size >= _FLUSH_AT or len(self._batch) >= _FLUSH_AT_COUNT:
            self._flush()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush_turn)

    def _post_for(self, command: Command, callback: Callable[[Any], None] | None = None) -> None:
        """Send a command that no future waits for."""
        number = next(self._numbers)
        if callback is not None:
            self._callbacks[number] = callback
        self._post(number, command)

    def _flush_turn(self) -> None:
        self._is_scheduled = False
        self._flush()

    def _flush(self) -> None:
        stream, batch = self._stream, self._batch
        if stream is None or not batch:
            return
        self._batch = []
        self._batch_size = 0
        data = self._packer.requests(batch)
        if stream.is_writable:
            stream.write_parts((data,))  # now: `write` would also ask for another turn of the loop
        else:
            stream.write(data)

    def _withdraw(self, number: int, future: asyncio.Future[Any], command: Command) -> None:
        """Stop waiting: the request was cancelled, or its time is up."""
        if self._calls.pop(number, None) is None:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(command, future.result())
            return
        if self._stream is None or self._failure is not None:
            self._batch = [entry for entry in self._batch if entry[0] != number]
            return
        if not isinstance(command, Get | Wait | MultiGet | QueuePop | Barrier):
            return
        if isinstance(command, QueuePop):
            self._callbacks[number] = partial(self._give_back, command)
        self._post_for(Cancel(number), partial(self._drop_callback, number))

    def _drop_callback(self, number: int, _result: object) -> None:
        self._callbacks.pop(number, None)

    def _give_back(self, command: Command, result: object) -> None:
        """Undo a pop that was withdrawn when it had happened already."""
        if isinstance(command, QueuePop) and isinstance(result, bytes) and self._failure is None:
            self._post_for(QueueReturn(command.key, result), None)

    # Time

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = deadline
        self._timer = self.clock.call_at(deadline, self._check_deadlines)

    def _check_deadlines(self) -> None:
        now = self._time()
        late = [item for item in self._calls.items() if item[1][2] <= now]
        for number, (future, command, _) in late:
            self._withdraw(number, future, command)
            if not future.done():
                future.set_exception(self._timeout_error(command))
        self._timer = None
        self._wake_at = math.inf
        earliest = min((call[2] for call in self._calls.values()), default=math.inf)
        if earliest < math.inf:
            self._set_timer(earliest)

    def _timeout_error(self, command: Command) -> StoreTimeoutError:
        keys = getattr(command, "keys", None) or [getattr(command, "key", "")]
        state = "does not answer" if self._stream is not None else "is being reconnected to"
        return StoreTimeoutError(
            f"{type(command).__name__.lower()} timed out: the store at {self._dialer.address} "
            f"{state}, keys: {', '.join(keys[:16])}",
            keys=tuple(keys),
            delivery=Delivery.UNKNOWN,
        )

    def _tick(self) -> None:
        """Ping an idle connection: so a dead one breaks, and watches know how far they are."""
        self._ticker = self.clock.call_at(self._time() + _TICK, self._tick)
        if self._stream is not None and not self._has_heard and (self._calls or self._feeds):
            self._post_for(Ping(), self._advance_feeds)
        self._has_heard = False

    def _advance_feeds(self, version: int) -> None:
        for feed in self._feeds.values():
            if feed.version != NO_VERSION:
                _note_version(feed, version)

    # What arrives (StreamHandler)

    def get_buffer(self, size_hint: int) -> memoryview:  # noqa: ARG002 -- the reader knows better
        """Return room for the next bytes."""
        return self._reader.get_buffer()

    def buffer_updated(self, count: int) -> None:
        """Take in replies and events."""
        self._has_heard = True
        try:
            for items in self._reader.advance(count):
                self._take_replies(decode_replies(items))
        except RemoteProtocolError as error:
            self._fail(self._lost(f"it broke the protocol: {error}"))

    def _take_replies(self, replies: list[Any]) -> None:
        calls = self._calls
        self._is_sequential = len(replies) == 1
        for reply in replies:
            if len(reply) == 2:
                number, result = reply
                call = calls.pop(number, None)
                if call is None:
                    callback = self._callbacks.pop(number, None)
                    if callback is not None:
                        callback(result)
                elif not call[0].done():
                    call[0].set_result(result)
                else:
                    self._give_back(call[1], result)
            elif len(reply) == 5:
                feed = self._feeds.get(reply[0])
                if feed is not None and not feed.put(event_of(reply)):
                    self._end_watch(reply[0])
            else:
                self._take_failure(reply)

    def _take_failure(self, reply: list[Any]) -> None:
        number = reply[0]
        error = failure_error(tuple(reply))
        if number == CONNECTION:
            self._fail(self._lost(str(error)))
            return
        call = self._calls.pop(number, None)
        feed = self._feeds.pop(number, None)
        self._callbacks.pop(number, None)
        if call is not None and not call[0].done():
            error.delivery = Delivery.EXECUTED
            call[0].set_exception(error)
        elif feed is not None:
            feed.end(error)

    def write_ready(self) -> None:
        """Have nothing that waits for room: callers wait for their replies instead."""

    def stream_closed(self, error: Exception | None) -> None:
        """Sort what was in flight, and reconnect."""
        self._stream = None
        if self._failure is not None:
            return
        unsent = {number for number, _ in self._batch}
        self._callbacks = {n: call for n, call in self._callbacks.items() if n in unsent}
        self._fail_unrepeatable(unsent, error)
        self._reconnecting = self._loop.create_task(
            self._reconnect(error), name=f"reconnect {self!r}"
        )

    # Breaking and reconnecting

    def _fail_unrepeatable(self, unsent: set[int], cause: Exception | None) -> None:
        for number, (future, command, _) in list(self._calls.items()):
            if number not in unsent and type(command) not in RESENDABLE:
                del self._calls[number]
                if not future.done():
                    error = self._lost("the connection broke before the reply came")
                    error.__cause__ = cause
                    future.set_exception(error)
        for number, feed in list(self._feeds.items()):
            if number not in unsent and feed.version == NO_VERSION:
                del self._feeds[number]
                feed.end(self._lost("the connection broke before the watch was confirmed"))

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
        self._resume(stream, leftover)

    def _resume(self, stream: Stream, leftover: bytes) -> None:
        self._attach(stream, leftover)
        if self._stream is None:  # it broke again meanwhile
            return
        waiting, self._batch, self._batch_size = self._batch, [], 0
        unsent = {number for number, _ in waiting}
        for lease in list(self._leases.values()):
            self._post_for(RenewLease(lease.id), partial(_note_renewal, lease))
        for number, feed in self._feeds.items():
            if number not in unsent:
                self._post(number, WatchCommand(feed.prefix, feed.version))
        self._flush()
        now = self._time()
        again = [(n, call) for n, call in sorted(self._calls.items()) if n not in unsent]
        for number, (_, command, deadline) in again:
            self._post(number, _shortened(command, deadline - _SLACK - now))
        self._flush()
        for number, command in waiting:  # each may be large
            self._post(number, command, _FLUSH_AT)

    def _attach(self, stream: Stream, leftover: bytes) -> None:
        self._stream = stream
        self._reader = FrameReader(_MAX_REPLY)
        stream.attach(self, leftover)

    def _lost(self, reason: str) -> StoreConnectionError:
        return StoreConnectionError(f"store at {self._dialer.address} lost: {reason}")

    def _again(self, error: Exception) -> Exception:
        """Return a new error for a later call, so that tracebacks do not pile up in one."""
        fresh = type(error)(str(error))
        if isinstance(fresh, StoreConnectionError):
            fresh.delivery = Delivery.NOT_SENT
        fresh.__cause__ = error.__cause__
        return fresh

    def _fail(self, error: StoreConnectionError | AuthenticationError) -> None:
        """Give up for good: every call now and later fails."""
        if self._failure is not None:
            return
        self._failure = error
        for timer in (self._timer, self._ticker):
            if timer is not None:
                timer.cancel()
        calls, self._calls = self._calls, {}
        feeds, self._feeds = self._feeds, {}
        unsent = {number for number, _ in self._batch}
        self._batch = []
        for number, (future, _, _) in calls.items():
            if not future.done():
                fresh = self._again(error)
                if isinstance(fresh, StoreError) and number not in unsent:
                    fresh.delivery = Delivery.UNKNOWN
                future.set_exception(fresh)
        for feed in feeds.values():
            feed.end(self._again(error))
        for lease in list(self._leases.values()):
            lease.mark_lost()
        self._callbacks.clear()
        if self._stream is not None:
            self._stream.close()

    # Watches, leases, barriers

    def _watch(self, prefix: str, since: int) -> Watch:
        number = next(self._numbers)
        feed = Feed(prefix)
        if self._failure is not None:
            feed.end(self._again(self._failure))
        else:
            self._feeds[number] = feed
            if since == NO_VERSION:
                self._callbacks[number] = partial(_note_version, feed)
            feed.version = since
            self._post(number, WatchCommand(prefix, since))
        return Watch(feed, partial(self._end_watch, number))

    def _end_watch(self, number: int) -> None:
        if self._feeds.pop(number, None) is not None and self._failure is None:
            self._post_for(Cancel(number))

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


def _note_version(feed: Feed, version: int) -> None:
    feed.version = max(feed.version, version)


def _note_renewal(lease: Lease, is_alive: bool) -> None:
    if not is_alive:
        lease.mark_lost()


def _shortened(command: Command, remaining: float) -> Command:
    """Return a waiting command with the time it has left."""
    if isinstance(command, Get | Wait | MultiGet | Barrier):
        return command._replace(timeout=max(remaining, 0.0))
    return command
