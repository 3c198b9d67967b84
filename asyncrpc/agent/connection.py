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
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.backlog import SLICE, Backlog, is_unread
from asyncrpc.agent.bulk import Bulk
from asyncrpc.agent.sharing import Sharing, share
from asyncrpc.agent.upkeep import Upkeep
from asyncrpc.errors import RemoteProtocolError, RpcError
from asyncrpc.transport import Stream
from asyncrpc.wire import (
    CONTROL,
    EARLY,
    ERROR,
    HEADER,
    LENGTH,
    REFERENCES,
    REPLIES,
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
    from asyncrpc.agent.pending import RpcFuture

__all__ = ("Connection",)

_log = logging.getLogger("asyncrpc.connection")

_PYTHON_CALL = int(MessageType.PYTHON_CALL)
_PYTHON_RET = int(MessageType.PYTHON_RET)
_CANCEL = int(MessageType.CANCEL)
_PING = int(MessageType.PING)
_CANCELLED = int(MessageType.CANCELLED)
_STREAM_CALL = int(MessageType.STREAM_CALL)
_STREAM_ITEM = int(MessageType.STREAM_ITEM)
_STREAM_END = int(MessageType.STREAM_END)
_STREAM_CREDIT = int(MessageType.STREAM_CREDIT)
_REPLY_ACK = int(MessageType.REPLY_ACK)

_NOTIFY = int(MessageType.NOTIFY)
_RREF_TAKEN = int(MessageType.RREF_TAKEN)
_RREF_CALLS = tuple(
    int(MessageType[f"{language}_{call}"])
    for language in ("PYTHON", "SCRIPT")
    for call in ("REMOTE_CALL", "RREF_FETCH_CALL")
)
_SERVED = (_NOTIFY, int(MessageType.SCRIPT_CALL), _STREAM_CALL)
_ANSWERS = frozenset(filter(None, REPLIES.values()))
_ABOUT = frozenset((_PYTHON_CALL, *_RREF_CALLS))
_SHORT_ANSWERS = frozenset(int(MessageType[name]) for name in (
    "REMOTE_RET", "PYTHON_RREF_FETCH_RET", "RREF_ACK"
))  # fmt: skip

_HEADER_SIZE = HEADER.size
unpack_header = HEADER.unpack_from
_STRETCH = 2048  # bytes of small requests handled between looks at what is unread
_RECENT = 256  # newest unsent frames looked through when a call is cancelled


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
        "_backlog",
        "_decode",
        "_handlers",
        "_is_closed",
        "_pending",
        "_reader",
        "_serve_reference",
        "announced",
        "bulk",
        "get_buffer",
        "hello",
        "hook",
        "is_heard",
        "peer",
        "received",
        "serve",
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
        self._serve_reference = partial(agent.references.serve, self.server)
        self._backlog: Backlog | None = None
        self._handlers: dict[int, Callable[[Frame], None]] = {
            **dict.fromkeys(_ANSWERS, self.take_reply),
            **dict.fromkeys(_SERVED, self._on_request),
            **dict.fromkeys(_RREF_CALLS, self._serve_reference),
            _RREF_TAKEN: self._on_taken,
            _CANCEL: self._on_cancel,
            _CANCELLED: self._on_cancelled,
            _PING: self._on_ping,
            **self.upkeep.handlers,
            **(self.sharing.handlers if self.sharing is not None else {}),
            _STREAM_ITEM: partial(agent.streams.take_item, self),
            _STREAM_END: partial(agent.streams.take_end, self),
            _STREAM_CREDIT: self.server.grant,
            _REPLY_ACK: self._on_reply_ack,
        }

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
        """Withdraw a request: from the batch or the bulk queue, else by a CANCEL frame.

        Returns:
            Whether it never reached the socket, so that it cannot have run.
        """
        is_unsent = self.bulk.withdraw(call_id) or self._unwrite(call_id)
        if self.hook is not None:  # which may have let a copy of it go
            is_unsent = self.hook.withdraw(self, call_id)
        if is_unsent:
            return True
        self.send(encode_frame(_CANCEL, call_id))
        return False

    @property
    def is_idle(self) -> bool:
        """Whether nothing large is on its way out."""
        return not (self.bulk or (self.hook is not None and self.hook.holds(self)))

    def take_unsent(self) -> list[bytes | Transfer]:
        """Hand over what never left completely, in order; for a link that is gone."""
        held = [] if self.hook is None else self.hook.take_held(self)
        return [*filter(None, self.stream.batch), *self.bulk.take_unsent(), *held]

    def _unwrite(self, call_id: int) -> bool:
        """Take a request out of the batch that has not left yet."""
        batch = self.stream.batch
        for index in range(len(batch) - 1, max(-1, len(batch) - 1 - _RECENT), -1):
            frame = batch[index]
            if frame:
                _, kind, _, _, call, _, _, _ = HEADER.unpack_from(frame)
                if call == call_id and kind in REPLIES:
                    batch[index] = b""
                    return True
        return False

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
        if self._backlog is None and is_unread(self.stream, len(self.bulk), limits):
            self._backlog = Backlog(self.peer.info.name, limits, self._agent.clock.time)
            self.serve = self._backlog.add

    def _serve_backlog(self, backlog: Backlog) -> None:
        """Serve what was kept, unless the peer falls behind again meanwhile."""
        if is_unread(self.stream, len(self.bulk), self._agent.options.limits):
            return
        self._backlog, self.serve = None, self.server.request
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
        at = 0
        look = _STRETCH
        while count - at >= _HEADER_SIZE:
            length, kind, flags, depth, call_id, function, meta, remaining = unpack_header(view, at)
            body = at + _HEADER_SIZE
            stop = body + length
            if stop > count or flags or not remaining >= 0.0:
                break
            if meta:
                if meta > length or kind not in _ABOUT:
                    break
                args = body + meta
                serve = self.serve if kind == _PYTHON_CALL else self._serve_reference
                serve((
                    kind, 0, depth, call_id, function, remaining, view[body:args], view[args:stop],
                    (),
                ))  # fmt: skip
            elif kind == _PYTHON_RET:
                self._settle(call_id, 0, view[body:stop], ())
            elif kind == _PYTHON_CALL:
                self.serve(
                    (kind, 0, depth, call_id, function, remaining, None, view[body:stop], ())
                )
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
        self, call_id: int, flags: int, body: memoryview, buffers: Sequence[memoryview]
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
            self._settle_slowly(future, call_id, flags, body, buffers)
            return
        try:
            value = self._decode(body)
        except RpcError as error:
            self._agent.caller.undecodable(future, error)
        else:
            future.succeed(value)

    def write_ready(self) -> None:
        """Go on with bulk, and with what had to wait for room."""
        self.bulk.pump()
        if self._backlog is not None:
            self._serve_backlog(self._backlog)

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

    def take_reply(self, frame: Frame) -> None:
        """Settle a call: as in `handle`, for the less frequent types."""
        _, flags, _, call_id, _, _, _, body, buffers = frame
        future = self._pending.get(call_id)
        if future is None:
            self.peer.stopped(self, call_id)
            return
        if future.owner is not self.peer:
            raise RemoteProtocolError("reply to a call of another worker")
        if flags & EARLY:
            future.accepted()
            return
        del self._pending[call_id]
        if future.counts:
            self.peer.inflight -= 1
        self._settle_slowly(future, call_id, flags, body, buffers)

    def _settle_slowly(
        self,
        future: RpcFuture[Any],
        call_id: int,
        flags: int,
        body: memoryview,
        buffers: Sequence[memoryview],
    ) -> None:
        is_read = self._agent.caller.settle_slowly(future, flags & ERROR, body, buffers)
        if flags & REFERENCES:
            self.taken(0, call_id, is_error=not is_read)

    def taken(self, kind: int, call_id: int, *, is_error: bool = False, number: int = 0) -> None:
        """Say that a message came, with the references that it encloses.

        Args:
            kind: NOTIFY or STREAM_ITEM for these, 0 for a reply.
            call_id: its call.
            is_error: they were not taken: the message cannot be read, or nobody reads it.
            number: of an item.
        """
        flags = ERROR if is_error else 0
        body = LENGTH.pack(number) if kind == _STREAM_ITEM else b""
        self.send(encode_frame(_RREF_TAKEN, call_id, body, flags=flags, function=kind))

    def _on_taken(self, frame: Frame) -> None:
        _, flags, _, call_id, kind, *_ = frame
        if kind == _NOTIFY:
            self._agent.references.taken(call_id, self.peer)
            return
        if kind == _STREAM_ITEM:
            self._on_item_taken(frame)
            return
        for server in (self.server, self.peer.kept):
            if server is not None:
                server.taken(call_id, is_error=bool(flags & ERROR))

    def _on_item_taken(self, frame: Frame) -> None:
        """Learn of the references in an item; one that is read no more may have been before."""
        _, flags, _, call_id, *_, body, _ = frame
        if body.nbytes != LENGTH.size:
            raise RemoteProtocolError("an item that came must be told by its number")
        item = (call_id, LENGTH.unpack(body)[0])
        if flags & ERROR:
            self.server.doubt_passed(item)
        else:
            self.server.taken(item)

    def _on_request(self, frame: Frame) -> None:
        self.serve(frame)

    def _on_cancel(self, frame: Frame) -> None:
        if self._backlog is not None:
            self._backlog.cancel(frame[3])
            self._backlog.count_answer()
        kept = self.peer.kept
        if kept is None or not kept.withdraw(self, frame[3]):
            self.server.cancel(frame[3])

    def _on_reply_ack(self, frame: Frame) -> None:
        if self.peer.kept is not None:
            self.peer.kept.acknowledge(frame[3])

    def _on_cancelled(self, frame: Frame) -> None:
        self.peer.stopped(self, frame[3])

    def _on_ping(self, frame: Frame) -> None:
        if self._backlog is not None:
            if frame[3]:  # a fence: requests before it are not counted as served yet
                self._backlog.add(frame)
                return
            self._backlog.count_answer()
        self.upkeep.answer_ping(frame)
