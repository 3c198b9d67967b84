"""Rendezvous of one node: it serves the run's store itself and is alone in every round.

Every round gets a fresh port for its rank 0 and a part of the store of its own, so nothing of an
earlier round can be read in it. Made by the registry for ``tcp`` and ``c10d``.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from asyncrpc.secret import load_secret, run_secret
from asyncrpc.store import PrefixStore, TCPStore, TCPStoreServer
from launcher.errors import RendezvousClosedError, RendezvousConnectionError
from launcher.rendezvous.base import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)
from launcher.rendezvous.endpoint import free_port, parse_endpoint

__all__ = ("TcpRendezvous", "create_handler")

_DEFAULT_PORT = 29400  # torchrun's, for an endpoint that names a host only
_LOOPBACK = "127.0.0.1"


class TcpRendezvous(RendezvousHandler):
    """Serves the run's store on this node and forms rounds of this node alone.

    Args:
        parameters: of the run; the endpoint is where the store listens, any free port of loopback
            when it is empty.

    Raises:
        ValueError: the endpoint is malformed, a setting is unknown, or there is no secret.
    """

    def __init__(self, parameters: RendezvousParameters) -> None:
        for key in parameters.config:
            raise ValueError(f"rdzv_conf {key}: expected no settings for {parameters.backend}")
        host, self._port = (
            parse_endpoint(parameters.endpoint, _DEFAULT_PORT)
            if parameters.endpoint
            else (_LOOPBACK, 0)
        )
        self._host = _LOOPBACK if host == "localhost" else host
        self._backend = parameters.backend
        self._run_id = parameters.run_id
        self._secret = parameters.secret or run_secret(
            load_secret(None, os.environ), parameters.run_id
        )
        self._resources = AsyncExitStack()
        self._store: TCPStore | None = None  # None before the first round and after shutdown
        self._url = ""
        self._round = 0  # rounds formed so far
        self._given_ports: set[int] = set()
        self._is_closed = False

    def get_backend(self) -> str:
        """Name the backend."""
        return self._backend

    def get_run_id(self) -> str:
        """Name the run."""
        return self._run_id

    async def next_rendezvous(self) -> RendezvousInfo:
        """Form the next round, of this node alone.

        Returns:
            The round, with a port for its rank 0 that no earlier round had.

        Raises:
            RendezvousClosedError: the run was closed or the handler shut down.
            RendezvousConnectionError: the endpoint cannot be listened on.
        """
        if self._is_closed:
            raise RendezvousClosedError(f"run {self._run_id} is closed")
        store = self._store or await self._serve()
        port = free_port(self._host, self._given_ports)
        self._given_ports.add(port)
        number, self._round = self._round, self._round + 1
        return RendezvousInfo(
            store=PrefixStore(f"launcher/round_{number}/", store),
            rank=0,
            world_size=1,
            bootstrap_store_info=RendezvousStoreInfo(master_addr=self._host, master_port=port),
            round=number,
            store_url=self._url,
        )

    async def is_closed(self) -> bool:
        """Say whether the run is over."""
        return self._is_closed

    async def set_closed(self) -> None:
        """Declare the run over."""
        self._is_closed = True

    async def num_nodes_waiting(self) -> int:
        """Count the nodes that wait for the next round: none can."""
        return 0

    async def shutdown(self) -> bool:
        """End the run, close its store; the handler cannot be used again."""
        self._is_closed = True
        await self.close()
        return True

    async def close(self) -> None:
        """Close the store, which goes with its node."""
        self._store = None
        await self._resources.aclose()

    async def _serve(self) -> TCPStore:
        server = TCPStoreServer(self._host, self._port, secret=self._secret, run_id=self._run_id)
        try:
            await self._resources.enter_async_context(server)
        except OSError as error:
            raise RendezvousConnectionError(
                f"rdzv_endpoint {self._host}:{self._port}: cannot listen there, {error}"
            ) from error
        self._store = await TCPStore.connect(
            server.host, server.port, secret=self._secret, run_id=self._run_id
        )
        await self._resources.enter_async_context(self._store)
        shown = f"[{server.host}]" if ":" in server.host else server.host
        self._url = f"tcp://{shown}:{server.port}"
        return self._store


def create_handler(parameters: RendezvousParameters) -> RendezvousHandler:
    """Make the handler of a run; see `TcpRendezvous`."""
    return TcpRendezvous(parameters)
