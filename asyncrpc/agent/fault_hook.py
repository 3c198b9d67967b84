"""What a connection asks of a message-level fault injector; `faulting` has the one there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from asyncrpc.wire import Frame, Transfer

if TYPE_CHECKING:
    from asyncrpc.agent.connection import Connection

__all__ = ("FaultHook",)


class FaultHook(Protocol):
    """The message-level fault injector: innermost, so layers above take its faults for real."""

    def outgoing(self, connection: Connection, message: bytes | Transfer) -> None:
        """Pass a message on with `Connection.transmit`: now, later, more than once or never."""
        ...

    def incoming(self, connection: Connection, frames: list[Frame]) -> list[Frame]:
        """Return the frames to handle in place of those received."""
        ...

    def holds(self, connection: Connection) -> bool:
        """Whether a message of this link waits here."""
        ...

    def withdraw(self, connection: Connection, call_id: int) -> bool:
        """Take back a request that waits here; true if there was one."""
        ...

    def answers(self, connection: Connection, call_id: int) -> bool:
        """Whether the reply to a call waits here."""
        ...

    def take_held(self, connection: Connection) -> list[bytes | Transfer]:
        """Hand over what waits here for a link that is gone, and forget the link."""
        ...
