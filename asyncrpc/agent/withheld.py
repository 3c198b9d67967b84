"""Messages that cannot go yet: who owns what they refer to is being looked up.

Only in a dynamic group, where `remote` may name a worker that is not known here. The references of
the agent tell when to go on: see `References.hold_back`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncrpc.agent.pending import RpcFuture
from asyncrpc.errors import Delivery, RpcError

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer
    from asyncrpc.agent.replying import Replies
    from asyncrpc.agent.request import Request

__all__ = ("WithheldReply", "WithheldRequest")


class WithheldRequest:
    """A request with references whose owners are being looked up; its call has its own deadline.

    Args:
        agent: sends it.
        peer: its destination.
        request: what waits.
        future: its call, ``None`` if it is one-way.
        counts: see `Peer.submit`.
    """

    connection = None

    def __init__(
        self,
        agent: Agent,
        peer: Peer,
        request: Request,
        future: RpcFuture[Any] | None,
        *,
        counts: bool,
    ) -> None:
        self._agent = agent
        self._peer = peer
        self._request = request
        self._future = future
        self._counts = counts

    def __repr__(self) -> str:
        return repr(self._peer)

    def is_held(self) -> bool:
        """Keep the request, if it has to wait."""
        is_held = self._agent.references.hold_back(self._request, self)
        if is_held and self._future is not None:
            self._future.owner = self
        return is_held

    def run(self) -> None:
        """See `Waiting.run`."""
        if not self._peer.is_present:
            self.fail(self._peer.gone_error(Delivery.NOT_SENT))
        elif self._future is None or not self._future.done():
            self._let_go()
            self._peer.submit(self._request, self._future, counts=self._counts)

    def fail(self, error: RpcError) -> None:
        """See `Waiting.fail`."""
        if self._future is None or not self._future.done():
            self._let_go()
            self._peer.drop(self._request, self._future, error)

    def withdraw(self, future: RpcFuture[Any]) -> None:
        """Forget the call: cancelled, or its time is over."""
        self._let_go()
        self._agent.pending.pop(future.call_id, None)

    def unqueue(self, _: RpcFuture[Any]) -> None:
        """See `Peer.unqueue`: it is in no queue."""

    @property
    def is_present(self) -> bool:
        """See `Peer.is_present`."""
        return self._peer.is_present

    def count(self, error: BaseException | None) -> None:
        """Count a failure: see `Peer.count`."""
        self._peer.count(error)

    def _let_go(self) -> None:
        if self._future is not None:
            self._future.owner = self._peer


class WithheldReply:
    """A result with references whose owners are being looked up."""

    def __init__(self, replies: Replies, reply: Request) -> None:
        self._replies = replies
        self._reply = reply

    def run(self) -> None:
        """See `Waiting.run`."""
        self._replies.send_late(self._reply)

    def fail(self, error: RpcError) -> None:
        """See `Waiting.fail`."""
        replies, reply = self._replies, self._reply
        error.delivery = Delivery.EXECUTED
        replies.taken(reply.call_id, is_error=True)
        replies.send_late(replies.failure(reply.kind, reply.call_id, error))
