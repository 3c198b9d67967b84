"""The server against strangers, bad bytes, slow readers and its own limits."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from asyncrpc.errors import (
    AuthenticationError,
    RemoteProtocolError,
    StoreConnectionError,
    StoreError,
)
from asyncrpc.store import TCPStore, TCPStoreServer
from asyncrpc.store.codec import Packer
from asyncrpc.store.commands import NO_VERSION, Command, Get, Ping, Set, Watch
from asyncrpc.store.dialing import Credentials, Dialer
from asyncrpc.testing import VirtualClock
from asyncrpc.transport import Address, SocketNetwork, Stream

pytestmark = pytest.mark.asyncio

SECRET = b"0123456789abcdef"


class RawClient:
    """An authenticated connection on which tests write and read bytes themselves."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.received = bytearray()
        self.closed = asyncio.Event()
        self._room = memoryview(bytearray(1 << 16))
        self._news = asyncio.Event()

    def get_buffer(self, size_hint: int) -> memoryview:
        return self._room

    def buffer_updated(self, count: int) -> None:
        self.received += self._room[:count]
        self._news.set()

    def stream_closed(self, error: Exception | None) -> None:
        self.closed.set()

    def write_ready(self) -> None:
        pass

    async def send(self, *items: tuple[int, Command]) -> None:
        self.stream.write(Packer().requests(list(items)))

    async def until_received(self, part: bytes) -> None:
        searched = 0
        while self.received.find(part, searched) < 0:
            searched = max(0, len(self.received) - len(part))
            self._news.clear()
            await self._news.wait()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[TCPStoreServer]:
    """A server with small limits."""
    async with TCPStoreServer(secret=SECRET, max_value=1000, handshake_timeout=0.2) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: TCPStoreServer) -> AsyncIterator[TCPStore]:
    """A well-behaved client of it."""
    async with await TCPStore.connect(server.host, server.port, secret=SECRET) as client:
        yield client


@contextlib.asynccontextmanager
async def raw(server: TCPStoreServer) -> AsyncIterator[RawClient]:
    """Connect and authenticate, no more."""
    credentials = Credentials.load(SECRET, None)
    dialer = Dialer(SocketNetwork(), Address("tcp", server.host, server.port), credentials)
    stream, _, leftover = await dialer.dial(5, 5)
    raw_client = RawClient(stream)
    stream.attach(raw_client, leftover)
    try:
        yield raw_client
    finally:
        stream.abort()
        await stream.wait_closed()


async def test_it_listens_on_a_free_port() -> None:
    """Port 0 becomes the real one; a second start and a start after the end are refused."""
    async with TCPStoreServer(secret=SECRET) as server:
        assert server.host == "127.0.0.1"
        assert server.port > 0
        with pytest.raises(RuntimeError, match="only once"):
            await server.start()
    await server.close()
    with pytest.raises(RuntimeError, match="only once"):
        await server.start()


async def test_an_address_in_use_is_named(server: TCPStoreServer) -> None:
    """The error names the address and has the number of the reason."""
    with pytest.raises(StoreConnectionError, match=f"127.0.0.1:{server.port}.*in use") as caught:
        await TCPStoreServer(port=server.port, secret=SECRET).start()

    assert getattr(caught.value, "errno", None) == errno.EADDRINUSE
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"port": -1}, "port"),
        ({"port": 70_000}, "port"),
        ({"port": "80"}, "port"),
        ({"host": ""}, "host"),
        ({"secret": b"short"}, "secret"),
        ({"secret": b"", "host": "0.0.0.0"}, "secret"),
        ({"max_value": 0}, "max_value"),
        ({"grace": -1}, "grace"),
        ({"max_connections": 0}, "max_connections"),
    ],
)
async def test_bad_arguments_are_named(arguments: dict[str, object], field: str) -> None:
    """Each bad argument is a ValueError that names it."""
    with pytest.raises(ValueError, match=f"^{field} "):
        TCPStoreServer(**{"secret": SECRET, **arguments})  # type: ignore[arg-type] # wrong on purpose


async def test_an_empty_secret_serves_loopback_only() -> None:
    """Without a secret a store on loopback works; a client with a secret is turned away."""
    async with TCPStoreServer(secret=b"") as server:
        async with await TCPStore.connect(server.host, server.port, secret=b"") as client:
            await client.set("k", "v")
        with pytest.raises(AuthenticationError):
            await TCPStore.connect(server.host, server.port, secret=SECRET)
    with pytest.raises(ValueError, match=r"^secret "):
        await TCPStore.connect("192.0.2.1", 1, secret=b"")


async def test_a_wrong_secret_is_refused_at_once(
    server: TCPStoreServer, client: TCPStore, caplog: pytest.LogCaptureFixture
) -> None:
    """AuthenticationError comes without waiting for the time-out; the log has one line."""
    with caplog.at_level(logging.WARNING, "asyncrpc.store"):
        for _ in range(3):
            async with asyncio.timeout(5):
                with pytest.raises(AuthenticationError):
                    await TCPStore.connect(server.host, server.port, secret=b"another secret!!")
        await client.set("k", "v")

    assert len(caplog.records) == 1
    assert b"another" not in caplog.text.encode()


async def test_another_run_is_refused() -> None:
    """A client of another run id is turned away, the same one is let in."""
    async with TCPStoreServer(secret=SECRET, run_id="one") as server:
        with pytest.raises(AuthenticationError, match="another run"):
            await TCPStore.connect(server.host, server.port, secret=SECRET, run_id="two")
        async with await TCPStore.connect(
            server.host, server.port, secret=SECRET, run_id="one"
        ) as client:
            await client.set("k", "v")


async def test_the_run_id_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument the run id is $TORCHELASTIC_RUN_ID."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "seven")
    async with TCPStoreServer(secret=SECRET) as server:
        monkeypatch.delenv("TORCHELASTIC_RUN_ID")
        with pytest.raises(AuthenticationError):
            await TCPStore.connect(server.host, server.port, secret=SECRET)


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 600, b"\xff" * 5, struct.pack("<BI", 0, 0x3C85F7CE)],
)
async def test_hostile_first_bytes_are_turned_away(
    server: TCPStoreServer, client: TCPStore, first: bytes
) -> None:
    """Whoever does not speak the handshake is closed; others are served on."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(first)
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()

    assert await client.add("n", 1) == 1


async def test_a_silent_stranger_is_dropped(server: TCPStoreServer) -> None:
    """Who says nothing is closed after the handshake's time-out."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", 0),
        struct.pack(">I", 3) + b"abc",
        struct.pack(">I", 3000) + b"\x91" * 3000,
        Packer().replies([(1, 99, [])]),
        Packer().replies([(1, 0, ["key", 5, 0])]),
    ],
)
async def test_bad_bytes_close_their_connection_only(
    server: TCPStoreServer, client: TCPStore, garbage: bytes
) -> None:
    """A peer that breaks the protocol is closed; what it asked before was done."""
    async with raw(server) as bad, asyncio.timeout(5):
        await bad.send((1, Set("before", b"x", 0)))
        bad.stream.write(garbage)
        await bad.closed.wait()

    assert await client.add("n", 1) == 1
    assert server.debug_info()["connections"] == 1


async def test_half_a_frame_does_nothing(server: TCPStoreServer, client: TCPStore) -> None:
    """A frame that ends with the connection is not carried out, and leaves nothing behind."""
    async with raw(server) as half:
        whole = Packer().requests([(1, Set("half", b"x" * 100, 0))])
        half.stream.write(whole[:-1])
        half.stream.close()
        await half.stream.wait_closed()
    while server.debug_info()["connections"] > 1:
        await client.num_keys()

    assert await client.check(["half"]) is False


async def test_a_gone_client_leaves_no_waiters(server: TCPStoreServer, client: TCPStore) -> None:
    """Waiters, watches and pops of a connection that is cut are withdrawn."""
    async with raw(server) as doomed:
        await doomed.send((1, Get("k", 100.0)), (2, Watch("", NO_VERSION)), (3, Ping()))
        await doomed.until_received(b"\x03")
        assert server.debug_info()["waiting"] == 2
    while server.debug_info()["connections"] > 1:
        await client.num_keys()

    assert server.debug_info()["waiting"] == 0


async def test_the_servers_limit_holds_for_its_clients(
    server: TCPStoreServer, client: TCPStore
) -> None:
    """A value beyond the server's limit is a StoreError; the connection goes on."""
    with pytest.raises(StoreError, match="1001 bytes"):
        await client.set("k", b"x" * 1001)

    await client.set("k", b"x" * 1000)


async def test_a_watch_that_does_not_read_ends(
    server: TCPStoreServer, client: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events wait for a slow reader up to a limit; then its watch ends with an error."""
    monkeypatch.setattr("asyncrpc.store.server._MAX_EVENTS", 50)
    async with raw(server) as slow:
        sock = slow.stream.socket
        assert sock is not None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await slow.send((1, Watch("", NO_VERSION)), (2, Ping()))
        await slow.until_received(b"\x02")
        slow.stream.pause_reading()
        value = b"x" * 1000
        while server.debug_info()["waiting"]:
            await asyncio.gather(*(client.set("k", value) for _ in range(200)))
        slow.stream.resume_reading()
        async with asyncio.timeout(10):
            await slow.until_received(b"fell behind")

    assert await client.get("k") == value


async def test_the_past_waits_for_a_client_that_does_not_read(
    server: TCPStoreServer, client: TCPStore
) -> None:
    """Nothing piles up at the server, and nothing is missing when it reads again."""
    value = b"x" * 900
    for number in range(200):
        await client.multi_set([f"{number}/{index}" for index in range(100)], [value] * 100)
    async with raw(server) as slow:
        slow.stream.pause_reading()
        await slow.send((1, Watch("", 0)))
        while not server.debug_info()["waiting"]:
            await client.num_keys()
        for _ in range(50):
            await client.num_keys()
        sessions = [session for session in server._sessions if session._behind or session.replies]
        assert sessions
        assert sum(session._events for session in sessions) <= 2048
        await client.set("end", "reached")
        slow.stream.resume_reading()
        async with asyncio.timeout(10):
            await slow.until_received(b"reached")
        assert slow.received.count(value) == 20_000


async def test_requests_of_a_client_that_does_not_read_wait(
    server: TCPStoreServer, client: TCPStore
) -> None:
    """A client that asks for much and takes nothing is not read further; all comes in the end."""
    await client.set("k", b"x" * 1000)
    count = 10_000
    async with raw(server) as greedy:
        greedy.stream.pause_reading()
        packer = Packer()
        for start in range(0, count, 100):
            batch = [(start + index + 1, Get("k", 0.0)) for index in range(100)]
            greedy.stream.write(packer.requests(list(batch)))
        for _ in range(20):
            await client.num_keys()
        [session] = [item for item in server._sessions if item.stream.unsent]
        assert session.stream.unsent < 2_000_000
        greedy.stream.resume_reading()
        async with asyncio.timeout(10):
            await greedy.until_received(struct.pack(">BH", 0xCD, count))

    assert greedy.received.count(b"x" * 1000) == count


async def test_leases_survive_a_server_that_stood_still() -> None:
    """A timer that comes late waits for renewals that are in the sockets already."""
    clock = VirtualClock()
    async with (
        TCPStoreServer(secret=SECRET, clock=clock) as server,
        await TCPStore.connect(server.host, server.port, secret=SECRET) as client,
    ):
        expiry = server._expiry
        async with client.lease(10) as lease:
            await client.set("k", "v", lease=lease)
            expiry._due = -5.0  # as if it should have fired 15 s ago
            server._table._leases._leases[lease.id].deadline = -5.0
            expiry._fire()
            assert await client.check(["k"]) is True
            await client.renew_lease(lease)
            await clock.advance(1.0)

            assert await client.check(["k"]) is True


async def test_too_many_clients_are_turned_away() -> None:
    """A connection beyond the limit is closed, and its client says so."""
    async with (
        TCPStoreServer(secret=SECRET, max_connections=1) as server,
        await TCPStore.connect(server.host, server.port, secret=SECRET),
    ):
        with pytest.raises(StoreConnectionError) as caught:
            await TCPStore.connect(server.host, server.port, 0.3, secret=SECRET)

    assert isinstance(caught.value.__cause__, RemoteProtocolError)


async def test_closing_ends_clients_at_once() -> None:
    """Clients of a server that closes hear of it: what waits fails without a retry."""
    async with (
        TCPStoreServer(secret=SECRET) as server,
        await TCPStore.connect(server.host, server.port, secret=SECRET) as client,
    ):
        waiting = asyncio.create_task(client.get("k"))
        watch = client.watch("")
        await client.num_keys()
        await server.close()
        async with asyncio.timeout(1):
            with pytest.raises(StoreConnectionError, match=f"{server.port}.*was closed"):
                await waiting
            with pytest.raises(StoreConnectionError):
                await anext(watch)
            with pytest.raises(StoreConnectionError):
                await client.set("k", "v")


async def test_it_can_wait_for_its_clients(server: TCPStoreServer) -> None:
    """`wait_unused` takes no new clients, and returns when the last one has gone or time is up."""
    client = await TCPStore.connect(server.host, server.port, secret=SECRET)
    assert await server.wait_unused(0.01) is False
    with pytest.raises(StoreConnectionError):
        await TCPStore.connect(server.host, server.port, 0.1, secret=SECRET)
    await client.set("k", "v")
    waiting = asyncio.create_task(server.wait_unused(5))
    await client.close()

    assert await waiting is True
    assert await server.wait_unused(0) is True


async def test_the_contents_are_what_hangs_on_no_lease(server: TCPStoreServer) -> None:
    """Values and queues, copied: what happens later does not change them."""
    async with await TCPStore.connect("127.0.0.1", server.port, 5.0, SECRET) as store:
        async with store.lease(60.0) as lease:
            await store.multi_set(["a", "b"], ["1", "2"])
            await store.set("b", "3", lease=lease)
            await store.queue_push("queue", "4")
            contents = server.contents()
            await store.queue_push("queue", "5")

    assert contents == ({"a": b"1"}, {"queue": [b"4"]})
