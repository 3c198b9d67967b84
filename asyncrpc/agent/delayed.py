"""A message that a fault keeps back for a while, so that it comes late or out of order.

Kept by `FaultInjector`. It goes on with the time that it waited taken off its deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from asyncrpc.faults import FaultEvent
from asyncrpc.wire import HEADER, REPLIES, RESPONSE, Frame, Transfer

if TYPE_CHECKING:
    from asyncrpc.agent.connection import Connection
    from asyncrpc.observe import Timer

__all__ = ("Delayed", "Message", "head_of")

_LEAST = 1e-6  # seconds; 0 would mean no deadline

Message: TypeAlias = bytes | Transfer
"""A message on its way out."""


class Delayed:
    """A message that waits.

    Args:
        connection: its link.
        event: what keeps it.
        message: on its way out, or a frame that came.
        now: the agent's clock, in seconds.
    """

    __slots__ = ("_since", "call_id", "connection", "direction", "message", "timer")

    def __init__(
        self, connection: Connection, event: FaultEvent, message: Message | Frame, now: float
    ) -> None:
        self.connection = connection
        self.direction = event.direction
        self.call_id = event.call_id
        self.message = message
        self.timer: Timer | None = None
        self._since = now

    @property
    def is_out(self) -> bool:
        """Whether it is on its way out."""
        return self.direction == "out"

    @property
    def is_request(self) -> bool:
        """Whether it is a request of this side; other messages may be about the same call."""
        return self.is_out and head_of(cast("Message", self.message))[0] in REPLIES

    @property
    def is_reply(self) -> bool:
        """Whether it answers a request of this side."""
        return not self.is_out and bool(cast("Frame", self.message)[0] & RESPONSE)

    def outgoing(self, now: float) -> Message:
        """Return the message with the time it waited taken off its deadline."""
        message = cast("Message", self.message)
        fields = HEADER.unpack_from(message.header if isinstance(message, Transfer) else message)
        if not fields[-1]:
            return message
        header = HEADER.pack(*fields[:-1], max(fields[-1] - (now - self._since), _LEAST))
        if not isinstance(message, Transfer):
            return header + message[HEADER.size :]
        message.header = header
        return message

    def frame(self, now: float) -> Frame:
        """Return the frame with the time it waited taken off its deadline."""
        frame = cast("Frame", self.message)
        left = max(frame[5] - (now - self._since), _LEAST) if frame[5] else 0.0
        return (*frame[:5], left, *frame[6:])


def head_of(message: Message) -> tuple[int, int, int]:
    """Return type, flags and call id of a message."""
    header = message.header if isinstance(message, Transfer) else message
    _, kind, flags, _, call_id, _, _, _ = HEADER.unpack_from(header)
    return kind, flags, call_id
