"""`TorchStoreServer`: serves one store to torch's TCPStore clients.

Theory of operation: as `server`, one handler per connection and no task; what one read brings is
decoded, applied to the table in order and answered. Requests that come while a wait of the same
connection is pending are carried out at once, as by torch's own server. A client keeps the deadline
of its waits itself and takes them back when it has come, so nothing here happens by time but the
end of a connection that does not begin as it must.

The dialect knows no authentication: whoever reaches the port can read and write. So this serves a
table of its own, which holds nothing but what its clients put there, and the launcher has it listen
on loopback where that will do.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

from asyncrpc.errors import (
    RemoteProtocolError,
    StoreError,
    StoreTimeoutError,
)
from asyncrpc.observe import Clock, Timer
from asyncrpc.store.commands import (
    NO_LEASE,
    Add,
    Barrier,
    Cancel,
    Get,
    MultiGet,
    QueueLen,
    QueuePop,
)
from asyncrpc.store.listening import ListeningServer
from asyncrpc.store.table import PENDING, Table
from asyncrpc.store.torch_codec import CancelWait, Echo, Request, RequestReader, encode_reply
from asyncrpc.transport import Network, Stream

__all__ = ("TorchStoreServer",)

_ROOM = 1 << 18  # bytes taken in at one time
_LARGE = 1 << 16  # bytes of a reply that is sent without being joined to others
_MAX_VALUE = 1 << 30  # bytes; a value appended to may become larger than one request can carry
_GREETING = 30.0  # seconds in which a connection has to begin: clients do at once


class TorchStoreServer(ListeningServer):
    """Holds a store and serves it in torch's dialect; async context manager.

    Args:
        host: name or IP address to listen on.
        port: 0 to 65535; 0 takes a free one.
        network: listens; ``None`` for sockets.
        max_connections: clients at one time; further ones are closed unread.
        clock: tells the time; ``None`` for the real one.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        network: Network | None = None,
        max_connections: int = 4096,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(host, port, network=network, max_connections=max_connections, clock=clock)
        # Nobody can watch, so no event is kept.
        self._table = Table(max_value=_MAX_VALUE, max_events=0, push_wakes_one=True)
        self._numbers = itertools.count(1)
        self._barriers: dict[str, list[tuple[_Session, int]]] = {}  # who waits for which count
        self._sessions: set[_Session] = set()
        # One for all connections: what is read is copied out of it before the next read.
        self._room = memoryview(bytearray(_ROOM))

    async def _end_sessions(self) -> None:
        sessions = list(self._sessions)
        for session in sessions:
            session.stream.abort()
        for session in sessions:
            await session.stream.wait_closed()

    def debug_info(self) -> dict[str, int]:
        """Return the sizes of all tables, for leak checks and status pages."""
        arrived = sum(map(len, self._barriers.values()))
        return {
            "connections": len(self._sessions),
            "arrived": arrived,
            **self._table.debug_info(),
        }

    def _accept(self, stream: Stream) -> _Session:
        session = _Session(self, stream, self._room)
        self._sessions.add(session)
        late = self._clock.time() + _GREETING
        session.greeting = self._clock.call_at(late, session.give_up)
        return session

    # Called by sessions

    def serve(self, session: _Session) -> None:
        """Apply a session's requests while it takes the replies, and send these."""
        requests, stream = session.requests, session.stream
        while requests and stream.is_writable:
            request = requests.popleft()
            try:
                result = self._run(session, request)
            except StoreError as error:  # the dialect has no words for it
                self.break_off(session, error)
                return
            if result is not PENDING:
                session.reply(encode_reply(request, result))
            if self._table.outbox:
                self._deliver()

    def break_off(self, session: _Session, error: Exception) -> None:
        """End the connection of a client that asked for what there is not."""
        self._report("closed the connection of %s: %s", session.stream.peer, error)
        session.stream.abort()

    def forget(self, session: _Session) -> None:
        """Withdraw what a session waits for, now that its connection is gone."""
        self._sessions.discard(session)
        self._table.close_session(session, self._clock.time())
        self._leave_barriers(session)

    # Requests

    def _run(self, session: _Session, request: Request) -> object:
        match request:
            case Echo(nonce):
                return nonce
            case CancelWait():
                self._cancel(session)
                return None
            case Barrier():
                return self._arrive(session, request)
            case QueuePop():
                length = self._apply(session, QueueLen(request.key))
                return (length, self._apply(session, request) if length else b"")
            case MultiGet():
                return [self._apply(session, Get(key, 0.0)) for key in request.keys]
            case _:
                return self._apply(session, request)

    def _apply(self, session: _Session, command: Any) -> object:
        number = next(self._numbers)
        try:
            result = self._table.apply(session, number, command, self._clock.time())
        except StoreTimeoutError:  # of a Get, the only one that cannot wait
            return b""
        if result is PENDING:
            session.waiting.add(number)
        return result

    def _cancel(self, session: _Session) -> None:
        for number in session.waiting:
            self._apply(session, Cancel(number))
        session.waiting.clear()
        self._leave_barriers(session)

    def _arrive(self, session: _Session, barrier: Barrier) -> object:
        """Count an arrival, under the key itself as torch does, and let pass whom it completes."""
        key, world_size = barrier.key, barrier.world_size
        arrived: Any = self._apply(session, Add(key, 1, NO_LEASE))
        waiting = self._barriers.pop(key, [])
        for other, needed in waiting:
            if needed <= arrived:
                other.reply(encode_reply(barrier, None))
        left = [(other, needed) for other, needed in waiting if needed > arrived]
        if arrived < world_size:
            left.append((session, world_size))
        if left:
            self._barriers[key] = left
        return PENDING if arrived < world_size else None

    def _leave_barriers(self, session: _Session) -> None:
        for key, waiting in list(self._barriers.items()):
            left = [entry for entry in waiting if entry[0] is not session]
            if left:
                self._barriers[key] = left
            else:
                del self._barriers[key]

    def _deliver(self) -> None:
        for session, number, _ in self._table.take_outbox():
            session.waiting.discard(number)
            session.reply(_GO_ON)


_GO_ON = b"\0"  # to whatever waited


class _Session:
    """One client: a `StreamHandler`."""

    __slots__ = (
        "_is_paused",
        "_reader",
        "_room",
        "_server",
        "greeting",
        "requests",
        "stream",
        "waiting",
    )

    def __init__(self, server: TorchStoreServer, stream: Stream, room: memoryview) -> None:
        self.stream = stream
        self.requests: deque[Request] = deque()  # read, not applied yet
        self.waiting: set[int] = set()  # numbers of its requests that wait in the table
        self.greeting: Timer | None = None  # until the connection has begun
        self._server = server
        self._reader = RequestReader()
        self._room = room
        self._is_paused = False

    def get_buffer(self, size_hint: int) -> memoryview:  # noqa: ARG002 -- one size serves all
        """Return room for the next bytes."""
        return self._room

    def buffer_updated(self, count: int) -> None:
        """Take in requests, and serve them unless earlier ones still wait for room."""
        problem = None
        try:
            self.requests.extend(self._reader.feed(self._room[:count]))
        except RemoteProtocolError as error:
            problem = error
        if self._reader.is_validated:
            self._greeted()
        self._serve()
        if problem is not None:
            self._server.break_off(self, problem)

    def write_ready(self) -> None:
        """Serve what had to wait."""
        self._serve()

    def stream_closed(self, error: Exception | None) -> None:  # noqa: ARG002 -- all are the same
        """Withdraw what this client waits for."""
        self._greeted()
        self.requests.clear()
        self._server.forget(self)

    def give_up(self) -> None:
        """End a connection that has not begun in time."""
        self.greeting = None
        self.stream.abort()

    def reply(self, data: bytes) -> None:
        """Send an answer with others, or at once if it is large."""
        if len(data) < _LARGE:
            self.stream.write(data)
        else:
            self.stream.write_parts((data,))

    def _serve(self) -> None:
        self._server.serve(self)
        self.stream.flush()  # at once, not in another turn of the loop
        if bool(self.requests) is self._is_paused:
            return
        self._is_paused = not self._is_paused
        if self._is_paused:
            self.stream.pause_reading()
        else:
            self.stream.resume_reading()

    def _greeted(self) -> None:
        if self.greeting is not None:
            self.greeting.cancel()
            self.greeting = None
