"""How calls that are out come to their end: by a reply, by their deadline, by a shutdown.

The base of `Caller`, which starts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.pending import Deadlines, RpcFuture, delivery_of, may_have_run
from asyncrpc.agent.receipts import send_receipt
from asyncrpc.agent.references import HeldReply
from asyncrpc.errors import Delivery, RemoteProtocolError, RpcError, RpcTimeoutError
from asyncrpc.execution import decode_failure
from asyncrpc.wire import EARLY, ERROR, REFERENCES, Frame

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("Settling",)


class Settling:
    """The calls of one agent that are out.

    Args:
        agent: whose calls.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.pending: dict[int, RpcFuture[Any]] = {}
        """Calls that are out, by id."""
        self.new_id = agent.tally.new_id
        """Gives ids of calls, in their order."""
        self.other_id = agent.tally.other_id
        """Gives ids of what is no new call of a user."""
        self.deadlines = Deadlines(agent.clock, self.pending, self._expire)
        """Times them."""

    def put_back(self, future: RpcFuture[Any]) -> None:
        """Have a call pending again that was taken out, or under another id."""
        future.is_timed = False  # it is the newest entry now: see Deadlines
        self.pending[future.call_id] = future
        if 0 < future.deadline < self.deadlines.armed:
            self.deadlines.arm(future.deadline)

    def user_calls(self) -> list[RpcFuture[Any]]:
        """Return the calls of users that are out."""
        return [future for future in self.pending.values() if future.is_user]

    def close(self, error: RpcError) -> None:
        """Fail every call that is out with a copy of ``error``; time nothing any more."""
        self.deadlines.close()
        futures = tuple(self.pending.values())
        self.pending.clear()
        for future in futures:
            if not future.done():
                future.fail(type(error)(str(error), delivery=delivery_of(future)))

    def give_up(self, error: RpcError) -> None:
        """Fail every call that is out with a copy of ``error``, and stop it where it runs."""
        for future in tuple(self.pending.values()):
            future.owner.withdraw(future)
            if not future.done():
                future.fail(type(error)(str(error), delivery=delivery_of(future)))

    def take_reply(self, connection: Connection, frame: Frame) -> None:
        """Settle a call: for the less frequent types of replies; see `Connection.handle`.

        Raises:
            RemoteProtocolError: it is a call of another worker, or the reply ends the link.
        """
        _, flags, _, call_id, _, _, _, body, buffers = frame
        peer = connection.peer
        future = self.pending.get(call_id)
        if future is None:
            peer.stopped(connection, call_id)
            return
        if future.owner is not peer:
            raise RemoteProtocolError("reply to a call of another worker")
        if flags & EARLY:
            future.accepted()
            return
        del self.pending[call_id]
        if future.counts:
            peer.inflight -= 1
        self.settle_slowly(connection, future, call_id, flags, body, buffers)

    def settle_slowly(
        self,
        connection: Connection,
        future: RpcFuture[Any],
        call_id: int,
        flags: int,
        body: bytes | memoryview,
        buffers: Sequence[memoryview],
    ) -> None:
        """Give a failure, or a reply with buffers or references, to the call that waits for it."""
        is_read = self._give(future, body, buffers, is_error=bool(flags & ERROR))
        if flags & REFERENCES:
            send_receipt(connection, 0, call_id, is_error=not is_read)

    def _give(
        self,
        future: RpcFuture[Any],
        body: bytes | memoryview,
        buffers: Sequence[memoryview],
        *,
        is_error: bool,
    ) -> bool:
        """Return whether the reply could be read."""
        references = self._agent.references
        try:
            value = self._agent.codec.decode(body, buffers)
            if is_error:
                future.fail(decode_failure(value, codec=self._agent.codec))
            elif references.arrived:
                HeldReply(self, future, value, references).hold()
            else:
                future.succeed(value)
        except RpcError as error:
            references.arrived.clear()
            self.undecodable(future, error)
            return False
        return True

    def undecodable(self, future: RpcFuture[Any], error: RpcError) -> None:
        """Fail a call whose reply cannot be read; raises again what ends the link."""
        error.delivery = Delivery.EXECUTED
        future.fail(error)
        if isinstance(error, RemoteProtocolError):
            raise error

    def _expire(self, call_id: int) -> None:
        """Fail a call whose time is over, and stop it where it runs."""
        future = self.pending[call_id]
        peer: Any = future.owner
        link = peer.connection
        is_answered = link is not None and link.answers(call_id)
        peer.withdraw(future)  # tells by is_sent whether the request ever left
        if future.done():
            return
        phase = "connect" if link is None else "send"
        if may_have_run(future):
            phase = "reply" if is_answered else "execute"
        given = f"{future.timeout:g} s" if future.timeout else "the deadline of the call it serves"
        future.fail(
            RpcTimeoutError(
                f"RPC ran for more than set timeout ({given}) and will now be marked with an "
                f"error: {future.function} on {peer}, in phase {phase}",
                delivery=delivery_of(future),
                phase=phase,
            )
        )
