"""One link to one peer: frames in and out, interned names, bulk transfers, signs of life.

Owned by its `Peer`. Sits on an authenticated stream, finds frames, gives replies to the pending
table, requests to its `Server` and control messages to the agent's handlers. It never decides what
a lost link means: it reports it, once, to its peer.

The hot path is `buffer_updated`: one loop over the plain calls and replies of a read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from asyncrpc.agent.backlog import SLICE, Backlog, is_unread
from asyncrpc.agent.bulk import Bulk
from asyncrpc.agent.dispatch import REFERENCE_CALLS, make_handlers
from asyncrpc.agent.sharing import Sharing, share
from asyncrpc.agent.unsent import withdraw
from asyncrpc.agent.upkeep import Upkeep
from asyncrpc.errors import RemoteProtocolError, RpcError
from asyncrpc.transport import Stream
from asyncrpc.wire import (
    CONTROL,
    HEADER,
    Frame,
    FrameReader,
    Hello,
    MessageType,
    Show,
    Transfer,
    allocate_buffer,
    encode_frame,
)

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.fault_hook import FaultHook
    from asyncrpc.agent.peers import Peer

__all__ = ("Connection",)

_log = logging.getLogger("asyncrpc.connection")

_PYTHON_CALL = int(MessageType.PYTHON_CALL)
_PYTHON_RET = int(MessageType.PYTHON_RET)
_CANCEL = int(MessageType.CANCEL)
_ABOUT = frozenset((_PYTHON_CALL, *REFERENCE_CALLS))
_SHORT_ANSWERS = frozenset(int(MessageType[name]) for name in (
    "REMOTE_RET", "PYTHON_RREF_FETCH_RET", "RREF_ACK"
))  # fmt: skip

_HEADER_SIZE = HEADER.size
unpack_header = HEADER.unpack_from
_COPIED = 1 << 16  # bytes of a read that are copied once rather than sliced as a view
_STRETCH = 2048  # bytes of small requests handled between looks at what is unread


class Connection:
    """A link that was authenticated.

    Args:
        agent: whose link it is.
        peer: who is at the other end.
        stream: attach this object to it after construction.
        hello: what the other side said of itself.
    """

    __slots__ = (
        "_agent",
        "_decode",
        "_handlers",
        "_is_closed",
        "_pending",
        "_reader",
        "announced",
        "backlog",
        "bulk",
        "get_buffer",
        "hello",
        "hook",
        "is_heard",
        "max_message_size",
        "peer",
        "received",
        "serve",
        "serve_reference",
        "server",
        "sharing",
        "stream",
        "upkeep",
        "write",
    )

    def __init__(self, agent: Agent, peer: Peer, stream: Stream, hello: Hello | None) -> None:
        self._agent = agent
        self.peer = peer
        self.stream = stream
        self.hello = hello
        self.hook: FaultHook | None = agent.fault_hook
        limit = agent.options.limits.max_message_size
        self.max_message_size = min(limit, (hello and hello.max_message_size) or limit)
        """Bytes of the largest message that both sides take; the handshake tells the other's."""
        self.is_heard = True
        """Whether bytes came since the last look of the failure detector."""
        self.received = 0
        self.announced: set[int] = set()
        """Ids of the functions whose names the peer was told."""
        if agent.poller is not None:
            stream.write = agent.poller.waking(stream.write)  # type: ignore[assignment, method-assign]  # on purpose
        self.write = stream.write
        """Puts a small frame on the stream, past the fault hook."""
        self.bulk = Bulk(stream, agent.became_idle)
        """Large messages on their way out."""
        self.sharing: Sharing | None = share(agent, self)
        """Memory that both ends see, where they are on one host and want it."""
        self._is_closed = False
        self.upkeep = Upkeep(agent, self)
        """Signs of life, fences, names and goodbyes."""
        self._pending = agent.pending
        self._decode = agent.codec.decode
        self._reader = FrameReader(
            max_message_size=agent.options.limits.max_message_size,
            allocate=allocate_buffer,
            scratch=agent.scratch,
        )
        self.get_buffer: Callable[[int], memoryview] = self._reader.get_buffer
        """Gives the memory for the next bytes: `StreamHandler.get_buffer`."""
        if agent.poller is not None:
            self.get_buffer = agent.poller.waking(self.get_buffer)
        if hello is not None:
            agent.tally.opened(self)
        self.server = agent.make_server(self)
        self.serve = self.server.request
        """Takes requests: serves them, or keeps them while the peer does not read."""
        self.serve_reference = partial(agent.references.serve, self.server)
        """Takes requests about references."""
        self.backlog: Backlog | None = None
        """What waits while the peer does not read."""
        self._handlers = make_handlers(agent, self)

    # -- out

    def announce(self, function: int, name: str) -> None:
        """Tell the peer once which name ``function`` stands for, before it is first used."""
        if function not in self.announced:
            self.announced.add(function)
            self.upkeep.introduce(function, name)

    def send(self, message: bytes | Transfer) -> None:
        """Send a frame, or queue a transfer behind other bulk."""
        if self.hook is None:
            self.transmit(message)
        else:
            self.hook.outgoing(self, message)

    def transmit(self, message: bytes | Transfer) -> None:
        """Put a message on the stream, past the fault hook."""
        if isinstance(message, Transfer):
            if self.sharing is not None:
                self.sharing.consider(message)
            self.bulk.add(message)
        else:
            self.stream.write(message)

    def open_window(self, show: Show) -> None:
        """Take buffers from memory of the peer's, too."""
        self._reader.open_window(show)

    def cancel(self, call_id: int) -> bool:
        """Withdraw a request that has not left, else stop it by a CANCEL frame.

        Returns:
            Whether it never reached the socket, so that it cannot have run.
        """
        if withdraw(self, call_id):
            return True
        self.send(encode_frame(_CANCEL, call_id))
        return False

    @property
    def is_idle(self) -> bool:
        """Whether nothing large is on its way out."""
        return not (self.bulk or (self.hook is not None and self.hook.holds(self)))

    def answers(self, call_id: int) -> bool:
        """Whether the reply to a call has begun to come in."""
        is_held = self.hook is not None and self.hook.answers(self, call_id)
        return is_held or self._reader.answers(call_id)

    # -- in: StreamHandler

    def buffer_updated(self, count: int) -> None:
        """Handle the frames that end in ``count`` new bytes."""
        self.is_heard = True
        self.received += count
        stream = self.stream
        was_due = stream.is_flush_due
        stream.is_flush_due = True  # below: what is written until then needs no callback for it
        try:
            is_plain = self._reader.is_between and self.hook is None
            handled = self._handle_plain(count) if is_plain else 0
            if handled < count:
                frames = self._reader.received(count, handled)
                if self.hook is not None:
                    frames = self.hook.incoming(self, frames)
                if len(frames) <= SLICE:
                    self.handle(frames)
                else:
                    self._handle_many(frames)
        except RpcError as error:
            self.fail(error)
        if stream.batch:
            stream.flush()  # replies of calls that did not have to wait
            if len(stream.batch) > SLICE or self.bulk:
                self._look_at_unread()
        elif not was_due:
            stream.is_flush_due = False
            stream.flush_soon()  # after the tasks that these frames woke, with what they write

    def _handle_many(self, frames: list[Frame]) -> None:
        for at in range(0, len(frames), SLICE):
            self.handle(frames[at : at + SLICE])
            if self.server.is_closed:
                return
            self._look_at_unread()

    def _look_at_unread(self) -> None:
        """Keep the peer's requests from now on if it does not read what waits for it."""
        limits = self._agent.options.limits
        if self.backlog is None and is_unread(self.stream, len(self.bulk), limits):
            self.backlog = Backlog(self.peer.info.name, limits, self._agent.clock.time)
            self.serve = self.backlog.add

    def _serve_backlog(self, backlog: Backlog) -> None:
        """Serve what was kept, unless the peer falls behind again meanwhile."""
        if is_unread(self.stream, len(self.bulk), self._agent.options.limits):
            return
        self.backlog, self.serve = None, self.server.request
        for frames in backlog.slices():
            if self.server.is_closed:
                return
            self.deliver(frames)
            self._look_at_unread()

    def deliver(self, frames: list[Frame]) -> None:
        """Handle frames that the fault hook kept back."""
        try:
            self.handle(frames)
        except RpcError as error:
            self.fail(error)
        self.stream.flush_soon()

    def _handle_plain(self, count: int) -> int:
        """Handle the calls and replies at the front of a read; return where others begin.

        The way of nearly all frames: those that are whole and have no flags, and a map only if
        they are about a reference.
        """
        view = self._reader.view
        # slices of bytes are cheaper than views of views, which a large read is left for
        data = bytes(view[:count]) if count <= _COPIED else view
        at = 0
        look = _STRETCH
        while count - at >= _HEADER_SIZE:
            length, kind, flags, depth, call_id, function, meta, remaining = unpack_header(data, at)
            body = at + _HEADER_SIZE
            stop = body + length
            if stop > count or flags or not remaining >= 0.0:
                break
            if meta:
                if meta > length or kind not in _ABOUT:
                    break
                args = body + meta
                serve = self.serve if kind == _PYTHON_CALL else self.serve_reference
                serve((
                    kind, 0, depth, call_id, function, remaining, view[body:args], view[args:stop],
                    (),
                ))  # fmt: skip
            elif kind == _PYTHON_RET:
                self._settle(call_id, 0, data[body:stop], ())
            elif kind == _PYTHON_CALL:
                serve = self.serve
                serve((kind, 0, depth, call_id, function, remaining, None, data[body:stop], ()))
            elif kind in _SHORT_ANSWERS:
                self._settle(call_id, 0, view[body:stop], ())
            elif kind in CONTROL:
                self._agent.handle_control(
                    self, (kind, 0, depth, call_id, function, remaining, None, view[body:stop], ())
                )
            else:
                break
            at = stop
            if at > look:
                look = at + _STRETCH
                self._look_at_unread()
        if self.peer.queue:
            self.peer.admit()
        return at

    def handle(self, frames: list[Frame]) -> None:
        """Dispatch frames by type."""
        for frame in frames:
            kind = frame[0]
            if kind == _PYTHON_RET:
                self._settle(frame[3], frame[1], frame[7], frame[8])
            elif kind == _PYTHON_CALL:
                self.serve(frame)
            else:
                handler = self._handlers.get(kind)
                if handler is None:
                    self._agent.handle_control(self, frame)
                else:
                    handler(frame)
                if self.server.is_closed:  # it said goodbye: what follows is nobody's
                    return
        if self.peer.queue:
            self.peer.admit()

    def _settle(
        self, call_id: int, flags: int, body: bytes | memoryview, buffers: Sequence[memoryview]
    ) -> None:
        """Give a reply to the call that waits for it."""
        pending = self._pending
        future = pending.pop(call_id, None)
        if future is None:
            self.peer.stopped(self, call_id)  # cancelled or timed out meanwhile
            return
        peer = self.peer
        if future.owner is not peer:
            pending[call_id] = future
            future.is_timed = False  # it is the newest entry now: see Deadlines
            raise RemoteProtocolError("reply to a call of another worker")
        if future.counts:
            peer.inflight -= 1
        if flags or buffers:
            self._agent.caller.settle_slowly(self, future, call_id, flags, body, buffers)
            return
        try:
            decode = self._decode  # a local first: calling an attribute is slower
            value = decode(body)
        except RpcError as error:
            self._agent.caller.undecodable(future, error)
        else:
            future.succeed(value)

    def write_ready(self) -> None:
        """Go on with bulk, and with what had to wait for room."""
        self.bulk.pump()
        if self.backlog is not None:
            self._serve_backlog(self.backlog)

    def stream_closed(self, error: Exception | None) -> None:
        """Report the end of the link to the peer, once."""
        if self._is_closed:
            return
        self._is_closed = True
        self.upkeep.end()
        self._agent.tally.closed(self)
        self.server.close()
        self.peer.link_lost(self, error)
        self.bulk.take_unsent()
        if self.sharing is not None:
            self.sharing.close()

    def fail(self, error: RpcError) -> None:
        """Close the link because of what the peer sent."""
        _log.warning("closing the connection to %s: %s", self.peer, error)
        self.stream.abort()
        self.stream_closed(error)
