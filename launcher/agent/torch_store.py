"""The store that torch's clients among the workers find at MASTER_ADDR:MASTER_PORT.

Without ``--torch-store`` the worker of rank 0 serves it there, as torch does by itself; with it,
the agent of group rank 0 does, so that it outlives every worker. Called by `agent`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from launcher.errors import RendezvousConnectionError
from launcher.rendezvous import RendezvousInfo

if TYPE_CHECKING:
    from asyncrpc.store import TorchStoreServer

__all__ = ("RoundStore",)

_BACKLOG = 1024  # workers that may connect at one time
_MAX_CONNECTIONS = 1 << 20  # several of each worker of the run: the system's own limits count first


class RoundStore:
    """One agent's part in it: a fresh store in each round in which its group rank is 0."""

    def __init__(self) -> None:
        self._server: TorchStoreServer | None = None

    async def begin(self, info: RendezvousInfo) -> None:
        """Serve the store of a round, if that is up to this agent; the last round's ends.

        Args:
            info: of the round.

        Raises:
            RendezvousConnectionError: the address cannot be listened on; names it.
        """
        await self.end()
        if info.rank != 0:
            return
        from asyncrpc.store import TorchStoreServer  # noqa: PLC0415 -- few runs need it
        from asyncrpc.transport import SocketNetwork  # noqa: PLC0415 -- comes with it

        host, port = info.bootstrap_store_info
        try:
            listening = await asyncio.to_thread(_listen, host, port, info.world_size == 1)
        except OSError as error:
            why = (error.strerror or str(error)).partition(" (while")[0]
            raise RendezvousConnectionError(
                f"torch_store: cannot listen at {host}:{port}: {why}"
            ) from error
        network = SocketNetwork(listening=listening)
        self._server = TorchStoreServer(
            host, port, network=network, max_connections=_MAX_CONNECTIONS
        )
        await self._server.start()

    async def end(self) -> None:
        """Serve it no more. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()


def _listen(host: str, port: int, is_alone: bool) -> socket.socket:
    """Listen where the workers of a round look for the store, and nowhere else if that will do.

    Args:
        host: name or address that they are told.
        port: from 1.
        is_alone: whether they are all on this node.

    Raises:
        OSError: this host does not have the address, or something listens there already.
    """
    flags = 0 if is_alone else socket.AI_NUMERICHOST
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
        family, _, _, _, address = found[0]
        listening = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        # What a name means here may be loopback; an address may be what others see this host at.
        is_known = not isinstance(error, socket.gaierror) and error.errno != errno.EADDRNOTAVAIL
        if is_alone or is_known:
            raise
        listening = _listen_everywhere(port)
    listening.setblocking(False)
    return listening


def _listen_everywhere(port: int) -> socket.socket:
    is_dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual)
