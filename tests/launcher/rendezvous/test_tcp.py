"""`launcher.rendezvous.tcp`: rounds of one node, and the run's store behind them."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asyncrpc.errors import AuthenticationError
from asyncrpc.store import TCPStore
from launcher.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousParameters,
)
from launcher.rendezvous.tcp import TcpRendezvous

pytestmark = pytest.mark.asyncio

SECRET = b"s" * 32


@asynccontextmanager
async def rendezvous(endpoint: str = "", **config: Any) -> AsyncIterator[TcpRendezvous]:
    """Give a handler that is shut down at the end."""
    handler = TcpRendezvous(
        RendezvousParameters("tcp", endpoint, "run", 1, 1, secret=SECRET, **config)
    )
    try:
        yield handler
    finally:
        await handler.shutdown()


async def connect(url: str, secret: bytes = SECRET, run_id: str = "run") -> TCPStore:
    """Return a client of a store."""
    host, port = url.removeprefix("tcp://").rsplit(":", 1)
    return await TCPStore.connect(host.strip("[]"), int(port), 5.0, secret, run_id=run_id)


async def test_every_round_is_of_this_node_and_has_a_port_of_its_own() -> None:
    """Rank 0 of a round never meets what the one before left on a port."""
    async with rendezvous() as handler:
        infos = [await handler.next_rendezvous() for _ in range(3)]

    assert [(info.rank, info.world_size, info.round) for info in infos] == [
        (0, 1, 0),
        (0, 1, 1),
        (0, 1, 2),
    ]
    assert len({info.bootstrap_store_info.master_port for info in infos}) == 3
    assert {info.bootstrap_store_info.master_addr for info in infos} == {"127.0.0.1"}


async def test_rank_0_can_listen_on_its_port() -> None:
    """Nothing of ours holds it."""
    async with rendezvous() as handler:
        store = (await handler.next_rendezvous()).bootstrap_store_info
        with socket.socket() as server:
            server.bind((store.master_addr, store.master_port))
            server.listen()

            assert server.getsockname()[1] == store.master_port


async def test_workers_meet_in_the_store_over_all_rounds() -> None:
    """It is the run's: its keys outlive rounds."""
    async with rendezvous() as handler:
        first = (await handler.next_rendezvous()).store_url
        async with await connect(first) as one, await connect(first) as two:
            await one.set("key", b"value")
            second = (await handler.next_rendezvous()).store_url

            assert second == first
            assert await two.get("key", 5.0) == b"value"


async def test_clients_that_come_before_the_store_are_served() -> None:
    """They wait in the socket; strangers among them are turned away."""
    async with rendezvous() as handler:
        url = (await handler.next_rendezvous()).store_url
        with pytest.raises(AuthenticationError):
            await connect(url, secret=b"x" * 32)
        with pytest.raises(AuthenticationError):
            await connect(url, run_id="another")
        async with await connect(url) as client:
            assert await client.add("n", 2) == 2


async def test_each_round_has_an_agents_store_of_its_own() -> None:
    """Nothing of an earlier round can be read in it."""
    async with rendezvous() as handler:
        one, two = await handler.next_rendezvous(), await handler.next_rendezvous()
        await one.store.set("key", b"1")

        assert await one.store.get("key", 1.0) == b"1"
        assert not await two.store.check(["key"])


async def test_the_endpoint_is_where_the_store_listens() -> None:
    """A name of this host stands for its address."""
    async with rendezvous("localhost:0") as handler:
        url = (await handler.next_rendezvous()).store_url

        assert url.startswith("tcp://127.0.0.1:")


async def test_an_address_in_use_is_an_error_that_names_it() -> None:
    """Nothing is left listening."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        async with rendezvous(address) as handler:
            with pytest.raises(RendezvousConnectionError, match=f"rdzv_endpoint={address}: "):
                await handler.next_rendezvous()


async def test_an_address_of_another_host_is_an_error_that_names_it() -> None:
    """With the reason alone: the address is told once."""
    async with rendezvous("192.0.2.1:4000") as handler:
        with pytest.raises(RendezvousConnectionError) as caught:
            await handler.next_rendezvous()

    assert str(caught.value) == (
        "rdzv_endpoint=192.0.2.1:4000: cannot listen there: Cannot assign requested address"
    )


async def test_a_closed_run_forms_no_round() -> None:
    """Nor does one that was shut down; shutting down twice is harmless."""
    async with rendezvous() as handler:
        assert not await handler.is_closed()
        await handler.set_closed()
        assert await handler.is_closed()
        with pytest.raises(RendezvousClosedError, match="run run is closed"):
            await handler.next_rendezvous()

        assert await handler.shutdown()
        assert await handler.shutdown()


async def test_nobody_waits_for_the_next_round() -> None:
    """A lone node has no spares."""
    async with rendezvous() as handler:
        await handler.next_rendezvous()

        assert await handler.num_nodes_waiting() == 0


async def test_unknown_settings_are_refused() -> None:
    """They would be ignored, and their author would wonder."""
    with pytest.raises(ValueError, match=r"rdzv_conf join_timout: .* mean join_timeout"):
        async with rendezvous(join_timout="1"):
            pass
