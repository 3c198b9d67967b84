"""Receipts: that a message came, with the references that it encloses.

RREF_TAKEN frames, for what has no reply of its own: results, one-way calls and items of streams.
Whoever enclosed a reference holds it until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncrpc.errors import RemoteProtocolError
from asyncrpc.wire import ERROR, LENGTH, Frame, MessageType, encode_frame

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("send_receipt", "take_receipt")

_NOTIFY = int(MessageType.NOTIFY)
_STREAM_ITEM = int(MessageType.STREAM_ITEM)
_RREF_TAKEN = int(MessageType.RREF_TAKEN)


def send_receipt(
    connection: Connection, kind: int, call_id: int, *, is_error: bool = False, number: int = 0
) -> None:
    """Say that a message came, with the references that it encloses.

    Args:
        connection: on which it came.
        kind: NOTIFY or STREAM_ITEM for these, 0 for a reply.
        call_id: its call.
        is_error: they were not taken: the message cannot be read, or nobody reads it.
        number: of an item.
    """
    flags = ERROR if is_error else 0
    body = LENGTH.pack(number) if kind == _STREAM_ITEM else b""
    connection.send(encode_frame(_RREF_TAKEN, call_id, body, flags=flags, function=kind))


def take_receipt(agent: Agent, connection: Connection, frame: Frame) -> None:
    """Learn that a message of this side's came.

    Args:
        agent: who sent it.
        connection: on which the receipt came.
        frame: the receipt.

    Raises:
        RemoteProtocolError: it does not say which item came.
    """
    _, flags, _, call_id, kind, *_ = frame
    peer = connection.peer
    if kind == _NOTIFY:
        agent.references.taken(call_id, peer)
        return
    if kind == _STREAM_ITEM:
        _take_for_item(connection, frame)
        return
    for server in (connection.server, peer.kept):
        if server is not None:
            server.taken(call_id, is_error=bool(flags & ERROR))


def _take_for_item(connection: Connection, frame: Frame) -> None:
    """Learn of the references in an item; one that is read no more may have been before."""
    _, flags, _, call_id, *_, body, _ = frame
    if len(body) != LENGTH.size:
        raise RemoteProtocolError("an item that came must be told by its number")
    item = (call_id, LENGTH.unpack(body)[0])
    if flags & ERROR:
        connection.server.doubt_passed(item)
    else:
        connection.server.taken(item)
