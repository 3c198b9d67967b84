"""What a network, a listener and the handler on a stream are: the protocols of this folder.

Byte streams only: nothing here knows of messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from asyncrpc.transport.address import Address
from asyncrpc.transport.stream import Stream, StreamHandler

__all__ = ("Listener", "MakeHandler", "Network")

MakeHandler = Callable[[Stream], StreamHandler]
"""Makes the handler of a stream that a listener accepted."""


class Listener(Protocol):
    """Accepts streams until closed."""

    address: Address
    """Where it really listens: with the port the system gave."""

    async def close(self) -> None:
        """Stop accepting and free the address; accepted streams live on. Idempotent."""
        ...


class Network(Protocol):
    """Opens streams and listeners; the injectable transport of an agent."""

    async def connect(self, address: Address, handler: StreamHandler, *, timeout: float) -> Stream:
        """Open a stream to ``address`` with ``handler`` on it.

        Args:
            address: where a listener is.
            handler: receives the stream's bytes.
            timeout: seconds, above 0.

        Raises:
            ConnectionError: nobody listens there or the network refused; names the address.
            AuthenticationError: the certificate that is shown there is not trusted.
            TimeoutError: no answer within ``timeout``; names the address.
        """
        ...

    async def listen(
        self, address: Address, make_handler: MakeHandler, *, max_connections: int
    ) -> Listener:
        """Listen at ``address``.

        Args:
            address: tcp port 0 asks for a free one.
            make_handler: called for each stream accepted.
            max_connections: streams open at once; further ones are closed unread.

        Raises:
            OSError: the address cannot be bound; the message names it.
        """
        ...
