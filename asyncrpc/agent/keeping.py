"""The callee's side of calls that may be sent again: each runs once, and its reply is kept.

One `KeptServer` per caller, made with its first such call: it outlives links. A repeated request
joins the run that is under way, or is answered from memory; outcomes go over the newest link. When
a link breaks its calls run on, since their caller asks again; when the caller is gone they end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncrpc.agent.replying import encoding_error
from asyncrpc.agent.request import Request
from asyncrpc.agent.serving import Server
from asyncrpc.errors import Delivery, RpcError, StatusCode
from asyncrpc.execution import Memory, ReplyWindow, ServedCall
from asyncrpc.wire import DEDUP, Enclosure, Frame, HeaderMap, MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("KeptServer",)

_ORPHANS = 4096  # calls without a place that are under way at once, however often links break
_SCRIPT_RET = int(MessageType.SCRIPT_RET)


class KeptServer(Server):
    """Serves the calls of one worker whose replies are kept, over whichever link there is.

    Its calls are counted apart from those of the links. Those that outlive their link hold no place
    any more, since their caller holds none for them, see `peers`.

    Args:
        agent: runs the functions.
        connection: the link of the first of these calls.
    """

    __slots__ = ("_window",)

    def __init__(self, agent: Agent, connection: Connection) -> None:
        super().__init__(agent, connection)
        self._window: ReplyWindow[Request] = ReplyWindow()

    def take(self, connection: Connection, frame: Frame) -> None:
        """Run a request, or answer it with what is known of its call."""
        self._use(connection)
        kind, flags, _, ident, _, _, meta = frame[:7]
        if ident in self.calls:
            return  # its outcome will go over this link
        attempt = HeaderMap.decode(meta).attempt if meta is not None else 0
        found = self._window.look(ident, is_repeated=attempt > 0, now=self._now())
        if found is Memory.NEW:
            # one that was refused before is no copy
            self._recent.discard(ident)
            self._older.discard(ident)
            self._agent.servers.add(self)
            self.request((kind, flags & ~DEDUP, *frame[2:]))
            if not self.calls:
                self._agent.servers.discard(self)
        elif found is Memory.FORGOTTEN:
            text = f"call {ident} of {self.caller.name} may have run, and its reply is not kept"
            error = RpcError(text, code=StatusCode.ABORTED, delivery=Delivery.UNKNOWN)
            self.refuse(kind, ident, error)
        elif isinstance(found, Request):
            self._connection.send(found.frame(0.0))

    def withdraw(self, connection: Connection, ident: int) -> bool:
        """Stop a call, or forget its reply, since its caller does not wait any more.

        Returns:
            Whether it was here.
        """
        self._use(connection)
        if ident in self.calls:
            self.cancel(ident)
            return True
        if not self._window.acknowledge(ident):
            return False
        self.doubt_passed(ident)
        self._answer_cancel(ident)
        return True

    def acknowledge(self, ident: int) -> None:
        """Learn that a reply has arrived."""
        self._window.acknowledge(ident)

    def _use(self, connection: Connection) -> None:
        """Go over to a new link."""
        if connection is not self._connection:
            self._connection = connection
            self._targets = {}  # ids of functions are those of a link
            for ident in self.calls:  # their caller has taken back their places
                self._placeless.setdefault(ident, False)

    def _admits(self, kind: int, depth: int) -> bool:
        most = self._max_inflight + _ORPHANS
        return len(self.calls) < most and super()._admits(kind, depth)

    # -- Replier

    def succeed(self, call: ServedCall, value: object) -> None:
        """Send a function's result, and keep it."""
        self.calls.pop(call.ident, None)
        if self._placeless:
            self._forget(call.ident)
        if not self.calls:
            self._idle()
        self._window.end(call.ident, self._now())
        if call.is_cancelled or self.is_closed:
            return
        try:
            encode = self._encode if call.reply != _SCRIPT_RET else self._encode_script
            body, buffers = encode(value, "result", self._connection.peer)
            # what is kept must not change when its owner goes on to use it
            copies: list[Any] = [memoryview(bytes(buffer)) for buffer in buffers]
            if isinstance(buffers, Enclosure):
                copies = Enclosure(copies, buffers.enclosed)
            self._send_large(Request(call.reply, call.ident, body, copies))
        except Exception as error:  # noqa: BLE001 -- encoding may run code of the user's classes
            self._send_failure(call, encoding_error(error), is_ours=True)

    def fail(self, call: ServedCall, error: BaseException) -> None:
        """Send the error of a call, and keep it."""
        self._window.end(call.ident, self._now())
        super().fail(call, error)

    def _send(self, reply: Request) -> None:
        self._window.keep(reply.call_id, reply, reply.size)  # if its call has run
        connection = self._connection.peer.connection or self._connection
        if not connection.stream.is_closed:
            connection.send(reply.frame(0.0))

    def _idle(self) -> None:
        super()._idle()
        self._agent.servers.discard(self)
