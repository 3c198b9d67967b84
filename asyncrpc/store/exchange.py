"""The requests of one client and their replies, over one connection after another.

Theory of operation: every operation is a numbered request and a future; nothing else is kept per
call, no task and no timer. One timer stands at the earliest deadline.

When the connection breaks, a request that was not sent waits for the next one. One that was sent
is sent again if that does no harm (`RESENDABLE`), else its fate is unknown and it fails. On the
next connection watches resume after the last version seen, then all the rest follows in its old
order. Used by `client`, which makes the connections and says when to give up.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from asyncrpc.errors import (
    AuthenticationError,
    Delivery,
    RemoteProtocolError,
    StoreConnectionError,
    StoreError,
)
from asyncrpc.observe import Clock, Timer
from asyncrpc.store.codec import CONNECTION, FrameReader, decode_reply
from asyncrpc.store.commands import (
    NO_VERSION,
    RESENDABLE,
    Barrier,
    Cancel,
    Command,
    Get,
    MultiGet,
    QueuePop,
    QueueReturn,
    Wait,
    Watch,
)
from asyncrpc.store.failures import fresh_error, lost_error, unanswered_error
from asyncrpc.store.outlet import Outlet
from asyncrpc.store.watch import Feed
from asyncrpc.transport import Stream

__all__ = ("Exchange", "Owner")

_MAX_REPLY = 1 << 30  # bytes; a frame of the server, which is trusted more than it trusts us
_MAX_REQUEST = 62 << 20  # bytes of one operation
_SLACK = 0.25  # seconds past a deadline before we answer for a server that does not

_Call = tuple[asyncio.Future[Any], Command, float]
"""Who waits, for what, until when."""


class Owner(Protocol):
    """Who has the exchange, and hears of its connection."""

    def connection_lost(self, error: Exception | None) -> None:
        """Learn that the connection is gone; `Exchange.resume` goes on with another one."""

    def connection_refused(self, reason: str) -> None:
        """Learn that the server wants no more of us, or cannot be understood."""


class Exchange:
    """Asks and is answered: a `StreamHandler`.

    Args:
        owner: hears of the connection.
        clock: tells the time for deadlines.
        timeout: seconds for calls that are given none.
        name: of the server, in errors.

    Attributes:
        outlet: sends; its stream is ``None`` while there is no connection.
        has_heard: whether anything came since it was last set to false.
        failure: why it was given up; ``None`` while it was not.
    """

    __slots__ = (
        "_callbacks",
        "_calls",
        "_clock",
        "_create_future",
        "_feeds",
        "_is_sequential",
        "_name",
        "_numbers",
        "_owner",
        "_reader",
        "_time",
        "_timeout",
        "_timer",
        "_wake_at",
        "failure",
        "get_buffer",
        "has_heard",
        "outlet",
    )

    def __init__(self, owner: Owner, clock: Clock, timeout: float, name: str) -> None:
        self.outlet = Outlet()
        self.has_heard = True
        self.failure: StoreConnectionError | AuthenticationError | None = None
        self._owner = owner
        self._clock = clock
        self._time = clock.time
        self._timeout = timeout
        self._name = name
        self._create_future = asyncio.get_running_loop().create_future
        self._use(FrameReader(_MAX_REPLY))
        self._numbers = itertools.count(1)
        # Whether replies come one by one: then nothing is gained by waiting for more requests.
        self._is_sequential = True
        self._calls: dict[int, _Call] = {}
        # What to do with results that no future waits for; dropped when the connection breaks.
        self._callbacks: dict[int, Callable[[Any], None]] = {}
        self._feeds: dict[int, Feed] = {}
        self._wake_at = math.inf
        self._timer: Timer | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether anybody waits for something of the server."""
        return bool(self._calls or self._feeds)

    # Asking

    async def call(self, command: Command, timeout: float | None = None, size: int = 0) -> Any:
        """Have a command carried out and return its result.

        Args:
            command: what is asked.
            timeout: seconds; the server answers in time, but for the slack that it has. ``None``
                takes the exchange's own.
            size: about how many bytes it carries, where that may be many.
        """
        if self.failure is not None:
            raise fresh_error(self.failure)
        if size > _MAX_REQUEST:
            raise ValueError(f"an operation must carry at most {_MAX_REQUEST} bytes, got {size}")
        # Attributes are taken first and called then: CPython 3.11 looks up what it calls at once by
        # the slow way, unless it is a method.
        number, create_future, clock = next(self._numbers), self._create_future, self._time
        future: asyncio.Future[Any] = create_future()
        deadline = clock() + (self._timeout if timeout is None else timeout) + _SLACK
        if deadline < self._wake_at:
            self._set_timer(deadline)
        calls, outlet = self._calls, self.outlet
        if self._is_sequential and not calls and not outlet.batch and outlet.stream is not None:
            calls[number] = (future, command, deadline)
            outlet.stream.write_now(outlet.packer.request(number, command))
        else:
            calls[number] = (future, command, deadline)
            outlet.post(number, command, size)
        try:
            return await future
        except asyncio.CancelledError:
            self._withdraw(number, future, command)
            raise

    def post(self, command: Command, callback: Callable[[Any], None] | None = None) -> None:
        """Send a command that no future waits for."""
        number = next(self._numbers)
        if callback is not None:
            self._callbacks[number] = callback
        self.outlet.post(number, command)

    def watch(self, feed: Feed, since: int) -> int:
        """Have a feed told of changes; return the number by which to `end_watch`."""
        number = next(self._numbers)
        if self.failure is not None:
            feed.end(fresh_error(self.failure))
            return number
        self._feeds[number] = feed
        if since == NO_VERSION:
            self._callbacks[number] = feed.note_version
        feed.version = since
        self.outlet.post(number, Watch(feed.prefix, since))
        return number

    def end_watch(self, number: int) -> None:
        """Withdraw a watch. Idempotent."""
        if self._feeds.pop(number, None) is not None and self.failure is None:
            self.post(Cancel(number))

    def advance_feeds(self, version: int) -> None:
        """Note up to which version the watches were told what there is."""
        for feed in self._feeds.values():
            if feed.version != NO_VERSION:
                feed.note_version(version)

    def _withdraw(self, number: int, future: asyncio.Future[Any], command: Command) -> None:
        """Stop waiting: the request was cancelled, or its time is up."""
        if self._calls.pop(number, None) is None:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(command, future.result())
            return
        if self.outlet.stream is None or self.failure is not None:
            self.outlet.withdraw(number)
            return
        if not isinstance(command, Get | Wait | MultiGet | QueuePop | Barrier):
            return
        if isinstance(command, QueuePop):
            self._callbacks[number] = partial(self._give_back, command)
        self.post(Cancel(number), partial(self._drop_callback, number))

    def _drop_callback(self, number: int, _result: object) -> None:
        self._callbacks.pop(number, None)

    def _give_back(self, command: Command, result: object) -> None:
        """Undo a pop that was withdrawn when it had happened already."""
        if isinstance(command, QueuePop) and isinstance(result, bytes) and self.failure is None:
            self.post(QueueReturn(command.key, result))

    # Time

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wake_at = deadline
        self._timer = self._clock.call_at(deadline, self._check_deadlines)

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

    def _timeout_error(self, command: Command) -> StoreError:
        is_connected = self.outlet.stream is not None
        state = "does not answer" if is_connected else "is being reconnected to"
        return unanswered_error(command, self._name, state)

    # What arrives (StreamHandler)

    def buffer_updated(self, count: int) -> None:
        """Take in replies and events."""
        self.has_heard = True
        calls = self._calls
        try:
            replies = self._reader.advance(count)
            for reply in replies:
                if type(reply) is list and len(reply) == 2 and type(reply[0]) is int:
                    number, result = reply
                    call = calls.pop(number, None)
                    if call is not None and not call[0].done():
                        call[0].set_result(result)
                    else:
                        self._take_late(number, call, result)
                else:
                    self._take_other(reply)
            if replies:
                self._is_sequential = len(replies) == 1
        except RemoteProtocolError as error:
            self._owner.connection_refused(f"it broke the protocol: {error}")

    def _take_late(self, number: int, call: _Call | None, result: Any) -> None:
        """Take in a result that no future waits for, or none any more."""
        if call is not None:
            self._give_back(call[1], result)
            return
        callback = self._callbacks.pop(number, None)
        if callback is not None:
            callback(result)

    def _take_other(self, reply: Any) -> None:
        """Take in an event or a failure."""
        told = decode_reply(reply)
        number = reply[0]
        if isinstance(told, StoreError):
            self._take_failure(number, told)
            return
        feed = self._feeds.get(number)
        if feed is not None and not feed.put(told):
            self.end_watch(number)

    def _take_failure(self, number: int, error: StoreError) -> None:
        if number == CONNECTION:
            self._owner.connection_refused(str(error))
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
        """Sort what was in flight: what may have happened and must not happen twice fails."""
        self.outlet.stream = None
        if self.failure is not None:
            return
        unsent = self.outlet.unsent()
        self._callbacks = {n: call for n, call in self._callbacks.items() if n in unsent}
        for number, (future, command, _) in list(self._calls.items()):
            if number not in unsent and type(command) not in RESENDABLE:
                del self._calls[number]
                if not future.done():
                    lost = self._lost("the connection broke before the reply came")
                    lost.__cause__ = error
                    future.set_exception(lost)
        for number, feed in list(self._feeds.items()):
            if number not in unsent and feed.version == NO_VERSION:
                del self._feeds[number]
                feed.end(self._lost("the connection broke before the watch was confirmed"))
        self._owner.connection_lost(error)

    def _use(self, reader: FrameReader) -> None:
        """Read a new connection from its beginning."""
        self._reader = reader
        self.get_buffer = reader.get_buffer  # no call between it and the loop

    def _lost(self, reason: str) -> StoreConnectionError:
        return lost_error(self._name, reason)

    # One connection and the next

    def begin(self, stream: Stream, leftover: bytes) -> bool:
        """Go on with a connection.

        Args:
            stream: authenticated.
            leftover: what has been read of it already.

        Returns:
            Whether it still stands.
        """
        self.outlet.stream = stream
        self._use(FrameReader(_MAX_REPLY))
        stream.attach(self, leftover)
        return self.outlet.stream is not None

    def resume(self, stream: Stream, leftover: bytes, first: Callable[[], None]) -> None:
        """Go on with a new connection where the one before ended.

        Args:
            stream: authenticated.
            leftover: what has been read of it already.
            first: posts what is to come before all else.
        """
        if not self.begin(stream, leftover):  # it broke again meanwhile
            return
        outlet = self.outlet
        waiting = outlet.take_unsent()
        unsent = {number for number, _ in waiting}
        first()
        for number, feed in self._feeds.items():
            if number not in unsent:
                outlet.post(number, Watch(feed.prefix, feed.version))
        outlet.flush()
        now = self._time()
        again = [(n, call) for n, call in sorted(self._calls.items()) if n not in unsent]
        for number, (_, command, deadline) in again:
            outlet.post(number, _shortened(command, deadline - _SLACK - now))
        outlet.flush()
        for number, command in waiting:
            outlet.post_large(number, command)

    def fail(self, error: StoreConnectionError | AuthenticationError) -> None:
        """Give up for good: every call now and later fails."""
        self.failure = error
        if self._timer is not None:
            self._timer.cancel()
        calls, self._calls = self._calls, {}
        feeds, self._feeds = self._feeds, {}
        unsent = {number for number, _ in self.outlet.take_unsent()}
        for number, (future, _, _) in calls.items():
            if not future.done():
                fresh = fresh_error(error)
                if isinstance(fresh, StoreError) and number not in unsent:
                    fresh.delivery = Delivery.UNKNOWN
                future.set_exception(fresh)
        for feed in feeds.values():
            feed.end(fresh_error(error))
        self._callbacks.clear()
        if self.outlet.stream is not None:
            self.outlet.stream.close()


def _shortened(command: Command, remaining: float) -> Command:
    """Return a waiting command with the time it has left."""
    if isinstance(command, Get | Wait | MultiGet | Barrier):
        return command._replace(timeout=max(remaining, 0.0))
    return command
