"""A peer that calls and does not read costs bounded memory, and holds up nobody who reads."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

import asyncrpc as rpc
from asyncrpc.agent.backlog import Backlog
from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork
from asyncrpc.wire import HEADER, Frame, MessageType, encode_frame
from tests.agent import targets
from tests.agent.groups import at_rest, link, until
from tests.agent.test_hostile import CALL, HEADER_SIZE, Guest, bad_peer, lines, two_workers

pytestmark = pytest.mark.asyncio

PING = int(MessageType.PING)
SIZE = 200_000
INTERN = encode_frame(int(MessageType.INTERN), 0, b"tests.agent.test_backlog:blob", function=1)
BODY = msgpack.packb([SIZE, None])


async def blob(size: int) -> bytes:
    """Return many bytes."""
    return bytes(size)


def calls(first: int, count: int) -> bytes:
    """Return requests for large results."""
    return b"".join(encode_frame(CALL, n, BODY, function=1) for n in range(first, first + count))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncrpc.agent.backlog.MAX_UNREAD", 1 << 20)


def limits(most: int) -> rpc.Limits:
    """Return limits with so many calls in flight."""
    return rpc.Limits(max_inflight=most, handshake_timeout=5)


async def test_who_never_reads_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """A peer that only ever calls loses its link, and what waited for it was bounded."""
    most = 0
    async with two_workers(limits(100)) as (a, _, c):
        served = a._agent.served
        async with bad_peer(a, c) as guest:
            stream = link(a, "worker2").stream
            guest.writer.write(INTERN)
            for first in range(1, 20_000, 50):
                guest.writer.write(calls(first, 50))
                await asyncio.sleep(0.001)
                most = max(most, stream.unsent)
                if lines(caplog):
                    break
        served = a._agent.served - served

    assert "sent more than max_inflight, 100, calls while it did not read" in lines(caplog)[0]
    assert served < 500
    assert most < 500 * (SIZE + 100)


async def replies(guest: Guest, count: int) -> list[int]:
    """Read replies; return their calls."""
    idents = []
    for _ in range(count):
        head = HEADER.unpack(await guest.reader.readexactly(HEADER_SIZE))
        await guest.reader.readexactly(head[0])
        idents.append(head[4])
    return idents


async def test_who_reads_late_gets_all() -> None:
    """Calls within the limit wait while their caller does not read, and run when it does."""
    async with two_workers(limits(400)) as (a, _, c), bad_peer(a, c) as guest:
        served = a._agent.served
        connection = link(a, "worker2")
        guest.writer.write(INTERN + calls(1, 200))
        await until(lambda: a._agent.served == served + 200)
        guest.writer.write(calls(201, 200) + encode_frame(PING, 7))
        await until(lambda: connection.backlog and len(connection.backlog) > 100)
        before = a._agent.served - served
        order = await replies(guest, 400)
        pong = HEADER.unpack(await guest.reader.readexactly(HEADER_SIZE))

        assert before <= 300
        assert list(range(1, 401)) == order
        assert (int(MessageType.PONG), 7) == (pong[1], pong[4])
        assert connection.backlog is None


async def test_control_messages_without_end(caplog: pytest.LogCaptureFixture) -> None:
    """A peer that does not read cannot ask for signs of life without end either."""
    async with two_workers(limits(300)) as (a, _, c):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("asyncrpc.agent.backlog._MAX_ANSWERS", 100)
            async with bad_peer(a, c) as guest:
                connection = link(a, "worker2")
                served = a._agent.served
                guest.writer.write(INTERN + calls(1, 300))
                await until(lambda: a._agent.served >= served + 200)
                guest.writer.write(encode_frame(PING, 0))
                await until(lambda: connection.backlog is not None)
                guest.writer.write(encode_frame(PING, 0) * 1000)
                await until(lambda: lines(caplog))

    assert "sent 401 control messages while it did not read" in lines(caplog)[0]


@pytest.mark.slow
async def test_two_that_flood_each_other() -> None:
    """Two workers that send each other more than anybody can take at once both get all of it."""
    data = bytes(SIZE)
    options = rpc.RpcOptions(limits=limits(1024))
    async with cluster(2, network=SocketNetwork(), options=options) as agents:
        a, b = agents
        await a.rpc_async("worker1", targets.echo, args=(1,))
        both = [
            agent.rpc_async(to, targets.echo, args=(data,))
            for _ in range(300)
            for agent, to in ((a, "worker1"), (b, "worker0"))
        ]
        results = await asyncio.gather(*both)

        assert {SIZE} == {len(result) for result in results}
        assert {} == await at_rest(agents)


def frame(ident: int, *, depth: int = 0, remaining: float = 0.0) -> Frame:
    """Return a request as it is received."""
    return (CALL, 0, depth, ident, 1, remaining, None, memoryview(b"x"), ())


def idents(backlog: Backlog) -> list[int]:
    """Return the calls that wait, in order."""
    return [kept[3] for frames in backlog.slices() for kept in frames]


async def test_what_is_kept() -> None:
    """Requests keep their order; copies and cancelled ones go; nested ones hold no place."""
    backlog = Backlog("worker9", limits(3), lambda: 0.0)
    for ident in (5, 6, 7, 5):
        backlog.add(frame(ident))
    backlog.cancel(6)
    backlog.cancel(99)
    backlog.add(frame(1, depth=2))
    backlog.add(frame(8))

    assert [5, 7, 1, 8] == idents(backlog)
    with pytest.raises(rpc.RpcError, match="worker9 sent more than max_inflight, 3, calls"):
        backlog.add(frame(9))


async def test_what_is_kept_is_copied() -> None:
    """A call about a reference keeps its header map, whatever the read's memory becomes."""
    memory = bytearray(b"map-body")
    backlog = Backlog("worker9", limits(3), lambda: 0.0)
    kind, flags, depth, ident, function, left, *_ = frame(1)
    meta, body = memoryview(memory)[:4], memoryview(memory)[4:]
    backlog.add((kind, flags, depth, ident, function, left, meta, body, ()))
    memory[:] = bytes(8)

    ((kept,),) = backlog.slices()
    assert kept[6] is not None
    assert (bytes(kept[6]), bytes(kept[7])) == (b"map-", b"body")


async def test_waiting_costs_time() -> None:
    """The time that a request waits is taken off its deadline."""
    times: Any = iter([10.0, 10.0, 14.0])
    backlog = Backlog("worker9", limits(3), lambda: next(times))
    backlog.add(frame(1, remaining=5.0))
    backlog.add(frame(2))
    (frames,) = backlog.slices()

    assert [1.0, 0.0] == [kept[5] for kept in frames]
