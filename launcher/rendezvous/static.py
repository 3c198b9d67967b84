"""The static backend: all nodes are there from the start, and the user says who has which rank.

MASTER_ADDR and MASTER_PORT are the endpoint, in every round, for rank 0's workers to listen at. So
nothing of ours can: several nodes meet at the port next to it. Made by the registry for ``static``.
"""

from __future__ import annotations

from launcher.rendezvous.base import RendezvousHandler, RendezvousParameters, RendezvousStoreInfo
from launcher.rendezvous.endpoint import parse_endpoint
from launcher.rendezvous.settings import Settings, read_settings
from launcher.rendezvous.tcp import TcpRendezvous, run_secret_of

__all__ = ("create_handler",)

_LAST_PORT = 65535


def create_handler(parameters: RendezvousParameters) -> RendezvousHandler:
    """Make the handler of a run.

    Args:
        parameters: of the run; ``max_nodes`` take part. The endpoint needs a port, and several
            nodes need the setting ``rank``.

    Returns:
        A `TcpRendezvous` for one node, a `DynamicRendezvous` for several.

    Raises:
        ValueError: endpoint or settings break their rule, or there is no secret.
    """
    settings = read_settings(parameters)
    master = _master(parameters.endpoint)
    if parameters.max_nodes == 1:
        return TcpRendezvous(parameters, master)
    if settings.rank is None:
        raise ValueError(
            f"node_rank: expected the rank of this node, from 0 to {parameters.max_nodes - 1}"
        )
    return _shared(parameters, settings, settings.rank, master)


def _shared(
    parameters: RendezvousParameters, settings: Settings, rank: int, master: RendezvousStoreInfo
) -> RendezvousHandler:
    from launcher.rendezvous.dynamic import DynamicRendezvous  # noqa: PLC0415 -- for several nodes
    from launcher.rendezvous.place import TcpPlace  # noqa: PLC0415 -- brings the store

    host, port = master
    place = TcpPlace(
        host,
        port + 1 if port < _LAST_PORT else port - 1,
        run_secret_of(parameters),
        parameters.run_id,
        local_addr=parameters.local_addr,
        is_host=rank == 0 if settings.is_host is None else settings.is_host,
        read_timeout=settings.read_timeout,
    )
    return DynamicRendezvous(
        parameters, settings, place, min_nodes=parameters.max_nodes, master=master
    )


def _master(endpoint: str) -> RendezvousStoreInfo:
    if not endpoint:
        raise ValueError("rdzv_endpoint=: expected host:port, or --master-addr and --master-port")
    try:
        host, port = parse_endpoint(endpoint, 0)
    except ValueError as error:
        raise ValueError(f"rdzv_endpoint={endpoint}: {error}") from None
    if port == 0:
        raise ValueError(f"rdzv_endpoint={endpoint}: expected a port, from 1 to {_LAST_PORT}")
    return RendezvousStoreInfo("127.0.0.1" if host == "localhost" else host, port)
