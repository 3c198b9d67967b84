"""`launcher.agent.torch_store`: which agent serves the store of a round, where, and how long."""

from __future__ import annotations

import socket

import pytest

from asyncrpc.store import MemoryStore
from launcher.agent.torch_store import RoundStore
from launcher.errors import RendezvousConnectionError
from launcher.rendezvous import RendezvousInfo, RendezvousStoreInfo
from tests.launcher.rendezvous.meeting import free_port
from tests.store import torch_wire as wire
from tests.store.torch_wire import RawClient

pytestmark = pytest.mark.asyncio


def round_of(host: str, port: int, *, rank: int = 0, nodes: int = 1) -> RendezvousInfo:
    """Return a round as an agent of it knows it."""
    return RendezvousInfo(
        rank=rank,
        world_size=nodes,
        bootstrap_store_info=RendezvousStoreInfo(host, port),
        round=0,
        store_url="",
        store=MemoryStore,
    )


def addresses(port: int) -> set[str]:
    """Return the addresses of this host that something listens at."""
    found = set()
    for host in ("127.0.0.1", "127.0.0.2", "::1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            if probe.connect_ex((host, port)) == 0:
                found.add(host)
    return found


async def counted(port: int) -> int:
    """Count this call in the store at the port; return how many there were."""
    async with RawClient(port) as client:
        client.send(wire.add(b"/calls", 1))
        return int.from_bytes(await client.receive(8), "little")


async def test_each_round_has_a_fresh_store() -> None:
    """At the same port too; what is in one is gone with it."""
    port = free_port()
    store = RoundStore()
    await store.begin(round_of("127.0.0.1", port))
    assert 1 == await counted(port)
    assert 2 == await counted(port)
    await store.begin(round_of("127.0.0.1", port))
    assert 1 == await counted(port)
    await store.begin(round_of("127.0.0.1", port, rank=1, nodes=2))

    assert set() == addresses(port)
    await store.end()


@pytest.mark.parametrize(
    ("host", "nodes", "expected"),
    [
        ("127.0.0.2", 1, {"127.0.0.2"}),
        ("127.0.0.2", 2, {"127.0.0.2"}),
        ("no-such-name.invalid", 2, {"127.0.0.1", "127.0.0.2", "::1"}),
        ("192.0.2.1", 2, {"127.0.0.1", "127.0.0.2", "::1"}),  # of documentation, nobody's
    ],
)
async def test_it_listens_where_workers_look_for_it(
    host: str, nodes: int, expected: set[str]
) -> None:
    """At the address they are told; at all, if others know this host by something else."""
    port = free_port()
    store = RoundStore()
    await store.begin(round_of(host, port, nodes=nodes))
    found = addresses(port)
    await store.end()

    assert expected == found


async def test_a_name_means_what_it_means_here_for_one_node() -> None:
    """Workers on the same host look it up in the same place."""
    port = free_port()
    store = RoundStore()
    await store.begin(round_of("localhost", port))
    found = addresses(port)
    await store.end()

    assert len(found & {"127.0.0.1", "::1"}) == 1
    assert "127.0.0.2" not in found


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_taken_port_is_an_error(nodes: int) -> None:
    """It names option and address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RendezvousConnectionError) as caught:
            await RoundStore().begin(round_of("127.0.0.1", port, nodes=nodes))

    assert f"torch_store: cannot listen at 127.0.0.1:{port}: Address already in use" == str(
        caught.value
    )


async def test_one_node_alone_listens_at_its_own_address_only() -> None:
    """An address of others is a mistake then, not a reason to listen to everybody."""
    with pytest.raises(RendezvousConnectionError, match=r"192\.0\.2\.1"):
        await RoundStore().begin(round_of("192.0.2.1", free_port()))
