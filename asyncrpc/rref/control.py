"""Control messages on their way: each is sent until it is answered or its worker is gone.

The shell's side of `Send`. There is no task for a message that is out: its future takes the answer
itself. The first attempt is timed with all calls, so that it costs little; one that fails goes to
the one engine that sends calls again, without budget and without end.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from asyncrpc.agent import Agent, Connection, Peer, Request, RetriedFuture
from asyncrpc.errors import MessageTooLargeError, RpcError, UnknownWorkerError
from asyncrpc.retry import RetryPolicy
from asyncrpc.wire import HEADER, MessageType

from .values import Send

if TYPE_CHECKING:
    from .context import RRefContext

__all__ = ("ControlMessages",)

_log = logging.getLogger("asyncrpc.rref")

_succeed = asyncio.Future.set_result  # without the detours of super()
pack_header = HEADER.pack
_NAMES = {kind: kind.name for kind in MessageType}
_DELETE = MessageType.RREF_USER_DELETE
_ANSWER = 10.0  # seconds for an answer: handlers give it at once, so it is lost by then
_AGAIN = RetryPolicy(
    max_retries=1 << 62,
    initial=0.05,
    multiplier=2.0,
    max_delay=5.0,
    retry_on=RpcError,
    per_attempt_timeout=_ANSWER,
)


class ControlMessages:
    """The control messages of one agent.

    Args:
        agent: sends them.
        context: is told of the answers.
    """

    def __init__(self, agent: Agent, context: RRefContext) -> None:
        self._agent = agent
        self._context = context

    def send(self, message: Send) -> None:
        """Send a message until it is answered."""
        peer = self._context.peer(message.to)
        if self._agent.is_closed or peer is None or not peer.is_present:
            return  # the machine hears, or has heard, of the end of either side
        future = _ControlFuture(loop=self._agent.loop)
        future.agent = self._agent
        future.context = self._context
        future.sent = message
        connection = peer.connection
        if connection is not None and connection.hook is None and not peer.queue:
            self._write(connection, peer, future)
        else:
            self._submit(peer, future)

    def _write(self, connection: Connection, peer: Peer, future: _ControlFuture) -> None:
        """Send a message over a link on which nothing waits, if it is small as nearly all are."""
        caller = self._agent.caller
        _, kind, payload, _ = future.sent
        body = self._agent.codec.pack(payload)
        if len(body) >= caller.max_plain:
            self._submit(peer, future)
            return
        future.call_id = ident = caller.other_id()
        future.owner = peer
        future.function = _NAMES[kind]
        future.timeout = _ANSWER
        future.deadline = self._agent.clock.time() + _ANSWER
        future.site = None
        future.is_sent = True
        future.counts = future.is_user = False
        caller.put_back(future)
        stream = connection.stream
        is_last = kind is _DELETE and not stream.is_flush_due
        if is_last:  # at the end of a turn, see `Lifecycle.flush`: nothing will join it
            stream.is_flush_due = True
        connection.write(pack_header(len(body), kind, 0, 0, ident, 0, 0, _ANSWER) + body)
        if is_last:
            stream.flush()

    def _submit(self, peer: Peer, future: _ControlFuture) -> None:
        message = future.sent
        try:
            self._agent.caller.request(
                peer, message.kind, message.payload, _ANSWER, is_plain=True, future=future
            )
        except MessageTooLargeError as error:
            self._context.exhausted(message.ticket, str(error))
        except RpcError as error:  # no place in the queue
            _log.debug("%s to %s has to wait: %s", message.kind.name, peer, error)
            when = self._agent.clock.time() + _AGAIN.delay(0)
            self._agent.clock.call_at(when, self.send, message)


class _ControlFuture(RetriedFuture[Any]):
    """The answer to a control message; the machine is told at once.

    Attributes:
        agent: sends it.
        context: takes the answer.
        sent: what the machine wants sent.
    """

    __slots__ = ("agent", "context", "sent")

    agent: Agent
    context: RRefContext
    sent: Send

    def succeed(self, result: Any) -> None:
        _succeed(self, result)
        if self.retrier is not None:
            self.retrier.answered(self)
        self.context.answered(self.sent.ticket, result)

    def fail(self, exception: Any) -> None:
        """Have it sent again, unless its worker or this agent is gone, or nobody has the name."""
        if isinstance(exception, MessageTooLargeError):
            self.cancel()  # queued before the link told how much its other end takes
            self.context.exhausted(self.sent.ticket, str(exception))
            return
        peer: Any = self.owner
        is_nobody = isinstance(exception, UnknownWorkerError)
        if self.agent.is_closed or not peer.is_present or is_nobody:
            self.cancel()  # nobody waits for the answer
            return
        if self.retrier is None:
            self.deadline = 0.0  # from now on each attempt has its own time
            body = self.agent.codec.pack(self.sent.payload)
            self.agent.retrier.begin(self, Request(self.sent.kind, self.call_id, body), _AGAIN)
        super().fail(exception)
