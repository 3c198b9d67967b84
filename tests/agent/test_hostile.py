"""Strangers and peers that send what they should not: one line in the log, and life goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import Greeter, SocketNetwork
from asyncrpc.wire import ABORT, FIRST, HEADER, MessageType, encode_frame
from tests.agent import targets
from tests.agent.groups import at_rest, link, until

pytestmark = pytest.mark.asyncio

CALL = int(MessageType.PYTHON_CALL)
INTERN = encode_frame(int(MessageType.INTERN), 0, b"tests.agent.targets:echo", function=1)
QUICK = rpc.Limits(handshake_timeout=0.2, max_connections=2000)


class Guest:
    """A raw connection to an agent's port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def come(cls, agent: Any) -> Guest:
        """Connect to an agent that listens on tcp."""
        address = agent._agent._acceptor._listener.address
        return cls(*await asyncio.open_connection(address.host, address.port))

    async def ended(self) -> bytes:
        """Return all that still comes, until the other side closes."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""

    async def go(self) -> None:
        """Close."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def two_workers(limits: rpc.Limits = QUICK) -> AsyncIterator[tuple[Any, Any, Any]]:
    """Run three workers over tcp, of which the first two work and the last one turns bad."""
    options = rpc.RpcOptions(limits=limits)
    async with cluster(3, network=SocketNetwork(), options=options) as (a, b, c):
        assert 11 == await a.rpc_async("worker1", targets.add, args=(1,))
        yield a, b, c
        assert 12 == await a.rpc_async("worker1", targets.add, args=(2,))
        assert 13 == await b.rpc_async("worker0", targets.add, args=(3,))
        assert {} == await at_rest((a, b))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings and errors of the agents about guests.

    Not that a worker ended while it opened a link anew, in the place of one that was broken.
    """
    records = [r for r in caplog.records if r.name.startswith("asyncrpc.")]
    texts = [r.getMessage() for r in records if r.levelno >= logging.WARNING]
    return [text for text in texts if "closed the connection during the handshake" not in text]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xde\xad\xbe\xef" * 300, "does not speak asyncrpc"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "speaks HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "speaks TLS"),
        (b"ARPC\x63\x01\x00\x10", "version 99"),
        (b"ARPC\x01\x01\xff\xff" + b"x" * 5000, "65535 bytes"),
        (b"ARPC\x01\x03\x00\x20" + b"x" * 32, "expected CLIENT_HELLO"),
        (struct.pack("<I", 0xFFFFFFFF) * 8, "does not speak asyncrpc"),
    ],
)
async def test_strangers(data: bytes, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """First bytes of another protocol are answered by an end, and one line that names it."""
    async with two_workers() as (a, _, _):
        guest = await Guest.come(a)
        guest.writer.write(data)
        answer = await guest.ended()
        await guest.go()
        await until(lambda: lines(caplog))

    assert len(answer) < 100
    assert 1 == len(lines(caplog))
    assert text in lines(caplog)[0]
    assert "refused a connection from 127.0.0.1:" in lines(caplog)[0]


@pytest.mark.slow
async def test_half_a_hello(caplog: pytest.LogCaptureFixture) -> None:
    """Who begins and then falls silent is cut off when the handshake's time is over."""
    async with two_workers() as (a, _, c):
        guest = await Guest.come(a)
        guest.writer.write(c._agent.make_handshake(is_client=True).start()[:30])
        assert b"" == await guest.ended()
        await guest.go()

    assert ["did not finish the handshake in 0.2 s" in line for line in lines(caplog)] == [True]


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_a_thousand_idle_strangers(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand connections that say nothing hold nobody up, and are gone in time."""
    async with two_workers() as (a, b, _):
        guests = [await Guest.come(a) for _ in range(500)]
        guests += [await Guest.come(b) for _ in range(500)]
        assert 5 == await a.rpc_async("worker1", targets.echo, args=(5,))
        await asyncio.gather(*[guest.ended() for guest in guests])
        await asyncio.gather(*[guest.go() for guest in guests])
        listener = a._agent._acceptor._listener
        await until(lambda: listener._count <= 1)  # the link of the other two
        guests_left = len(a._agent._acceptor._guests)

    assert 0 == guests_left
    assert len(lines(caplog)) < 500  # not one for each


async def test_wrong_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Who has another secret gets an AuthenticationError, and the others one line."""
    async with two_workers() as (a, b, _):
        stranger = rpc.RpcOptions(secret=b"another secret of tests")
        async with cluster(1, network=SocketNetwork(), options=stranger) as (other,):
            guest = Greeter(other._agent.make_handshake(is_client=True))
            address = a._agent._acceptor._listener.address
            stream = await SocketNetwork().connect(address, guest, timeout=1)
            with pytest.raises(rpc.AuthenticationError, match="does not know this run's secret"):
                await guest.greet(stream, 1)
            await stream.wait_closed()
        await until(lambda: lines(caplog))
        assert 11 == await b.rpc_async("worker0", targets.add, args=(1,))

    assert 1 == len(lines(caplog))


@contextlib.asynccontextmanager
async def bad_peer(a: Any, c: Any) -> AsyncIterator[Guest]:
    """Authenticate as one of the group, and give the raw connection."""
    handshake = c._agent.make_handshake(is_client=True)
    guest = await Guest.come(a)
    guest.writer.write(handshake.start())
    while not handshake.is_done:
        guest.writer.write(handshake.feed(await guest.reader.read(4096)))
    await until(lambda: link(a, c.info.name))
    try:
        yield guest
    finally:
        await guest.go()


def frame(kind: int, body: bytes, call: int = 7, **fields: Any) -> bytes:
    """Return a frame."""
    return encode_frame(kind, call, body, **fields)


BOMB = b"\x91" * 100_000
HEADER_SIZE = HEADER.size


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (HEADER.pack(0xFFFFFFFF, CALL, 0, 0, 1, 1, 0, 0.0), "length 4294967295"),
        (HEADER.pack(1 << 31, CALL, 0, 0, 1, 1, 0, 0.0), "length 2147483648"),
        (HEADER.pack(0, CALL, 0, 0, 1, 1, 0, float("nan")), "nan seconds"),
        (HEADER.pack(0, CALL, 0, 0, 1, 1, 0, -1.0), "-1.0 seconds"),
        (INTERN + frame(CALL, BOMB, function=1), "closing the connection to worker2"),
        (INTERN + frame(CALL, b"\xc1", function=1), "closing the connection to worker2"),
        (frame(CALL, msgpack.packb([1, None]), function=99), "function id 99 was never interned"),
        (frame(0x7777, b""), "unexpected message type 0x7777"),
        (frame(int(MessageType.GATHER), msgpack.packb("x")), "GATHER message makes no sense"),
        (frame(int(MessageType.DRAIN), msgpack.packb("x")), "DRAIN message makes no sense"),
        (frame(int(MessageType.INTERN), b"\xff\xfe", function=1), "not UTF-8"),
        (HEADER.pack(10, int(MessageType.CHUNK), 0, 0, 5, 0, 0, 0.0) + b"x" * 10, "transfer 5"),
        (HEADER.pack(3, int(MessageType.CHUNK), FIRST, 0, 5, 0, 0, 0.0) + b"xxx", "first chunk"),
        (
            HEADER.pack(HEADER_SIZE + 16, int(MessageType.CHUNK), FIRST, 0, 5, 0, 0, 0.0)
            + HEADER.pack(0, CALL, 0, 0, 1, 1, 0, 0.0)
            + struct.pack("<QQ", 1 << 62, 1 << 62),
            "above max_message_size",
        ),
        (HEADER.pack(1, int(MessageType.CHUNK), ABORT, 0, 5, 0, 0, 0.0) + b"x", "abort"),
    ],
)
async def test_bad_frames(data: bytes, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A peer whose frames break the protocol loses its connection, and that is one line."""
    async with two_workers() as (a, _, c):
        async with bad_peer(a, c) as guest:
            guest.writer.write(data)
            await guest.ended()
        await until(lambda: lines(caplog))

    assert 1 == len(lines(caplog)), lines(caplog)
    assert "closing the connection to worker2" in lines(caplog)[0]
    assert text in lines(caplog)[0]


async def test_object_bomb() -> None:
    """A megabyte that would become very many objects is refused, unrun."""
    limits = rpc.Limits(max_object_bytes=8 << 20, handshake_timeout=1)
    body = b"\x92\xdd\x00\x10\x00\x00" + b"\x90" * (1 << 20) + b"\xc0"
    chunk = int(MessageType.CHUNK)
    async with two_workers(limits) as (a, _, c), bad_peer(a, c) as guest:
        served = a._agent.served
        first = HEADER.pack(0, CALL, 0, 0, 7, 1, 0, 0.0) + struct.pack("<QQ", 0, len(body))
        guest.writer.write(INTERN + HEADER.pack(len(first), chunk, FIRST, 0, 1, 0, 0, 0.0) + first)
        for at in range(0, len(body), 1 << 18):
            part = body[at : at + (1 << 18)]
            guest.writer.write(HEADER.pack(len(part), chunk, 0, 0, 1, 0, 0, 0.0) + part)
        reply = await guest.reader.readexactly(HEADER_SIZE)

        assert 7 == HEADER.unpack(reply)[4]
        assert served == a._agent.served


async def test_reply_to_the_call_of_another(caplog: pytest.LogCaptureFixture) -> None:
    """A peer that answers a call made to another one is cut off; the call is not touched."""
    async with two_workers() as (a, _, c):
        call = a.rpc_async("worker1", targets.sleep, args=(0.1,))
        async with bad_peer(a, c) as guest:
            body = msgpack.packb("forged")
            guest.writer.write(frame(int(MessageType.PYTHON_RET), body, call.call_id))
            await guest.ended()

        assert "slept" == await call
    assert ["reply to a call of another worker" in line for line in lines(caplog)] == [True]


@pytest.mark.parametrize("size", [10, HEADER_SIZE, HEADER_SIZE + 5, HEADER_SIZE + 9000])
async def test_half_a_frame(size: int, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that ends in the middle of a frame just ends."""
    async with two_workers() as (a, _, c):
        async with bad_peer(a, c) as guest:
            guest.writer.write(frame(CALL, b"x" * 10_000, function=1)[:size])
        await until(lambda: link(a, "worker2") is None or link(a, "worker2").received == 0)

    assert [] == lines(caplog)


async def test_same_call_twice() -> None:
    """A call id that came before never runs a second time."""
    targets.log.clear()
    name = b"tests.agent.targets:note_and_wait"
    intern = encode_frame(int(MessageType.INTERN), 0, name, function=1)
    body = msgpack.packb(["once", 0.05, None])
    async with two_workers() as (a, _, c), bad_peer(a, c) as guest:
        guest.writer.write(intern + frame(CALL, body, function=1) * 3)
        await until(lambda: targets.log or link(a, "worker2") is None)

    assert len(targets.log) <= 1


async def test_floods_are_bounded() -> None:
    """Cancels of unknown calls, pings, and replies to nobody cost no memory that stays."""
    cancel = int(MessageType.CANCEL)
    async with two_workers() as (a, _, c), bad_peer(a, c) as guest:
        flood = b"".join(frame(cancel, b"", call) for call in range(20_000))
        flood += b"".join(frame(int(MessageType.PONG), b"", call) for call in range(1000))
        flood += frame(int(MessageType.PYTHON_RET), msgpack.packb(1), 1 << 60) * 1000
        guest.writer.write(flood + frame(int(MessageType.PING), b"", 5))
        answers = await guest.reader.readexactly(HEADER_SIZE * 20_001)
        pong = answers[-HEADER_SIZE:]
        server = link(a, "worker2").server

        assert (int(MessageType.PONG), 5) == (HEADER.unpack(pong)[1], HEADER.unpack(pong)[4])
        assert len(server._early) <= 4096


async def test_calls_above_the_limit_of_a_bad_peer() -> None:
    """A peer that ignores the limit is refused unrun, and still read."""
    limits = rpc.Limits(max_inflight=4, handshake_timeout=1)
    intern = encode_frame(int(MessageType.INTERN), 0, b"tests.agent.targets:sleep", function=1)
    body = msgpack.packb([1000, None])
    async with two_workers(limits) as (a, _, c), bad_peer(a, c) as guest:
        calls = b"".join(frame(CALL, body, call, function=1) for call in range(1, 11))
        guest.writer.write(intern + calls)
        refused = set()
        for _ in range(6):
            length, _, _, _, call, _, _, _ = HEADER.unpack(
                await guest.reader.readexactly(HEADER_SIZE)
            )
            await guest.reader.readexactly(length)
            refused.add(call)

        assert set(range(5, 11)) == refused


async def test_fenced_worker() -> None:
    """A worker that was lost is refused when it comes again."""
    async with two_workers() as (a, _, c):
        a._agent.members.lose(a._agent.members.route("worker2"), "the test says so")
        told = "worker2 itself was declared lost by its group: the test says so"
        with pytest.raises(rpc.PeerLostError, match=told):
            await c.rpc_async("worker0", targets.who)
        for name in ("worker0", "worker1", "worker2"):  # the verdict is the group's
            with pytest.raises(rpc.PeerLostError, match=told):
                c.rpc_async(name, targets.who)


async def test_stranger_of_the_same_secret(caplog: pytest.LogCaptureFixture) -> None:
    """Who knows the secret but is not in the group is turned away."""
    secret = b"a secret of the tests"
    options = rpc.RpcOptions(secret=secret, limits=QUICK)
    async with cluster(2, network=SocketNetwork(), options=options) as (a, b):
        async with cluster(1, network=SocketNetwork(), options=options) as (other,):
            name, other._agent.info = other._agent.info, rpc.WorkerInfo("intruder", 9)
            guest = Greeter(other._agent.make_handshake(is_client=True))
            other._agent.info = name
            listener: Any = a._agent._acceptor._listener
            stream = await SocketNetwork().connect(listener.address, guest, timeout=1)
            await guest.greet(stream, 1)
            stream.resume_reading()
            await stream.wait_closed()
        assert 11 == await b.rpc_async("worker0", targets.add, args=(1,))

    assert ["'intruder' is no worker of this group" in line for line in lines(caplog)] == [True]
