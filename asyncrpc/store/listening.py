"""What every server of a store is: an address that is listened on, once, and who has come there.

Used by `server` and `torch_server`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from asyncrpc.errors import StoreConnectionError
from asyncrpc.observe import Clock, LoopClock
from asyncrpc.store.arguments import check_host, check_integer, check_port
from asyncrpc.transport import Address, Listener, Network, SocketNetwork, Stream, StreamHandler

__all__ = ("ListeningServer",)

_SEEN_ERRORS = 1.0  # seconds between log lines about peers that were turned away
_log = logging.getLogger("asyncrpc.store")


class ListeningServer(ABC):
    """Listens from `start` to `close`; async context manager.

    Args:
        host: name or IP address to listen on.
        port: 0 to 65535; 0 takes a free one.
        network: listens; ``None`` for sockets.
        max_connections: clients at one time; further ones are closed unread.
        clock: tells the time; ``None`` for the real one.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        network: Network | None,
        max_connections: int,
        clock: Clock | None,
    ) -> None:
        self._address = Address("tcp", check_host(host), check_port(port, 0))
        self._network: Network = network or SocketNetwork()
        self._max_connections = check_integer(max_connections, "max_connections", 1)
        self._clock: Clock = clock or LoopClock()
        self._listener: Listener | None = None
        self._is_closed = False
        self._quiet_until = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}>"

    @property
    def host(self) -> str:
        """The host it listens on."""
        return self._address.host

    @property
    def port(self) -> int:
        """The port it listens on: the real one once it was started."""
        return self._address.port

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen.

        Raises:
            StoreConnectionError: the address cannot be listened on, in use for instance; names
                it, and has the ``errno``.
            RuntimeError: it was started before.
        """
        if self._listener is not None or self._is_closed:
            raise RuntimeError("a store server can be started only once")
        try:
            self._listener = await self._network.listen(
                self._address, self._accept, max_connections=self._max_connections
            )
        except OSError as error:
            raise StoreConnectionError(
                f"store server {error.strerror or error}", errno=error.errno
            ) from error
        self._address = self._listener.address

    async def close(self) -> None:
        """Stop: the connections end, and the keys are gone. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._listener is not None:
            await self._listener.close()
        await self._end_sessions()

    @abstractmethod
    def _accept(self, stream: Stream) -> StreamHandler:
        """Return what begins with a new connection."""

    @abstractmethod
    async def _end_sessions(self) -> None:
        """End all connections."""

    def _report(self, message: str, *arguments: object) -> None:
        """Log at most one line per second: strangers must not fill the disk."""
        now = self._clock.time()
        if now >= self._quiet_until:
            self._quiet_until = now + _SEEN_ERRORS
            _log.warning(message, *arguments)
