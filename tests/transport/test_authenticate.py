"""Handshakes over streams: who gets in, how long it may take, and what becomes of other bytes."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import pytest

from asyncrpc.errors import AuthenticationError, RemoteProtocolError
from asyncrpc.secret import run_digest, run_key
from asyncrpc.testing import VirtualClock
from asyncrpc.transport import (
    Address,
    Greeter,
    Network,
    SocketNetwork,
    Stream,
    authenticate,
    memory_pair,
)
from asyncrpc.wire import Handshake, HandshakeRefused, Hello, Purpose
from tests.transport.links import TIMEOUT, Recorder, recorder, serving

pytestmark = pytest.mark.asyncio

KEY = run_key(b"sixteen bytes ok", "run")
OTHER_KEY = run_key(b"another secret!!", "run")
ANY_PORT = Address.parse("tcp://127.0.0.1:0")


def handshake(name: str, *, is_client: bool, key: bytes = KEY, **options: Any) -> Handshake:
    """Return one side's machine."""
    hello = Hello(
        purpose=Purpose.RPC,
        run_id=run_digest("run"),
        incarnation=name.encode().ljust(16),
        host=b"h" * 16,
        features=0,
        name=name,
        worker_id=0,
        flags=0,
    )
    return Handshake(key=key, hello=hello, is_client=is_client, **options)


class Gate:
    """A listener that authenticates who connects and keeps what came of it."""

    def __init__(self, timeout: float = TIMEOUT, **options: Any) -> None:
        self.outcomes: asyncio.Queue[tuple[Stream, Greeter, Hello | Exception]] = asyncio.Queue()
        self._timeout = timeout
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._tasks)

    def accept(self, stream: Stream) -> Greeter:
        greeter = Greeter(handshake("server", is_client=False, **self._options), stream)
        self._tasks.add(asyncio.create_task(self._greet(greeter, stream)))
        return greeter

    async def _greet(self, greeter: Greeter, stream: Stream) -> None:
        try:
            outcome: Hello | Exception = await greeter.greet(stream, self._timeout)
        except (AuthenticationError, RemoteProtocolError, TimeoutError) as error:
            outcome = error
        self.outcomes.put_nowait((stream, greeter, outcome))


async def dial(network: Network, address: Address, machine: Handshake) -> tuple[Stream, Hello]:
    """Connect and authenticate."""
    greeter = Greeter(machine)
    stream = await network.connect(address, greeter, timeout=TIMEOUT)
    return stream, await greeter.greet(stream, TIMEOUT)


async def test_both_sides_get_to_know_each_other(place: tuple[Network, Address]) -> None:
    """Each side gets the other's hello; handlers put on then get what is sent."""
    network, address = place
    async with Gate() as gate:
        listener = await network.listen(address, gate.accept, max_connections=1)
        near, server = await dial(network, listener.address, handshake("client", is_client=True))
        far, greeter, client = await gate.outcomes.get()

        assert isinstance(client, Hello)
        assert (server.name, client.name) == ("server", "client")
        near.attach(Recorder())
        far.attach(Recorder(), greeter.handshake.leftover)
        near.write(b"ping")
        far.write(b"pong")
        assert await recorder(far).received(4) == b"ping"
        assert await recorder(near).received(4) == b"pong"
        near.close()
        await far.wait_closed()
        await listener.close()


@pytest.mark.parametrize("size", [1, 100, 5000, 100_000])
async def test_bytes_behind_the_handshake_are_kept(
    place: tuple[Network, Address], size: int
) -> None:
    """What comes with the last message of the handshake, or after it, goes to the next handler."""
    network, address = place
    rest = bytes(index % 251 for index in range(size))
    machine = handshake("client", is_client=True)

    class Eager(Greeter):
        """A client that sends its first bytes with its proof, as it may not wait."""

        def buffer_updated(self, count: int) -> None:
            super().buffer_updated(count)
            if not sent:
                sent.append(True)
                streams[0].write(rest)

    async with Gate() as gate:
        listener = await network.listen(address, gate.accept, max_connections=1)
        sent: list[bool] = []
        streams: list[Stream] = []
        greeter = Eager(machine)
        streams.append(await network.connect(listener.address, greeter, timeout=TIMEOUT))
        await greeter.greet(streams[0], TIMEOUT)
        far, other, _ = await gate.outcomes.get()
        taking = Recorder()
        far.attach(taking, other.handshake.leftover)

        assert await taking.received(size) == rest
        streams[0].abort()
        await far.wait_closed()
        await listener.close()


async def test_wrong_secret(place: tuple[Network, Address]) -> None:
    """Both sides learn that it is the secret, and both streams end."""
    network, address = place
    async with Gate() as gate:
        listener = await network.listen(address, gate.accept, max_connections=1)
        with pytest.raises(AuthenticationError):
            await dial(
                network, listener.address, handshake("client", is_client=True, key=OTHER_KEY)
            )
        far, _, outcome = await gate.outcomes.get()

        assert isinstance(outcome, AuthenticationError)
        await far.wait_closed()
        await listener.close()


async def test_refused_by_the_server(place: tuple[Network, Address]) -> None:
    """A server may turn down who it knows; the reason arrives."""
    network, address = place
    async with Gate(authorize=lambda _: "not today") as gate:
        listener = await network.listen(address, gate.accept, max_connections=1)
        with pytest.raises(HandshakeRefused) as caught:
            await dial(network, listener.address, handshake("client", is_client=True))
        far, _, outcome = await gate.outcomes.get()

        assert caught.value.reason == "not today"
        assert isinstance(outcome, HandshakeRefused)
        await far.wait_closed()
        await listener.close()


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000, b"ARPC" * 2000])
async def test_garbage(garbage: bytes) -> None:
    """A stranger's bytes end that connection with a protocol error, the rest unread."""
    async with Gate() as gate:
        listener = await SocketNetwork().listen(ANY_PORT, gate.accept, max_connections=10)
        address = listener.address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(garbage)
        _, _, outcome = await gate.outcomes.get()
        while await read_quietly(reader):
            pass

        assert isinstance(outcome, RemoteProtocolError)
        writer.transport.abort()
        stream, _ = await dial(SocketNetwork(), address, handshake("client", is_client=True))
        far, _, _ = await gate.outcomes.get()
        stream.abort()
        far.abort()
        await far.wait_closed()
        await listener.close()


async def read_quietly(reader: asyncio.StreamReader) -> bytes:
    """Read until the end, however it comes."""
    try:
        return await reader.read(1000)
    except ConnectionError:
        return b""


async def test_server_that_speaks_first() -> None:
    """A server of another protocol that greets at once is no silence but a protocol error."""
    async with serving(SocketNetwork(), ANY_PORT) as server:
        machine = handshake("client", is_client=True)
        greeter = Greeter(machine)
        near = await server.network.connect(server.address, greeter, timeout=TIMEOUT)
        async with asyncio.timeout(TIMEOUT):
            while not server.streams:
                await asyncio.sleep(0)
            server.streams[0].write(b"220 mail.test ESMTP ready\r\n")
            while not greeter._early:
                await asyncio.sleep(0)

        with pytest.raises(RemoteProtocolError):
            await greeter.greet(near, TIMEOUT)
        await near.wait_closed()


@pytest.mark.parametrize("is_client", [True, False])
async def test_silence(is_client: bool) -> None:
    """A peer that says nothing costs the given time and not more; the error names it."""
    async with serving(SocketNetwork(), ANY_PORT) as server:
        near, far = await server.pair()
        silent, waiting = (far, near) if is_client else (near, far)
        with pytest.raises(TimeoutError, match=r"did not finish the handshake in 0.05 s") as caught:
            await authenticate(waiting, handshake("me", is_client=is_client), 0.05)

        assert waiting.peer in str(caught.value)
        await waiting.wait_closed()
        await recorder(silent).ended()


async def test_silence_on_another_clock() -> None:
    """The time is that of the clock which was given."""
    clock = VirtualClock()
    near, far = memory_pair(Recorder(), Recorder())
    greeter = Greeter(handshake("me", is_client=True))
    far.handler = greeter
    task = asyncio.create_task(greeter.greet(far, 100, clock))
    await clock.advance(99)
    early = task.done()
    await clock.advance(2)
    with pytest.raises(TimeoutError, match="in 100 s"):
        await task
    await near.wait_closed()

    assert not early


async def test_one_byte_at_a_time_is_no_way_to_stay() -> None:
    """The time is for the whole handshake, not for each byte."""
    async with serving(SocketNetwork(), ANY_PORT) as server:
        near, far = await server.pair()
        task = asyncio.create_task(
            authenticate(far, handshake("server", is_client=False), 0.1)
        )  # fmt: skip
        for byte in handshake("client", is_client=True).start()[:-1]:
            near.write(bytes([byte]))
            await asyncio.sleep(0)

        with pytest.raises(TimeoutError):
            await task
        await far.wait_closed()


@pytest.mark.parametrize("sent", [0, 1, 50])
async def test_peer_that_closes_within(place: tuple[Network, Address], sent: int) -> None:
    """A peer that leaves before the end is named in a protocol error at once."""
    async with serving(*place) as server:
        near, far = await server.pair()
        task = asyncio.create_task(authenticate(far, handshake("server", is_client=False)))
        await asyncio.sleep(0)
        near.write(handshake("client", is_client=True).start()[:sent])
        near.close()

        with pytest.raises(RemoteProtocolError, match="closed the connection during the handshake"):
            await task
        await far.wait_closed()


async def test_greeting_may_be_cancelled(place: tuple[Network, Address]) -> None:
    """Who gives up in the middle of a handshake leaves no stream behind."""
    async with serving(*place) as server:
        near, far = await server.pair()
        task = asyncio.create_task(authenticate(near, handshake("client", is_client=True)))
        await recorder(far).received(1)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await near.wait_closed()
        await recorder(far).ended()


async def test_stream_that_nobody_greets() -> None:
    """A greeter whose stream breaks before it is asked complains to nobody."""
    async with serving(SocketNetwork(), ANY_PORT) as server:
        greeter = Greeter(handshake("client", is_client=True))
        near = await server.network.connect(server.address, greeter, timeout=TIMEOUT)
        async with asyncio.timeout(TIMEOUT):
            while not server.streams:
                await asyncio.sleep(0)
        server.streams[0].abort()
        await near.wait_closed()

        with pytest.raises(RemoteProtocolError, match="closed the connection"):
            await greeter.greet(near, TIMEOUT)
