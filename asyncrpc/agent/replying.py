"""Sends what the callee's side of a link has to say: results, errors, refusals, acknowledgements.

The base of `Server`, which serves the requests. References that a reply encloses are kept in mind
until it is known to have come.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from asyncrpc.agent.request import Request
from asyncrpc.agent.withheld import WithheldReply
from asyncrpc.errors import (
    Delivery,
    EncodingError,
    InjectedFaultError,
    MessageTooLargeError,
    RemoteError,
    ResourceExhaustedError,
    RpcError,
)
from asyncrpc.execution import ServedCall, Target, TargetKind, encode_failure
from asyncrpc.wire import EARLY, ERROR, HEADER, REPLIES, MessageType, encode_frame, user_types

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection
    from asyncrpc.agent.peers import Peer
    from asyncrpc.execution import Replier

__all__ = ("NAMELESS", "Passage", "Replies", "encoding_error")

_log = logging.getLogger("asyncrpc.server")

pack_header = HEADER.pack
_REMOTE_RET = int(MessageType.REMOTE_RET)
Passage: TypeAlias = int | tuple[int, int]
"""Names a message that answers a call: its id, for an item of a stream with the item's number."""
NAMELESS = Target(TargetKind.DEFERRED, callable, "")
"""Stands for the function of what has none, or not yet."""


class Replies:
    """What is sent back on one connection.

    Args:
        agent: encodes.
        connection: where it goes.
    """

    __slots__ = (
        "_agent",
        "_connection",
        "_encode",
        "_max_inflight",
        "_passed",
        "_refusal",
        "agent",
        "caller",
    )

    def __init__(self, agent: Agent, connection: Connection) -> None:
        self._agent = agent
        self._connection = connection
        self.agent = agent.facade
        self.caller = connection.peer.info
        self._max_inflight = agent.options.limits.max_inflight
        self._encode = agent.codec.encode
        self._refusal = b""
        # references in results and items that may not have come
        self._passed: dict[Passage, Sequence[Any]] = {}

    @property
    def peer(self) -> Peer:
        """The worker whose calls it serves."""
        return self._connection.peer

    def now(self) -> float:
        """Return the time on the agent's clock."""
        return self._agent.clock.time()

    def answer(self, kind: int, ident: int, payload: object) -> None:
        """Send the reply to a control message of type ``kind``, if it has one."""
        reply = REPLIES.get(kind, 0)
        if not reply:
            return
        if payload is None:
            self._send_nothing(reply, ident)
            return
        try:
            body, buffers = self._encode(payload, "reply", self.peer)
            self._send_large(Request(reply, ident, body, buffers))
        except Exception as error:  # noqa: BLE001 -- as in succeed()
            self.refuse(kind, ident, encoding_error(error))

    def confirm(self, ident: int, *, is_early: bool) -> None:
        """Tell a creator that its request was taken in, or that the function has ended."""
        self._send_nothing(_REMOTE_RET, ident, EARLY if is_early else 0)

    def _send_nothing(self, kind: int, ident: int, flags: int = 0) -> None:
        """Send a reply that says no more than that it is one."""
        frame = pack_header(1, kind, flags, 0, ident, 0, 0, 0.0) + b"\xc0"
        if self._connection.hook is None:
            self._connection.write(frame)
        else:
            self._connection.send(frame)

    def refuse(self, kind: int, ident: int, error: BaseException) -> None:
        """Send the error of a message of type ``kind``, if it has a reply."""
        if reply := REPLIES.get(kind, 0):
            call = self._nameless(ident, reply)
            self._send_failure(call, error, is_ours=True)

    def failure(self, reply: int, ident: int, error: BaseException) -> Request:
        """Return a reply of type ``reply`` that is an error of the agent itself."""
        return self._failure(self._nameless(ident, reply), error, is_ours=True)

    def _nameless(self, ident: int, reply: int) -> ServedCall:
        """Return what stands for the call in a reply of the agent's own."""
        return ServedCall(cast("Replier", self), ident, NAMELESS, 0.0, 0, reply)

    def _refuse_call(self, call: ServedCall, error: RpcError) -> None:
        self._agent.tally.failed_served[error.code] += 1
        if call.reply:
            self._send_failure(call, error, is_ours=True)
        else:
            _log.error("a call sent one way by %s was refused: %s", self.caller, error)

    def _refuse_full(self, call: ServedCall) -> None:
        """Refuse a call above the limit; such calls may come in floods, so the reply is ready."""
        me, limit = self._agent.info.name, self._max_inflight
        error = ResourceExhaustedError(
            f"{me} serves {limit} calls of {self.caller.name} already, max_inflight is {limit}",
            delivery=Delivery.NOT_SENT,
        )
        if not call.reply:
            self._refuse_call(call, error)
            return
        self._agent.tally.failed_served[error.code] += 1
        if not self._refusal:
            self._refusal = self.failure(call.reply, call.ident, error).body
        self._connection.send(encode_frame(call.reply, call.ident, self._refusal, flags=ERROR))

    def _send_failure(
        self, call: ServedCall, error: BaseException, *, is_ours: bool = False
    ) -> None:
        try:
            self._send_large(self._failure(call, error, is_ours=is_ours))
        except Exception as problem:  # noqa: BLE001 -- as in succeed()
            # never silence: nobody else would ever tell the caller
            _log.warning("cannot send the error of %s as it is: %s", call.target.name, problem)
            text = f"{type(error).__qualname__}, which cannot travel: {problem}"
            plain = RemoteError(text, type_name=type(error).__qualname__, text=text)
            self._send(self._failure(call, plain, is_ours=True))

    def _failure(self, call: ServedCall, error: BaseException, *, is_ours: bool) -> Request:
        agent = self._agent
        payload = encode_failure(
            error,
            worker=agent.info.name,
            function=call.target.name,
            codec=agent.codec,
            registry=user_types,
            is_ours=is_ours,
        )
        body, buffers = self._encode(payload, "error")
        return Request(call.reply, call.ident, body, buffers, flags=ERROR)

    def _send_large(self, reply: Request) -> None:
        limit = self._connection.max_message_size
        if reply.enclosed:
            self.passing(reply.call_id, reply.enclosed)
        if reply.size > limit:
            self.taken(reply.call_id, is_error=True)
            raise MessageTooLargeError(
                f"result has {reply.size} bytes, above max_message_size {limit}"
            )
        if not (
            reply.enclosed and self._agent.references.hold_back(reply, WithheldReply(self, reply))
        ):
            self._send(reply)

    def _send(self, reply: Request) -> None:
        self._connection.send(reply.frame(0.0))

    def send_late(self, reply: Request) -> None:
        """Send a reply that was ready before, if there is a link still."""
        if not self._connection.stream.is_closed:
            self._send(reply)

    # -- references in results

    def passing(self, ident: Passage, enclosed: Sequence[Any]) -> None:
        """Learn that a result, or an item, goes out with references in it."""
        self._passed[ident] = enclosed

    def taken(self, ident: Passage, *, is_error: bool = False) -> None:
        """Learn that the references in a result have come, or certainly have not."""
        enclosed = self._passed.pop(ident, ())
        if is_error and enclosed:
            self._agent.references.take_back(enclosed, self.peer)

    def doubt_passed(self, ident: Passage) -> None:
        """Find out about the references in a result that may not have come."""
        enclosed = self._passed.pop(ident, ())
        if enclosed:
            self._agent.references.doubt(enclosed, self.peer)

    def doubt_items(self, call_id: int) -> None:
        """Find out about the references in items of a stream that nobody reads any more."""
        for ident in self.passed:
            if isinstance(ident, tuple) and ident[0] == call_id:
                self.doubt_passed(ident)

    @property
    def passed(self) -> tuple[Passage, ...]:
        """Calls and items whose references may not have come."""
        return tuple(self._passed)


def encoding_error(error: BaseException) -> RpcError:
    """Return the error of a call that ran and whose result, or an item of it, cannot travel."""
    if not isinstance(error, (EncodingError, MessageTooLargeError, InjectedFaultError)):
        error = EncodingError(
            f"encoding the result failed with {type(error).__qualname__}: {error}"
        )
    error.delivery = Delivery.EXECUTED
    return error
