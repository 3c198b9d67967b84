"""The callee's side of one link: requests in, outcomes out, cancels that come first.

Made by a `Connection`; gives decoded calls to the executor and sends their outcomes back. It never
stops reading: what is above the limit is answered with RESOURCE_EXHAUSTED, NOT_SENT. A caller that
keeps to the limit never gets that answer, see `peers`: only calls that it counts too are counted.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from asyncrpc.agent.inlet import NUMBERS
from asyncrpc.agent.items import Items
from asyncrpc.agent.pending import Deadlines
from asyncrpc.agent.receipts import send_receipt
from asyncrpc.agent.references import HeldCall
from asyncrpc.agent.replying import NAMELESS, Replies, encoding_error
from asyncrpc.agent.request import Request
from asyncrpc.agent.tally import code_of
from asyncrpc.errors import (
    Delivery,
    EncodingError,
    RemoteProtocolError,
    RpcError,
    StatusCode,
)
from asyncrpc.execution import Outlet, ServedCall, Target, TargetKind
from asyncrpc.wire import (
    CHUNK_SIZE,
    DEDUP,
    HEADER,
    LENGTH,
    REPLIES,
    Frame,
    HeaderMap,
    MessageType,
    encode_frame,
)

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("Server",)

_log = logging.getLogger("asyncrpc.server")

pack_header = HEADER.pack
new = object.__new__
_NOTIFY = int(MessageType.NOTIFY)
_SCRIPT_RET = int(MessageType.SCRIPT_RET)
_STREAM_CALL = int(MessageType.STREAM_CALL)
_CANCELLED = int(MessageType.CANCELLED)
_REMEMBERED = 256  # requests; copies come close behind the first, and every link pays for this
_EARLY_CANCELS = 4096  # cancels remembered for requests that have not come yet
_STOPPING = 4096  # cancelled calls of one link that hold no place while they come to their end
MAX_DEPTH = 64
"""Nested calls are admitted beyond the limit up to this many calls deep, so that a chain of calls
cannot deadlock on the limit, and a runaway recursion still ends."""


class Server(Replies):
    """Serves the calls that come on one connection.

    Args:
        agent: runs the functions.
        connection: where requests come from and outcomes go.
    """

    __slots__ = (
        "_arrived",
        "_deadlines",
        "_decode_call",
        "_early",
        "_encode_script",
        "_executor",
        "_max_plain",
        "_max_queued",
        "_now",
        "_older",
        "_placeless",
        "_recent",
        "_start",
        "_stopping",
        "_targets",
        "_unanswered",
        "calls",
        "is_closed",
    )

    def __init__(self, agent: Agent, connection: Connection) -> None:
        super().__init__(agent, connection)
        self._max_queued = agent.options.limits.max_queued
        # bytes of a result from which it takes the path that looks at its size
        self._max_plain = min(CHUNK_SIZE, agent.options.limits.max_message_size + 1)
        self._targets: dict[int, Target] = {}
        self._early: OrderedDict[int, None] = OrderedDict()
        self._recent: set[int] = set()  # ids of the latest requests: a copy must not run
        self._older: set[int] = set()
        self.is_closed = False
        self.calls: dict[int, ServedCall] = {}
        """Calls whose function has not ended, by the caller's id."""
        # those that hold no place in flight: nested, one-way, and (true) cancelled ones
        self._placeless: dict[int, bool] = {}
        self._stopping = 0  # how many are true
        self._unanswered: set[int] = set()  # cancelled ones that hold their place all the same
        self._deadlines = Deadlines(agent.clock, self.calls, self._expire)
        self._now = agent.clock.time
        self._encode_script = agent.script_codec.encode
        self._decode_call = agent.codec.decode_call
        self._start = agent.executor.start
        self._executor = agent.executor
        self._arrived = agent.references.arrived

    def request(self, frame: Frame) -> None:
        """Serve a call or a notification."""
        kind, flags, depth, ident, function, remaining, meta, body, buffers = frame
        if flags and flags & DEDUP:
            self._pass_on(ident, frame)
            return
        calls = self.calls
        target = self._targets.get(function, NAMELESS)
        deadline = 0.0
        if remaining:
            read_clock = self._now
            deadline = read_clock() + remaining
        call: ServedCall = new(ServedCall)  # as its __init__ does, which costs more than all this
        call.replier = self
        call.ident = ident
        call.target = target
        call.deadline = deadline
        call.depth = depth + 1
        call.reply = REPLIES[kind]
        call.task = None
        call.is_cancelled = call.is_done = False
        recent = self._recent
        if ident in recent or ident in self._older:
            return  # a copy of a request that was taken in
        if ident in calls:
            raise RemoteProtocolError(f"call {ident} is already being served")
        recent.add(ident)
        if len(recent) >= _REMEMBERED:
            self._older, self._recent = recent, set()
        if self._early and self._was_cancelled(ident):
            return
        try:
            if target is NAMELESS:
                call.target = target = self.resolve(function)
            if meta is not None:
                self._take_headers(call, kind, meta)
            if len(calls) >= self._max_inflight and not self._admits(kind, depth):
                self._refuse_full(call)
                return
            decode_call = self._decode_call  # a local first: calling an attribute is slower
            args, kwargs = decode_call(body, buffers)
        except RemoteProtocolError:
            raise
        except RpcError as error:
            error.delivery = Delivery.NOT_SENT  # whatever went wrong, the function did not run
            self._arrived.clear()
            self._refuse_call(call, error)
            return
        self._agent.served += 1
        calls[ident] = call
        if depth or kind == _NOTIFY:
            self._placeless[ident] = False
        if 0.0 < deadline < self._deadlines.armed:
            self._deadlines.arm(deadline)
        if self._arrived:
            self._hold(call, target, args, kwargs)
        elif target.kind is self._executor.direct:
            self._executor.start_async(call, target.function, args, kwargs)
        else:
            self._start(call, target, args, kwargs)

    def _hold(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """Start a call once the references that arrived in it are confirmed."""
        if not call.reply:
            send_receipt(self._connection, _NOTIFY, call.ident)
        start = partial(self._start, call, target, args, kwargs)
        HeldCall(self, call, start, self._agent.references).hold()

    def take_in(self, frame: Frame) -> ServedCall | None:
        """Take in a request of another type than plain calls, up to its body.

        Returns:
            The call, counted among those served; ``None`` if it is a copy, was cancelled already,
            or is one too many, which its caller was told.
        """
        kind, _, depth, ident, _, remaining, meta, _, _ = frame
        if ident in self._recent or ident in self._older or ident in self.calls:
            return None
        self._recent.add(ident)
        if self._early and self._was_cancelled(ident):
            return None
        deadline = self._now() + remaining if remaining else 0.0
        call = ServedCall(self, ident, NAMELESS, deadline, depth + 1, REPLIES[kind])
        if meta is not None:
            self._take_reference(call, meta)
        if len(self.calls) >= self._max_inflight and not self._admits(kind, depth):
            self._refuse_full(call)
            return None
        self._agent.served += 1
        self.calls[ident] = call
        if depth:
            self._placeless[ident] = False
        if 0 < deadline < self._deadlines.armed:
            self._deadlines.arm(deadline)
        return call

    def drop(self, call: ServedCall, error: RpcError) -> None:
        """End a call that did not come to user code."""
        self.ended(call)
        if not call.is_cancelled and not self.is_closed:
            self._refuse_call(call, error)

    def ended(self, call: ServedCall) -> None:
        """Serve a call no longer."""
        is_served = self.calls.pop(call.ident, None) is not None
        if self._placeless:
            self._forget(call.ident)
        if is_served and not self.calls:
            self._idle()

    def _pass_on(self, ident: int, frame: Frame) -> None:
        """Give a call that may be sent again to who serves those."""
        if not (self._early and self._was_cancelled(ident)):
            self._connection.peer.keep(self._connection, frame)

    def _was_cancelled(self, ident: int) -> bool:
        """Whether a cancel came before its request; it is forgotten then."""
        if ident not in self._early:
            return False
        del self._early[ident]
        return True

    def _take_headers(self, call: ServedCall, kind: int, meta: memoryview) -> None:
        """Read what came beside a call's arguments; a stream finds there how far it may go."""
        headers = self._take_reference(call, meta)
        if kind != _STREAM_CALL:
            return
        if call.target.kind is not TargetKind.STREAM:
            is_plain = inspect.isgeneratorfunction(call.target.function)
            advice = "make it an async def" if is_plain else "call it with rpc_async"
            raise EncodingError(
                f"{call.target.name} is no async generator function: {advice}", path="func"
            )
        window = 0 if headers is None else headers.window
        call.outlet = Outlet(Items(self._agent, self._connection, call.ident), window)

    def _take_reference(self, call: ServedCall, meta: memoryview) -> HeaderMap | None:
        """Read a header map; most hold a reference alone, so that there are no headers then."""
        call.reference = HeaderMap.find_reference(meta)
        if call.reference:
            return None
        call.headers = headers = HeaderMap.decode(meta)
        call.reference = headers.reference
        return headers

    def grant(self, frame: Frame) -> None:
        """Let a stream go on: its caller has room for more items."""
        call = self.calls.get(frame[3])
        if len(frame[7]) != LENGTH.size:
            raise RemoteProtocolError("room for a stream must be given as a count")
        if call is not None and call.outlet is not None:
            call.outlet.grant(LENGTH.unpack(frame[7])[0])

    def fail_item(self, ident: int, error: Exception) -> None:
        """Make the last item of a stream one that could not be sent; it ends there."""
        call = self.calls.get(ident)
        if call is not None and call.outlet is not None:
            call.outlet.error = error
            self.doubt_passed((ident, call.outlet.count % NUMBERS))

    def cancel(self, ident: int) -> None:
        """Stop serving a call; remember the cancel if its request is still on its way.

        The answer says that the call holds no place any more. Where very many cancelled calls do
        not end, as plain functions that are running, it waits until this one does.
        """
        call = self.calls.get(ident)
        if self._passed and (call is None or call.outlet is not None):
            self.doubt_items(ident)  # of a stream that has ended, too: they may be lost
        if call is not None:
            call.cancel()
            if ident not in self._placeless:
                if self._stopping >= _STOPPING:
                    self._unanswered.add(ident)
                    return
                self._placeless[ident] = True
                self._stopping += 1
                self._unanswered.discard(ident)
        elif ident in self._passed:  # its caller has not seen the result
            self.doubt_passed(ident)
        elif ident not in self._recent and ident not in self._older:
            self._early[ident] = None
            if len(self._early) > _EARLY_CANCELS:
                self._early.popitem(last=False)
        self._answer_cancel(ident)

    def _answer_cancel(self, ident: int) -> None:
        if not self.is_closed:
            self._connection.write(encode_frame(_CANCELLED, ident))

    def release(self, task: asyncio.Task[object] | None) -> None:
        """Let the call that is served in ``task`` go on by itself; its outcome is nobody's."""
        for ident, call in tuple(self.calls.items()):
            if task is not None and call.task is task:
                del self.calls[ident]
                self._forget(ident)

    def close(self, *, everything: bool = False) -> None:
        """Stop serving calls whose outcome nobody waits for any more: the link is gone.

        Args:
            everything: end one-way calls too, for which nobody ever waited.
        """
        self.is_closed = True
        if not self.calls:
            self._agent.servers.discard(self)
        self._deadlines.close()
        for call in tuple(self.calls.values()):
            if call.reply or everything:
                call.cancel()
            elif call.deadline:  # it goes on without the link, as long as it may
                self._agent.clock.call_at(call.deadline, call.cancel)
        for ident in tuple(self._passed):
            self.doubt_passed(ident)

    # -- Replier

    def succeed(self, call: ServedCall, value: object) -> None:
        """Send a function's result."""
        calls = self.calls
        calls.pop(call.ident, None)
        if self._placeless:  # as ever while something is unanswered
            self._forget(call.ident)
        if not calls and (self.is_closed or self._agent.idle_waiters):
            self._idle()
        reply = call.reply
        if not reply or call.is_cancelled or self.is_closed:
            return
        try:
            encode = self._encode if reply != _SCRIPT_RET else self._encode_script
            body, buffers = encode(value, "result", self._connection.peer)
            if buffers or len(body) >= self._max_plain:
                self._send_large(Request(reply, call.ident, body, buffers))
                return
        except Exception as error:  # noqa: BLE001 -- encoding may run code of the user's classes
            self._send_failure(call, encoding_error(error), is_ours=True)
            return
        frame = pack_header(len(body), reply, 0, 0, call.ident, 0, 0, 0.0) + body
        connection = self._connection
        if connection.hook is None:
            write = connection.write
            write(frame)
        else:
            connection.send(frame)

    def fail(self, call: ServedCall, error: BaseException) -> None:
        """Send the error of a call."""
        is_ours = call.outlet is not None and call.outlet.take_error(error)
        code = StatusCode.CANCELLED if call.is_cancelled else code_of(error)
        self._agent.tally.failed_served[code] += 1
        self.ended(call)
        if not call.reply and not call.is_cancelled:
            _log.error("%s, sent by %s, failed", call.target.name, self.caller, exc_info=error)
            return
        if not call.reply or call.is_cancelled or self.is_closed:
            return
        if call.deadline and self._now() >= call.deadline:
            return  # the caller's own time is over: it must not hear of it as an error from here
        _log.debug("%s, called by %s, failed", call.target.name, self.caller, exc_info=error)
        self._send_failure(call, encoding_error(error) if is_ours else error, is_ours=is_ours)

    def _idle(self) -> None:
        """Tell those who wait for the end of all calls that none is served here now."""
        self._agent.became_idle()
        if self.is_closed:
            self._agent.servers.discard(self)

    def resolve(self, function: int) -> Target:
        """Return what an id of the peer's stands for.

        Raises:
            RemoteProtocolError: the peer never said.
            FunctionNotFoundError, PermissionDeniedError: as `FunctionTable.resolve`.
        """
        known = self._targets.get(function)
        if known is not None:
            return known
        name = self._connection.upkeep.functions.get(function)
        if name is None:
            raise RemoteProtocolError(f"function id {function} was never interned")
        if name.startswith("."):
            target = self._agent.references.method(name[1:])
        else:
            target = self._agent.functions.resolve(name)
        self._targets[function] = target
        return target

    def _admits(self, kind: int, depth: int) -> bool:
        """Whether a call may run though as many as ``max_inflight`` are served.

        Of plain calls only those count that hold a place for their caller too. One-way calls have
        no reply that would tell their sender to wait, so more of them may be under way; nested
        ones are admitted, since what they serve may hold the last place.
        """
        if 0 < depth < MAX_DEPTH:
            return True
        count = len(self.calls)
        if kind == _NOTIFY:
            return count - self._stopping < self._max_inflight + self._max_queued
        if depth:
            return count - self._stopping < self._max_inflight
        return count - len(self._placeless) < self._max_inflight

    def _forget(self, ident: int) -> None:
        """Forget what was noted of a call that ends."""
        if self._placeless.pop(ident, False):
            self._stopping -= 1
        if ident in self._unanswered:
            self._unanswered.remove(ident)
            self._answer_cancel(ident)
        elif self._unanswered and self._stopping < _STOPPING:
            self.cancel(self._unanswered.pop())

    def _expire(self, ident: int) -> None:
        """End a call whose deadline passed here; its caller's own deadline has passed too."""
        self.calls[ident].cancel()
