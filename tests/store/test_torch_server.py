"""`TorchStoreServer` on the wire: what it answers, whom it turns away, what it forgets."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from asyncrpc.errors import StoreConnectionError
from asyncrpc.store import TorchStoreServer
from asyncrpc.testing import VirtualClock
from tests.store import torch_wire as wire
from tests.store.torch_wire import EXCHANGES, REFUSED, RawClient

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def server() -> AsyncIterator[TorchStoreServer]:
    """A server with an empty store."""
    async with TorchStoreServer() as server:
        yield server


async def in_step(client: RawClient) -> None:
    """Require that the next byte the client gets answers what it asks now."""
    client.send(wire.ping(99))

    assert wire.pong(99) == await client.receive(4)


@pytest.mark.parametrize(("sent", "expected"), EXCHANGES.values(), ids=EXCHANGES)
async def test_what_is_sent_at_once(server: TorchStoreServer, sent: bytes, expected: bytes) -> None:
    """Requests may come together; replies come in their order."""
    async with RawClient(server.port) as client:
        client.send(sent)

        assert expected == await client.receive(len(expected))
        await in_step(client)


@pytest.mark.parametrize(("sent", "expected"), EXCHANGES.values(), ids=EXCHANGES)
async def test_what_is_sent_byte_by_byte(
    server: TorchStoreServer, sent: bytes, expected: bytes
) -> None:
    """Each byte in a turn of the loop of its own."""
    async with RawClient(server.port, beginning=b"") as client:
        for byte in wire.VALIDATE + sent:
            client.send(bytes([byte]))
            await asyncio.sleep(0)

        assert expected == await client.receive(len(expected))
        await in_step(client)


@pytest.mark.parametrize("sent", REFUSED.values(), ids=REFUSED)
async def test_what_ends_the_connection(server: TorchStoreServer, sent: bytes) -> None:
    """What is no request, or too large: what came before is done, what comes after is not read."""
    async with RawClient(server.port) as other, RawClient(server.port) as client:
        client.send(wire.add(b"/n", 1) + sent + wire.add(b"/n", 1))
        await client.rest()
        other.send(wire.get(b"/n"))

        assert wire.text(b"1") == await other.receive(9)


@pytest.mark.parametrize("sent", [wire.add(b"/a", 1), wire.barrier(b"/a", 2)])
async def test_counting_what_is_no_number_ends_the_connection(
    server: TorchStoreServer, sent: bytes
) -> None:
    """The dialect has no words for an error; the value stays as it was."""
    async with RawClient(server.port) as other, RawClient(server.port) as client:
        client.send(wire.set_(b"/a", b"text") + sent)
        assert b"" == await client.rest()
        other.send(wire.get(b"/a"))

        assert wire.text(b"text") == await other.receive(12)


async def test_a_connection_that_does_not_begin(caplog: pytest.LogCaptureFixture) -> None:
    """Another beginning ends it unanswered; none at all ends it after a while."""
    clock = VirtualClock()
    async with TorchStoreServer(clock=clock) as server:
        async with RawClient(server.port, beginning=wire.ping(1)) as stranger:
            assert b"" == await stranger.rest()
        assert "began with something else" in caplog.text
        async with (
            RawClient(server.port, beginning=wire.VALIDATE[:-1]) as silent,
            RawClient(server.port) as client,
        ):
            await in_step(client)
            await clock.advance(60)

            assert b"" == await silent.rest()
            await in_step(client)


async def test_a_wait_ends_when_the_last_key_has_come(server: TorchStoreServer) -> None:
    """By whatever request; one that is deleted meanwhile is waited for again."""
    async with RawClient(server.port) as waiting, RawClient(server.port) as other:
        waiting.send(wire.wait(b"/a", b"/b", b"/c", b"/d", b"/e", b"/f"))
        await in_step(waiting)
        other.send(wire.set_(b"/a", b"") + wire.append(b"/b", b"") + wire.add(b"/c", 1))
        other.send(wire.multi_set((b"/d", b""), (b"/e", b"")))
        other.send(wire.delete_key(b"/a") + wire.compare_set(b"/f", b"", b"x"))
        await in_step_after(other, 8 + 8 + 9)
        await in_step(waiting)
        other.send(wire.queue_push(b"/a", b""))

        assert wire.GO_ON == await waiting.receive(1)


async def in_step_after(client: RawClient, count: int) -> None:
    """Skip so many bytes of replies; then as `in_step`."""
    await client.receive(count)
    await in_step(client)


async def test_a_push_wakes_one(server: TorchStoreServer) -> None:
    """Who waits for a queue pops from it next: so many may go on as there are values."""
    async with (
        RawClient(server.port) as first,
        RawClient(server.port) as second,
        RawClient(server.port) as other,
    ):
        for client in (first, second):
            client.send(wire.wait(b"/q"))
            await in_step(client)
        other.send(wire.queue_push(b"/q", b"1"))
        assert wire.GO_ON == await first.receive(1)
        await in_step(second)
        first.send(wire.queue_pop(b"/q"))
        assert wire.number(1) + wire.text(b"1") == await first.receive(17)
        other.send(wire.queue_push(b"/q", b"2"))

        assert wire.GO_ON == await second.receive(1)


async def test_a_barrier_opens_for_all(server: TorchStoreServer) -> None:
    """With the last one who arrives, and then for everybody."""
    async with (
        RawClient(server.port) as first,
        RawClient(server.port) as second,
        RawClient(server.port) as third,
    ):
        for client in (first, second):
            client.send(wire.barrier(b"/x", 3))
            await in_step(client)
        third.send(wire.barrier(b"/x", 3) * 2)

        assert wire.GO_ON * 2 == await third.receive(2)
        assert wire.GO_ON == await first.receive(1) == await second.receive(1)


async def test_who_is_gone_waits_no_more(server: TorchStoreServer) -> None:
    """With its connection all goes that a client has asked for; its keys stay."""
    async with RawClient(server.port) as other:
        async with RawClient(server.port) as client:
            client.send(wire.wait(b"/a") + wire.barrier(b"/x", 3) + wire.add(b"/n", 1))
            await client.receive(8)
            assert 1 == server.debug_info()["waiting"] == server.debug_info()["arrived"]
        while server.debug_info()["connections"] > 1:
            await in_step(other)

        assert 0 == server.debug_info()["waiting"] == server.debug_info()["arrived"]
        assert 2 == server.debug_info()["keys"]


async def test_a_cancel_that_meets_the_end_of_the_wait(server: TorchStoreServer) -> None:
    """A thousand times: what the client reads up to WAIT_CANCELED is one byte, or two."""
    chance = random.Random(1)
    lengths = set()
    async with RawClient(server.port) as client, RawClient(server.port) as other:
        for turn in range(1000):
            key = b"/%d" % turn
            client.send(wire.wait(key))
            await asyncio.sleep(0)
            first, second = (client, wire.CANCEL_WAIT), (other, wire.set_(key, b"1"))
            if chance.random() < 0.5:
                first, second = second, first
            first[0].send(first[1])
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            second[0].send(second[1])
            answer = await client.receive(1)
            if answer == wire.GO_ON:
                answer += await client.receive(1)
            lengths.add(len(answer))
            await in_step(client)

            assert answer in (wire.CANCELED, wire.GO_ON + wire.CANCELED)
    assert {1, 2} == lengths
    assert 0 == server.debug_info()["waiting"]


async def test_a_client_that_does_not_read(server: TorchStoreServer) -> None:
    """Its requests are not read either, so that no replies pile up; then it gets all of them."""
    size, count = 1 << 20, 64
    async with RawClient(server.port) as slow, RawClient(server.port) as other:
        other.send(wire.set_(b"/a", bytes(size)))
        await in_step(other)
        slow.send(wire.get(b"/a") * count)
        await slow.drain()
        await in_step(other)
        sessions = server._sessions
        held = [session.stream.unsent for session in sessions]
        assert max(held) < 8 * size

        assert wire.text(bytes(size)) * count == await slow.receive((8 + size) * count)
        await in_step(slow)


async def test_a_value_may_grow_beyond_one_request(server: TorchStoreServer) -> None:
    """As with torch's own server: the limit is one of requests."""
    piece = bytes(8 << 20)
    async with RawClient(server.port) as client:
        client.send(wire.append(b"/a", piece) + wire.append(b"/a", b"end") + wire.get(b"/a"))

        assert wire.text(piece + b"end") == await client.receive(8 + len(piece) + 3)


async def test_it_serves_once() -> None:
    """It has a real port once it was started; a taken one is named; the end is for good."""
    async with TorchStoreServer() as server:
        assert server.port > 0
        assert repr(server) == f"<TorchStoreServer tcp://127.0.0.1:{server.port}>"
        with pytest.raises(RuntimeError, match="only once"):
            await server.start()
        with pytest.raises(StoreConnectionError, match=str(server.port)) as caught:
            await TorchStoreServer(port=server.port).start()
        assert caught.value.errno == errno.EADDRINUSE
        async with RawClient(server.port) as client:
            client.send(wire.wait(b"/a"))
            await in_step(client)
            await server.close()
            await server.close()

            assert b"" == await client.rest()
    with pytest.raises(RuntimeError, match="only once"):
        await server.start()
