"""The tcp backend: a node that is alone serves the run's store itself, several share one.

`TcpRendezvous` is for a run of one node, which is alone in every round; runs of several nodes get a
`dynamic` handler, loaded only for them. Every round gets a fresh port for its rank 0 and an agents'
store of its own, so nothing of an earlier round can be read in it. Made by the registry for ``tcp``
and ``c10d``.

Theory of operation: the socket of the run's store listens before the first worker starts, but the
store itself is loaded when the first worker connects, who waits in the socket meanwhile. Workers
that do not use the store start and end in half the time it takes to load.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from functools import cache
from typing import TYPE_CHECKING

from asyncrpc.secret import load_secret, run_secret
from launcher.errors import RendezvousClosedError, RendezvousConnectionError
from launcher.rendezvous.base import (
    Change,
    Ending,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    Told,
)
from launcher.rendezvous.endpoint import check_port, free_port, parse_endpoint

if TYPE_CHECKING:
    from asyncrpc.store import Store
    from launcher.rendezvous.settings import Settings

__all__ = ("TcpRendezvous", "create_handler", "run_secret_of")

_BACKLOG = 1024  # workers of one node that may connect while the store is loaded
_DEFAULT_PORT = 29400  # torchrun's, for an endpoint that names a host only
_LOOPBACK = "127.0.0.1"

_logger = logging.getLogger("launcher.rendezvous")


class TcpRendezvous(RendezvousHandler):
    """Serves the run's store on this node and forms rounds of this node alone.

    Args:
        parameters: of the run; the endpoint is where the store listens, any free port of loopback
            when it is empty.
        master: where rank 0's workers are to listen in every round, and no endpoint is for the
            store then; ``None``: at a free port, a new one in each round.

    Raises:
        ValueError: the endpoint is malformed, a setting is unknown, or there is no secret.
    """

    def __init__(
        self, parameters: RendezvousParameters, master: RendezvousStoreInfo | None = None
    ) -> None:
        if parameters.config:
            _read_settings(parameters)  # none of which matters to a node alone
        self._master = master
        host, self._port = _place("" if master else parameters.endpoint)
        self._host = _LOOPBACK if host == "localhost" else host
        self._backend = parameters.backend
        self._run_id = parameters.run_id
        self._secret = run_secret_of(parameters)
        self._socket: socket.socket | None = None  # listens; None once the server has taken it
        self._serving: asyncio.Task[None] | None = None  # None until a worker connects
        self._url = ""  # of the store, once its socket listens
        self._round = 0  # rounds formed so far
        self._given_ports: set[int] = set()
        self._is_closed = False

    def get_backend(self) -> Told:
        """Name the backend."""
        return Told(self._backend)

    def get_run_id(self) -> Told:
        """Name the run."""
        return Told(self._run_id)

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
        if not self._url:
            self._listen()
        if self._master is not None and self._round == 0:
            check_port(*self._master)
        number, self._round = self._round, self._round + 1
        return RendezvousInfo(
            store=cache(_memory_store),  # there is no other agent to share it with
            rank=0,
            world_size=1,
            bootstrap_store_info=self._master or self._free_place(),
            round=number,
            store_url=self._url,
            restarts=self.restarts,
        )

    async def round_over(self) -> Change | Ending:
        """Wait for what `report` decides: there is nobody else who could end a round."""
        decision = self._decision()
        await asyncio.wait({decision})
        self._ended = None
        return decision.result()

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
        """End the run and close its store; the handler cannot be used again."""
        await self.close()
        return True

    async def close(self) -> None:
        """Close the store, which goes with its node; the handler cannot be used again."""
        self._is_closed = True
        listening, self._socket = self._socket, None
        if listening is not None:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])

    def _free_place(self) -> RendezvousStoreInfo:
        port = free_port(self._host, self._given_ports)
        self._given_ports.add(port)
        return RendezvousStoreInfo(master_addr=self._host, master_port=port)

    def _listen(self) -> None:
        """Listen where the store is to be, and serve it when the first client comes."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            listening = socket.create_server(
                (self._host, self._port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            # Without the address, which the socket module repeats in the system's words.
            why = (error.strerror or str(error)).partition(" (while")[0]
            raise RendezvousConnectionError(
                f"rdzv_endpoint={self._host}:{self._port}: cannot listen there: {why}"
            ) from error
        listening.setblocking(False)
        host, port = listening.getsockname()[:2]
        self._url = (
            f"tcp://[{host}]:{port}" if family == socket.AF_INET6 else f"tcp://{host}:{port}"
        )
        self._port = port
        self._socket = listening
        asyncio.get_running_loop().add_reader(listening, self._client_came)

    def _client_came(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        listening, self._socket = self._socket, None
        self._serving = loop.create_task(self._serve(listening))
        self._serving.add_done_callback(_report_failure)

    async def _serve(self, listening: socket.socket) -> None:
        """Serve the run's store on the socket until cancelled."""
        from asyncrpc.store import TCPStoreServer  # noqa: PLC0415 -- slow, and often not needed
        from asyncrpc.transport import SocketNetwork  # noqa: PLC0415 -- one node alone needs no network

        with listening:
            async with TCPStoreServer(
                self._host,
                self._port,
                self._secret,
                run_id=self._run_id,
                network=SocketNetwork(listening=listening),
            ):
                await asyncio.get_running_loop().create_future()  # for good


def create_handler(parameters: RendezvousParameters) -> RendezvousHandler:
    """Make the handler of a run.

    Args:
        parameters: of the run; several nodes need an endpoint.

    Returns:
        A `TcpRendezvous` for one node, a `DynamicRendezvous` for several.

    Raises:
        ValueError: endpoint or settings break their rule, or there is no secret.
    """
    return TcpRendezvous(parameters) if parameters.max_nodes == 1 else _shared(parameters)


def _shared(parameters: RendezvousParameters) -> RendezvousHandler:
    from launcher.rendezvous.dynamic import DynamicRendezvous  # noqa: PLC0415 -- for several nodes
    from launcher.rendezvous.place import TcpPlace  # noqa: PLC0415 -- brings the store

    settings = _read_settings(parameters)
    if not parameters.endpoint:
        raise ValueError(
            "rdzv_endpoint=: expected host[:port], the same on every node, to launch on up to "
            f"{parameters.max_nodes} nodes"
        )
    host, port = _place(parameters.endpoint)
    if port == 0:
        raise ValueError(
            f"rdzv_endpoint={parameters.endpoint}: expected a port that every node knows, not 0"
        )
    place = TcpPlace(
        host,
        port,
        run_secret_of(parameters),
        parameters.run_id,
        local_addr=parameters.local_addr,
        is_host=settings.is_host,
        read_timeout=settings.read_timeout,
    )
    return DynamicRendezvous(parameters, settings, place)


def _read_settings(parameters: RendezvousParameters) -> Settings:
    from launcher.rendezvous.settings import read_settings  # noqa: PLC0415 -- if there are any

    return read_settings(parameters)


def run_secret_of(parameters: RendezvousParameters) -> bytes:
    """Return the secret that the agents of the run share.

    Raises:
        ValueError: it is not given, and there is none to make it of.
    """
    return parameters.secret or run_secret(load_secret(None, os.environ), parameters.run_id)


def _place(endpoint: str) -> tuple[str, int]:
    """Return host and port to listen on."""
    if not endpoint:
        return _LOOPBACK, 0
    try:
        return parse_endpoint(endpoint, _DEFAULT_PORT)
    except ValueError as error:
        raise ValueError(f"rdzv_endpoint={endpoint}: {error}") from None


def _memory_store() -> Store:
    from asyncrpc.store import MemoryStore  # noqa: PLC0415 -- slow, and often not needed

    return MemoryStore()


def _report_failure(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and (error := serving.exception()) is not None:
        _logger.error("the run's store could not be served: %s", error, exc_info=error)
