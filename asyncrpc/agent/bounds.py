"""What a caller refuses to send: messages too large, calls too many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncrpc.agent.request import Request
from asyncrpc.errors import MessageTooLargeError, ResourceExhaustedError, RpcError
from asyncrpc.options import Limits
from asyncrpc.wire import CALLS, MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer

__all__ = ("check_bounds", "refuse_too_large")


def check_bounds(agent: Agent, peer: Peer, request: Request, name: str) -> None:
    """Refuse what is too large, or would wait where nothing may wait.

    Args:
        agent: whose message it is.
        peer: destination.
        request: the message.
        name: of its function, empty for none.

    Raises:
        MessageTooLargeError: it has more bytes than the ``max_message_size`` of one side.
        ResourceExhaustedError: too many calls are out, or wait already.
    """
    try:
        _check(agent.options.limits, peer, request, name)
    except RpcError:
        if request.enclosed:
            agent.references.take_back(request.enclosed, peer)
        raise


def refuse_too_large(agent: Agent, peer: Peer) -> None:
    """Fail what waits for a link whose other end takes less than this one would send."""
    for request, future in peer.take_waiting():
        try:
            _check_size(agent.options.limits, peer, request, future.function if future else "")
        except MessageTooLargeError as error:
            peer.drop(request, future, error)
        else:
            peer.enqueue(request, future)


def _check_size(limits: Limits, peer: Peer, request: Request, name: str) -> None:
    own = limits.max_message_size
    most = own if peer.connection is None else peer.connection.max_message_size
    if request.size > most:
        what = name or MessageType(request.kind).name
        whose = f" of {peer}" if most < own else ""
        raise MessageTooLargeError(
            f"the arguments of {what} have {request.size} bytes, above max_message_size "
            f"{most}{whose}"
        )


def _check(limits: Limits, peer: Peer, request: Request, name: str) -> None:
    _check_size(limits, peer, request, name)
    out = peer.inflight + peer.waiting - peer.stopping  # those that somebody waits for
    is_plain = request.kind in CALLS and not request.depth
    if is_plain and limits.on_full == "error" and out >= peer.limit:
        raise ResourceExhaustedError(
            f"{out} calls to {peer} are in flight, max_inflight is {peer.limit}"
        )
    if out >= peer.limit + limits.max_queued and (is_plain or peer.waiting):
        raise ResourceExhaustedError(
            f"{peer.waiting} calls wait for {peer}, max_queued is {limits.max_queued}"
        )
