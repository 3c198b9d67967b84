"""Who takes which frames of a link: all but those that a `Connection` handles at once.

Plain calls and their results do not come here. What is in no table is a control message, for
`Agent.handle_control`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from asyncrpc.agent.receipts import take_receipt
from asyncrpc.wire import REPLIES, Frame, MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("REFERENCE_CALLS", "make_handlers")

REFERENCE_CALLS = tuple(
    int(MessageType[f"{language}_{call}"])
    for language in ("PYTHON", "SCRIPT")
    for call in ("REMOTE_CALL", "RREF_FETCH_CALL")
)
"""Requests to create a value that is referred to, or to give one."""

_ANSWERS = frozenset(filter(None, REPLIES.values()))
_SERVED = tuple(int(MessageType[name]) for name in ("NOTIFY", "SCRIPT_CALL", "STREAM_CALL"))
_CANCEL = int(MessageType.CANCEL)
_CANCELLED = int(MessageType.CANCELLED)
_PING = int(MessageType.PING)
_REPLY_ACK = int(MessageType.REPLY_ACK)
_RREF_TAKEN = int(MessageType.RREF_TAKEN)
_STREAM_CREDIT = int(MessageType.STREAM_CREDIT)
_STREAM_END = int(MessageType.STREAM_END)
_STREAM_ITEM = int(MessageType.STREAM_ITEM)


def make_handlers(agent: Agent, connection: Connection) -> dict[int, Callable[[Frame], None]]:
    """Return the handlers of a link's frames by type.

    Args:
        agent: whose link.
        connection: the link, with all its parts.
    """
    sharing = connection.sharing
    return {
        **dict.fromkeys(_ANSWERS, partial(agent.caller.take_reply, connection)),
        **dict.fromkeys(_SERVED, partial(_serve, connection)),
        **dict.fromkeys(REFERENCE_CALLS, connection.serve_reference),
        **connection.upkeep.handlers,
        **(sharing.handlers if sharing is not None else {}),
        _CANCEL: partial(_cancel, connection),
        _CANCELLED: partial(_take_back_place, connection),
        _PING: partial(_answer_ping, connection),
        _REPLY_ACK: partial(_forget_reply, connection),
        _RREF_TAKEN: partial(take_receipt, agent, connection),
        _STREAM_CREDIT: connection.server.grant,
        _STREAM_END: partial(agent.streams.take_end, connection),
        _STREAM_ITEM: partial(agent.streams.take_item, connection),
    }


def _serve(connection: Connection, frame: Frame) -> None:
    connection.serve(frame)  # whoever takes requests now


def _cancel(connection: Connection, frame: Frame) -> None:
    """Stop a call, wherever it is."""
    if connection.backlog is not None:
        connection.backlog.cancel(frame[3])
        connection.backlog.count_answer()
    kept = connection.peer.kept
    if kept is None or not kept.withdraw(connection, frame[3]):
        connection.server.cancel(frame[3])


def _take_back_place(connection: Connection, frame: Frame) -> None:
    connection.peer.stopped(connection, frame[3])


def _forget_reply(connection: Connection, frame: Frame) -> None:
    if connection.peer.kept is not None:
        connection.peer.kept.acknowledge(frame[3])


def _answer_ping(connection: Connection, frame: Frame) -> None:
    if connection.backlog is not None:
        if frame[3]:  # a fence: requests before it are not counted as served yet
            connection.backlog.add(frame)
            return
        connection.backlog.count_answer()
    connection.upkeep.answer_ping(frame)
