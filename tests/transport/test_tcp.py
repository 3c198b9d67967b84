"""TCP: real addresses, real refusals."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from asyncrpc.transport import Address, SocketNetwork
from tests.transport.links import TIMEOUT, Recorder, recorder, serving

pytestmark = pytest.mark.asyncio

ANY_PORT = Address.parse("tcp://127.0.0.1:0")


async def test_port_0_asks_for_a_free_one() -> None:
    """The listener says which port it got; two have different ones."""
    async with serving(SocketNetwork(), ANY_PORT) as one, serving(SocketNetwork(), ANY_PORT) as two:
        near, far = await one.pair()

        assert 0 not in {one.address.port, two.address.port}
        assert one.address != two.address
        assert near.peer == str(one.address)
        assert near.local == far.peer
        assert far.local == f"127.0.0.1:{one.address.port}"
        near.abort()


async def test_ipv6() -> None:
    """An IPv6 address is listened on and printed in brackets."""
    async with serving(SocketNetwork(), Address.parse("tcp://[::1]:0")) as server:
        near, far = await server.pair()
        near.write(b"six")

        assert await recorder(far).received(3) == b"six"
        assert near.peer == f"tcp://[::1]:{server.address.port}"
        assert far.local == f"[::1]:{server.address.port}"
        near.abort()


async def test_host_of_several_addresses_gets_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """With port 0 the first address alone is bound: each would get a port of its own."""
    loop = asyncio.get_running_loop()
    resolve = loop.getaddrinfo

    async def both(host: str, port: int, **options: int) -> object:
        if host != "two.test":
            return await resolve(host, port, **options)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        ]

    try:
        monkeypatch.setattr(loop, "getaddrinfo", both)
    except AttributeError:
        pytest.skip("uvloop's methods cannot be replaced")
    async with serving(SocketNetwork(), Address.parse("tcp://two.test:0")) as server:
        port = server.address.port
        assert server.address.host == "two.test"
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("::1", port)).close()


async def test_refused_connection_names_the_address() -> None:
    """Nobody listens: the error says where, and why in the system's words."""
    with socket.socket() as taken:  # bound and not listening, so nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"{address}: connection refused") as caught:
            await SocketNetwork().connect(Address.parse(address), Recorder(), timeout=TIMEOUT)

    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_silence_names_the_address() -> None:
    """A listener whose queue is full does not answer: the error says where and how long."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = Address.parse(f"tcp://127.0.0.1:{full.getsockname()[1]}")
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        try:
            with pytest.raises(TimeoutError, match=f"no answer from {address} within 0.05 s"):
                await SocketNetwork().connect(address, Recorder(), timeout=0.05)
        finally:
            for sock in waiting:
                sock.close()


@pytest.mark.parametrize("host", ["x" * 300, "a..b"])
async def test_host_that_is_none(host: str) -> None:
    """A name that cannot be looked up is named, for connecting and for listening."""
    address = Address.parse(f"tcp://{host}:1")
    with pytest.raises(ConnectionError, match=f"cannot connect to tcp://{host}:1"):
        await SocketNetwork().connect(address, Recorder(), timeout=TIMEOUT)
    with pytest.raises(OSError, match=f"cannot listen on tcp://{host}:1"):
        await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)


async def test_host_that_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver's errors have numbers of their own, and words."""

    async def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fail)
    with pytest.raises(ConnectionError, match="connect to tcp://h:1: name or service not known"):
        await SocketNetwork().connect(Address.parse("tcp://h:1"), Recorder(), timeout=TIMEOUT)


async def test_address_of_another_machine() -> None:
    """An address that is not ours cannot be bound, and the error names it."""
    address = Address.parse("tcp://192.0.2.1:0")
    with pytest.raises(OSError, match=r"listen on tcp://192\.0\.2\.1:0: cannot assign") as caught:
        await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def test_taken_over_socket() -> None:
    """A socket that listens already is served with the connections that wait in it."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as early:
        early.sendall(b"early")
        network = SocketNetwork(listening=listening)
        async with serving(network, Address.parse("tcp://127.0.0.1:1")) as server:
            async with asyncio.timeout(TIMEOUT):
                while not server.streams:
                    await asyncio.sleep(0)

            assert server.address.port == port
            assert await recorder(server.streams[0]).received(5) == b"early"


async def test_other_schemes_are_refused() -> None:
    """Sockets do not serve memory addresses, and tls needs certificates."""
    for text, rule in (
        ("memory://x", "must start with tcp://"),
        ("tls://h:1", "needs tls options"),
    ):
        address = Address.parse(text)
        with pytest.raises(ValueError, match=rule):
            await SocketNetwork().connect(address, Recorder(), timeout=TIMEOUT)
        with pytest.raises(ValueError, match=rule):
            await SocketNetwork().listen(address, lambda _: Recorder(), max_connections=1)


async def test_half_closed_peer() -> None:
    """A peer that says it will send no more ends the stream, after its bytes."""
    async with serving(SocketNetwork(), ANY_PORT) as server:
        with socket.create_connection((server.address.host, server.address.port)) as peer:
            peer.sendall(b"half a fr")
            peer.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(TIMEOUT):
                while not server.streams:
                    await asyncio.sleep(0)
            taking = recorder(server.streams[0])

            assert await taking.ended() is None
            assert taking.data == b"half a fr"


async def test_reset_by_peer() -> None:
    """A reset ends the stream once, with its error."""
    async with serving(SocketNetwork(), ANY_PORT) as server:
        with socket.create_connection((server.address.host, server.address.port)) as peer:
            async with asyncio.timeout(TIMEOUT):
                while not server.streams:
                    await asyncio.sleep(0)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        taking = recorder(server.streams[0])

        assert isinstance(await taking.ended(), ConnectionResetError)
        assert len(taking.ends) == 1


async def test_options_of_both_ends() -> None:
    """Small writes are not held back, nor wait behind megabytes, and a blocked peer has time."""
    async with serving(SocketNetwork(), ANY_PORT) as server:
        near, far = await server.pair()
        for stream in (near, far):
            sock = stream.socket
            assert sock is not None

            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 << 10
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * (256 << 10)
        near.abort()


async def test_many_writes_are_one_system_call() -> None:
    """What is written in one turn arrives in one read, which TCP_NODELAY would split."""
    async with serving(SocketNetwork(), ANY_PORT) as server:
        near, far = await server.pair()
        reads: list[int] = []
        taking = recorder(far)
        taking.on_data = lambda: reads.append(len(taking.data))
        for _ in range(15):
            near.write(b"0123456789")

        assert len(await taking.received(150)) == 150
        assert reads == [150]
        near.abort()
