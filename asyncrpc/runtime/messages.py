"""Messages as values: what `RpcAgent.make_message` makes and `send_with_retries` sends.

The level below calls: one message of one type, and the payload of its reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

from asyncrpc.agent import Agent, RpcFuture
from asyncrpc.options import UNSET
from asyncrpc.retry import check_policy
from asyncrpc.wire import CONTROL, MessageType

__all__ = ("Message", "make_message", "send")

_PYTHON_CALL, _SCRIPT_CALL = MessageType.PYTHON_CALL, MessageType.SCRIPT_CALL
_NAMES = sorted(MessageType(kind).name for kind in (_PYTHON_CALL, _SCRIPT_CALL, *CONTROL))


@dataclass(frozen=True, slots=True)
class Message:
    """A request before it is sent.

    Args:
        type: what it is; it has a reply. Of a call, the function decides which of the two it is.
        payload: of a call: function, positional and keyword arguments; else what the handler of
            that type takes.
    """

    type: MessageType
    payload: object


def make_message(kind: MessageType | str, payload: object) -> Message:
    """Return a message that can be sent; see `RpcAgent.make_message`."""
    found = MessageType.__members__.get(kind) if isinstance(kind, str) else kind
    if not isinstance(found, MessageType):
        raise ValueError(f"No mapping to rpc::MessageType exists for {kind}")
    if found in (_PYTHON_CALL, _SCRIPT_CALL):
        return Message(found, _call_parts(payload))
    if found not in CONTROL:
        raise ValueError(
            f"type must be that of a request with a reply, among {', '.join(_NAMES)}, "
            f"got {found.name}"
        )
    return Message(found, payload)


def send(
    agent: Agent, to: object, message: object, policy: object, site: FrameType
) -> RpcFuture[Any]:
    """Send a message until it is answered; see `RpcAgent.send_with_retries`."""
    if not isinstance(message, Message):
        raise ValueError(f"message must be one that make_message made, got {message!r}")
    checked = check_policy("policy", policy)
    caller = agent.caller
    if message.type in CONTROL:
        peer = caller.destination(to)
        return caller.request(peer, message.type, message.payload, caller.timeout, policy=checked)
    func, args, kwargs = cast("tuple[Any, Any, Any]", message.payload)
    return caller.call(to, func, args, kwargs, UNSET, checked, site)


def _call_parts(payload: object) -> tuple[object, object, object]:
    """Return function, positional and keyword arguments."""
    if isinstance(payload, Mapping):
        if "func" in payload and not payload.keys() - {"func", "args", "kwargs"}:
            return payload["func"], payload.get("args"), payload.get("kwargs")
    elif isinstance(payload, (tuple, list)) and 1 <= len(payload) <= 3:
        func, args, kwargs = (*payload, None, None)[:3]
        return func, args, kwargs
    raise ValueError(
        f"payload of a call must be (func, args, kwargs) or a dict of these, got {payload!r:.200}"
    )
