"""What was given to a link and has not left it: it certainly did not come, and may be taken back.

It waits in the batch of small frames, among the large messages, or at the fault hook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncrpc.agent.request import Request
from asyncrpc.wire import HEADER, REPLIES, Transfer

if TYPE_CHECKING:
    from asyncrpc.agent.connection import Connection

__all__ = ("unsent_requests", "withdraw")

_RECENT = 256  # newest unsent frames looked through when a call is cancelled


def withdraw(connection: Connection, call_id: int) -> bool:
    """Take a request back from a link.

    Returns:
        Whether it never reached the socket, so that it cannot have run.
    """
    is_unsent = connection.bulk.withdraw(call_id) or _unwrite(connection.stream.batch, call_id)
    if connection.hook is not None:  # which may have let a copy of it go
        is_unsent = connection.hook.withdraw(connection, call_id)
    return is_unsent


def _unwrite(batch: list[bytes], call_id: int) -> bool:
    """Take a request out of a batch that has not left yet."""
    for index in range(len(batch) - 1, max(-1, len(batch) - 1 - _RECENT), -1):
        frame = batch[index]
        if frame:
            _, kind, _, _, call, _, _, _ = HEADER.unpack_from(frame)
            if call == call_id and kind in REPLIES:
                batch[index] = b""
                return True
    return False


def unsent_requests(connection: Connection) -> dict[int, Request]:
    """Take all requests back from a link that is gone, to be sent over the next one.

    Returns:
        Those that never left completely, so that they cannot run, in order, by call id.
    """
    held = [] if connection.hook is None else connection.hook.take_held(connection)
    small = filter(None, connection.stream.batch)
    requests: dict[int, Request] = {}
    for message in (*small, *connection.bulk.take_unsent(), *held):
        if isinstance(message, Transfer):
            kind, call_id = message.kind, message.call
        else:
            _, kind, _, _, call_id, _, _, _ = HEADER.unpack_from(message)
        if kind in REPLIES:  # a request; replies are nobody's
            requests[call_id] = Request.take_back(message)
    return requests
