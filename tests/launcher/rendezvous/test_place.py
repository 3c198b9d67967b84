"""`launcher.rendezvous.place`: who hosts the store of several nodes, and what becomes of it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asyncrpc.errors import StoreConnectionError, StoreTimeoutError
from launcher.errors import RendezvousConnectionError
from launcher.rendezvous.place import SilentStoreError, TcpPlace
from tests.launcher.rendezvous.meeting import SECRET, free_port

pytestmark = pytest.mark.asyncio

OTHER_HOST = "192.0.2.1"  # of a network for documentation: nobody has it


@asynccontextmanager
async def place(
    port: int, host: str = "127.0.0.1", run_id: str = "run", **options: Any
) -> AsyncIterator[TcpPlace]:
    """Give a place that is closed at the end."""
    made = TcpPlace(host, port, SECRET, run_id, **options)
    try:
        yield made
    finally:
        await made.close()
        await made.close()  # harmless


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_first_hosts_and_the_others_connect(host: str) -> None:
    """They share one store, and know it by one URL."""
    port = free_port()
    async with place(port, host) as first, place(port, host) as second:
        one, two = await first.open(5.0), await second.open(5.0)
        await one.set("key", b"value")

        assert await two.get("key", 5.0) == b"value"
        assert (first.is_host, second.is_host) == (True, False)
        assert first.url == second.url == f"tcp://127.0.0.1:{port}"
        assert (first.address, second.address) == ("127.0.0.1", "127.0.0.1")


async def test_an_address_that_was_given_is_the_one_that_others_hear() -> None:
    """Whoever hosts."""
    async with place(free_port(), local_addr="node7") as given:
        await given.open(5.0)

        assert given.address == "node7"


async def test_who_shall_not_host_waits_for_the_host() -> None:
    """It may come later."""
    port = free_port()
    async with place(port, is_host=False) as early, place(port) as host:
        opening = asyncio.create_task(early.open(10.0))
        await asyncio.sleep(0.05)
        await host.open(5.0)
        await opening

        assert (early.is_host, host.is_host) == (False, True)


async def test_who_shall_host_must() -> None:
    """Else everybody would wait for it."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        async with place(port, is_host=True) as host:
            with pytest.raises(RendezvousConnectionError) as caught:
                await host.open(5.0)
    assert str(caught.value) == (
        f"rdzv_endpoint=127.0.0.1:{port}: cannot listen there: Address already in use; "
        "name another port, on every node"
    )
    async with place(port, OTHER_HOST, is_host=True) as host:
        with pytest.raises(RendezvousConnectionError, match="cannot listen there: Cannot assign"):
            await host.open(5.0)


async def test_a_name_that_stands_for_this_host_is_listened_at_everywhere() -> None:
    """In the host's own tables it may stand for loopback, where the others do not look."""
    port = free_port()
    async with place(port, socket.gethostname(), is_host=True) as host:
        await host.open(5.0)
        with socket.create_connection(("127.0.0.3", port), timeout=5.0):
            pass

        assert host.address == socket.gethostname()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return a table of names to fill, of which a name of .test that is missing is not known."""
    table: dict[str, str] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if str(host).endswith(".test") and host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(table.get(host, host), *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("launcher.rendezvous.place._LOOK_AGAIN", 0.02)
    return table


async def test_who_shall_host_needs_no_name(names: dict[str, str]) -> None:
    """It is for the others, and may not be known before this host is up."""
    port = free_port()
    async with place(port, "first.test", is_host=True) as host:
        await host.open(5.0)
        with socket.create_connection(("127.0.0.1", port), timeout=5.0):
            pass

        assert (host.is_host, host.address) == (True, "first.test")


async def test_a_name_may_come_to_be_known_later(
    names: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Who hosts the store is found out then, and the user learns what keeps the launch waiting."""
    port = free_port()
    async with place(port, "late.test") as host:
        opening = asyncio.create_task(host.open(10.0))
        while not caplog.records:
            await asyncio.sleep(0.01)
        names["late.test"] = "127.0.0.1"
        await opening

        assert host.is_host
    assert [record.getMessage() for record in caplog.records] == [
        f"rdzv_endpoint=late.test:{port}: late.test is not known yet; trying for 10 s"
    ]


async def test_a_name_that_never_is_known_is_told(names: dict[str, str]) -> None:
    """When the time to join is up."""
    port = free_port()
    async with place(port, "never.test") as lost:
        with pytest.raises(RendezvousConnectionError) as caught:
            await lost.open(0.1)

    told = f"rdzv_endpoint=never.test:{port}: never.test is not known: Name or service not known"
    assert str(caught.value) == told


async def test_what_nobody_hosts_cannot_be_reached() -> None:
    """The endpoint and the reason are named."""
    port = free_port()
    async with place(port, is_host=False) as early:
        with pytest.raises(
            RendezvousConnectionError, match=rf"rdzv_endpoint=127.0.0.1:{port}: .* refused"
        ):
            await early.open(0.1)


async def test_another_run_at_the_endpoint_is_told() -> None:
    """With what this node takes the run to be."""
    port = free_port()
    async with place(port) as host, place(port, run_id="other") as other:
        await host.open(5.0)
        with pytest.raises(
            RendezvousConnectionError, match=r"another run: .*; this node's rdzv_id is 'other'"
        ):
            await other.open(5.0)


async def test_something_else_at_the_endpoint_is_told() -> None:
    """It answers, but not as a store does."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, place(port) as other:
        with pytest.raises(RendezvousConnectionError, match="speaks HTTP"):
            await other.open(5.0)


async def test_a_lost_store_is_told_with_its_host() -> None:
    """If that is known."""
    port = free_port()
    async with place(port) as any_place:
        named = any_place.lost(OSError("gone"), "node1 (agent 3)")
        unnamed = any_place.lost(OSError("gone"), "")

    where = f"hosts the run's store at 127.0.0.1:{port}, was lost: gone"
    assert str(named) == f"node1 (agent 3), which {where}"
    assert str(unnamed) == f"the node that {where}"


async def test_who_was_in_a_store_begins_no_other_one() -> None:
    """The run may go on in the first one, out of sight."""
    port = free_port()
    async with place(port) as host, place(port) as guest:
        await host.open(5.0)
        await guest.open(5.0)
        await guest.close()
        await host.close()
        with pytest.raises(RendezvousConnectionError, match="refused"):
            await guest.open(0.1)

        assert not guest.is_host


@pytest.mark.parametrize(
    ("error", "is_silence"),
    [
        (TimeoutError(), True),
        (StoreTimeoutError("late", keys=()), True),
        (StoreConnectionError("gone", errno=errno.EHOSTUNREACH), True),
        (StoreConnectionError("gone", errno=errno.ECONNREFUSED), False),
        (StoreConnectionError("it was started anew"), False),
    ],
)
async def test_a_silent_store_may_be_back(error: Exception, is_silence: bool) -> None:
    """One that refuses has gone with its host."""
    async with place(free_port()) as any_place:
        lost = any_place.lost(error, "node1 (agent 3)")

    assert isinstance(lost, SilentStoreError) is is_silence
    assert ("does not answer" in str(lost)) is is_silence
