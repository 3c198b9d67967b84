"""`TCPStoreServer`: serves one store to authenticated clients.

Theory of operation: one handler per connection and no task. What one read brings is decoded,
applied to the table in order, and answered in one frame. Answers that become due for other
connections (waiters, watches, barriers) are collected with theirs and leave in the same turn of
the loop. While a client does not take its replies, its requests are not read; events of its
watches are kept up to a limit, then its watch ends with an error. The past that a new watch asks
for goes out in portions, each as soon as the client has taken the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

from asyncrpc.errors import (
    AuthenticationError,
    RemoteProtocolError,
    StoreConnectionError,
    StoreError,
)
from asyncrpc.identity import new_incarnation
from asyncrpc.observe import Clock
from asyncrpc.store.arguments import check_integer, check_span
from asyncrpc.store.codec import CONNECTION, FrameReader, Packer, Reply, decode_requests, failure
from asyncrpc.store.commands import Command, StoreEvent
from asyncrpc.store.dialing import Credentials
from asyncrpc.store.expiry import Expiry
from asyncrpc.store.listening import ListeningServer
from asyncrpc.store.table import BEHIND, DEFAULT_GRACE, DEFAULT_MAX_VALUE, PENDING, Table
from asyncrpc.transport import Greeter, Network, Stream

__all__ = ("TCPStoreServer",)

_FLUSH_AT = 256 << 10  # bytes of values in replies that go out before the batch ends
_MAX_FRAME = 80 << 20  # bytes; what the client's own limits add up to
_MAX_EVENTS = 1 << 14  # that wait for one client to read
_MAX_EVENT_BYTES = 16 << 20


class TCPStoreServer(ListeningServer):
    """Holds a store and serves it; async context manager.

    Args:
        host: name or IP address to listen on.
        port: 0 to 65535; 0 takes a free one.
        secret: shared with the clients: bytes, or the path of its file; ``None`` for
            ``$ASYNCRPC_SECRET_FILE``, else the per-user file.
        run_id: only clients of this run are let in; ``None`` for ``$TORCHELASTIC_RUN_ID``, else
            empty.
        network: listens; ``None`` for sockets.
        max_value: largest value, in bytes.
        max_connections: clients at one time; further ones are closed unread.
        grace: seconds the leases of a closed connection live on.
        handshake_timeout: seconds a client has to prove itself.
        clock: tells the time; ``None`` for the real one.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        secret: bytes | Path | None = None,
        *,
        run_id: str | None = None,
        network: Network | None = None,
        max_value: int = DEFAULT_MAX_VALUE,
        max_connections: int = 4096,
        grace: float = DEFAULT_GRACE,
        handshake_timeout: float = 5.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(host, port, network=network, max_connections=max_connections, clock=clock)
        self._credentials = Credentials.load(secret, run_id)
        self._credentials.check_address(self._address)
        self._handshake_timeout = check_span(handshake_timeout, "handshake_timeout")
        self._incarnation = new_incarnation()
        self._table = Table(
            max_value=check_integer(max_value, "max_value", 1), grace=check_span(grace, "grace")
        )
        self._expiry = Expiry(self._table, self._clock, self._deliver)
        self._packer = Packer()  # of all sessions
        self._sessions: set[_Session] = set()
        self._is_unused = asyncio.Event()
        self._greetings: set[asyncio.Task[None]] = set()

    async def _end_sessions(self) -> None:
        self._expiry.close()
        for task in self._greetings:
            task.cancel()
        sessions = list(self._sessions)
        farewell = self._packer.reply(
            failure(CONNECTION, StoreConnectionError("the server was closed"))
        )
        for session in sessions:
            session.stream.write(farewell)
            session.stream.close()
        if self._greetings:
            await asyncio.wait(self._greetings)
        await self._wait_closed(sessions)

    async def wait_unused(self, timeout: float) -> bool:
        """Accept nobody any more and wait for the others to go: so closing takes from nobody.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether they have all gone.
        """
        if self._listener is not None:
            await self._listener.close()
        self._is_unused.clear()
        if self._sessions:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._is_unused.wait()
        return not self._sessions

    async def _wait_closed(self, sessions: list[_Session]) -> None:
        try:
            async with asyncio.timeout(1.0):  # for a client that does not read what is left
                for session in sessions:
                    await session.stream.wait_closed()
        except TimeoutError:
            for session in sessions:
                session.stream.abort()
                await session.stream.wait_closed()

    def contents(self) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
        """Return the values and the queues by key, for a store that is to take over.

        What hangs on a lease is left out: whoever holds it sets it anew, or it is to vanish.
        """
        return self._table.contents()

    def debug_info(self) -> dict[str, int]:
        """Return the sizes of all tables, for leak checks and status pages."""
        return {"connections": len(self._sessions), **self._table.debug_info()}

    # Connections

    def _accept(self, stream: Stream) -> Greeter:
        handshake = self._credentials.handshake(is_client=False, incarnation=self._incarnation)
        greeter = Greeter(handshake, stream)
        task = asyncio.get_running_loop().create_task(self._greet(greeter, stream))
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)
        return greeter

    async def _greet(self, greeter: Greeter, stream: Stream) -> None:
        try:
            await greeter.greet(stream, self._handshake_timeout)
        except (AuthenticationError, RemoteProtocolError, TimeoutError) as error:
            self._report("turned away %s: %s", stream.peer, error)
            return
        session = _Session(self, stream, FrameReader(_MAX_FRAME), self._packer)
        self._sessions.add(session)
        stream.attach(session, greeter.handshake.leftover)

    # Requests: called by sessions

    def serve_one(self, session: _Session, number: int, command: Command) -> None:
        """Apply the only request that has come of a session that has all its replies."""
        table = self._table
        try:
            result = table.handlers[type(command)](session, number, command, self._clock.time())
        except StoreError as error:
            session.stream.write_now(self._packer.reply(failure(number, error)))
        else:
            if result is not PENDING:
                session.stream.write_now(self._packer.reply((number, result)))
        if table.outbox:
            self._deliver()
        self._expiry.update()

    def serve(self, session: _Session) -> None:
        """Apply a session's requests while it takes the replies, and send these."""
        requests, replies, handlers = session.requests, session.replies, self._table.handlers
        outbox, now = self._table.outbox, self._clock.time()
        while requests:
            if session.reply_size >= _FLUSH_AT:
                session.flush()
                replies = session.replies
                if not session.stream.is_writable:
                    break
            number, command = requests.popleft()
            try:
                result = handlers[type(command)](session, number, command, now)
            except StoreError as error:
                replies.append(failure(number, error))
            else:
                if result is not PENDING:
                    replies.append((number, result))
                    if type(result) is bytes:
                        session.reply_size += len(result)
                    elif type(result) is list:
                        session.reply_size += _size(result)
            if outbox:
                self._deliver()
                replies = session.replies
        session.flush()
        self._expiry.update()

    def replay(self, session: _Session, request: int) -> None:
        """Give a watch more of the past."""
        self._table.replay(session, request)
        self._deliver()

    def drop_watch(self, session: _Session, request: int) -> None:
        """End a watch whose client does not keep up."""
        self._table.drop_watch(session, request)

    def break_off(self, session: _Session, error: RemoteProtocolError) -> None:
        """Turn a client away that broke the protocol."""
        self._report("closed the connection of %s: %s", session.stream.peer, error)
        session.stream.abort()

    def forget(self, session: _Session) -> None:
        """Withdraw what a session waits for, now that its connection is gone."""
        self._sessions.discard(session)
        if not self._sessions:
            self._is_unused.set()
        if not self._is_closed:
            self._table.close_session(session, self._clock.time())
            self._expiry.update()

    def _deliver(self) -> None:
        for session, number, outcome in self._table.take_outbox():
            session.deliver(number, outcome)


class _Session:
    """One authenticated client: a `StreamHandler`."""

    __slots__ = (
        "_behind",
        "_event_size",
        "_events",
        "_is_paused",
        "_is_scheduled",
        "_packer",
        "_reader",
        "_server",
        "get_buffer",
        "replies",
        "reply_size",
        "requests",
        "stream",
    )

    def __init__(
        self,
        server: TCPStoreServer,
        stream: Stream,
        reader: FrameReader,
        packer: Packer,
    ) -> None:
        self.stream = stream
        self.requests: deque[tuple[int, Command]] = deque()  # read, not applied yet
        self.replies: list[Reply] = []  # not packed yet
        self.reply_size = 0  # bytes of the values in them
        self._behind: deque[int] = deque()  # watches that have not been told all of the past
        self._events = 0  # of watches among them
        self._event_size = 0
        self._server = server
        self._packer = packer
        self._reader = reader
        self.get_buffer = reader.get_buffer  # no call between it and the loop
        self._is_paused = False
        self._is_scheduled = False

    def buffer_updated(self, count: int) -> None:
        """Take in requests, and serve them unless earlier ones still wait for room."""
        try:
            requests = decode_requests(self._reader.advance(count))
        except RemoteProtocolError as error:
            self._server.break_off(self, error)
            return
        is_idle = not self.requests and not self.replies and self.stream.is_writable
        if is_idle and len(requests) == 1:
            number, command = requests[0]
            self._server.serve_one(self, number, command)
            return
        self.requests += requests
        if not self.stream.is_writable:
            self._pause()
        elif self.requests:
            self._server.serve(self)
            if self.requests:
                self._pause()

    def write_ready(self) -> None:
        """Send what had to wait, then serve what had to wait."""
        self._flush_turn()
        if self.requests and self.stream.is_writable:
            self._server.serve(self)
        if self._is_paused and not self.requests and self.stream.is_writable:
            self._is_paused = False
            self.stream.resume_reading()

    def stream_closed(self, error: Exception | None) -> None:  # noqa: ARG002 -- all are the same
        """Withdraw what this client waits for."""
        self.requests.clear()
        self.replies.clear()
        self._behind.clear()
        self._server.forget(self)

    def deliver(self, number: int, outcome: object) -> None:
        """Take in an answer or event that became due by another's request or by time."""
        if isinstance(outcome, StoreEvent):
            if not self._has_room(number, outcome):
                return
            self.replies.append((number, *outcome))
        elif outcome is BEHIND:
            self._behind.append(number)
        elif isinstance(outcome, StoreError):
            self.replies.append(failure(number, outcome))
        else:
            self.replies.append((number, outcome))
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_turn)

    def flush(self) -> None:
        """Pack and send what is there, if the client takes it."""
        if self.replies and self.stream.is_writable:
            replies, self.replies = self.replies, []
            self.reply_size = self._events = self._event_size = 0
            # Now: `write` would also ask for another turn of the loop.
            self.stream.write_now(self._packer.replies(replies))

    def _flush_turn(self) -> None:
        self._is_scheduled = False
        self.flush()
        if self._behind and self.stream.is_writable:
            self._server.replay(self, self._behind.popleft())  # which schedules the next turn

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.stream.pause_reading()

    def _has_room(self, number: int, event: StoreEvent) -> bool:
        """Count an event; end its watch if too many wait for this client to read."""
        self._events += 1
        self._event_size += len(event.value)
        if self._events <= _MAX_EVENTS and self._event_size <= _MAX_EVENT_BYTES:
            return True
        self._server.drop_watch(self, number)
        kept = [reply for reply in self.replies if reply[0] != number or len(reply) != 5]
        self._events = sum(len(reply) == 5 for reply in kept)
        self._event_size = sum(len(reply[3]) for reply in kept if len(reply) == 5)
        error = StoreError(
            "the watch fell behind: its client does not read, events were dropped from version "
            f"{event.version} on or before"
        )
        self.replies = [*kept, failure(number, error)]
        return False


def _size(result: list[object]) -> int:
    return sum(len(item) for item in result if isinstance(item, bytes | str))
