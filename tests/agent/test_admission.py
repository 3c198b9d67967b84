"""Places in flight: who keeps to the limit is never refused, and giving up calls is cheap."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import msgpack
import pytest

import asyncrpc as rpc
from asyncrpc.agent.connection import Connection
from asyncrpc.execution import encode_failure
from asyncrpc.testing import VirtualClock, cluster
from asyncrpc.wire import HEADER, MessageType, encode_frame
from tests.agent import targets
from tests.agent.groups import at_rest, link, until
from tests.agent.test_hostile import CALL, HEADER_SIZE, bad_peer, two_workers

pytestmark = pytest.mark.asyncio

GATE = threading.Event()
NOTIFY = int(MessageType.NOTIFY)


@pytest.fixture(autouse=True)
def _reset() -> None:
    targets.log.clear()
    GATE.clear()


def options(most: int, **limits: Any) -> rpc.RpcOptions:
    """Return options with so many places in flight."""
    return rpc.RpcOptions(limits=rpc.Limits(max_inflight=most, **limits), num_worker_threads=2)


def wait_for_gate() -> None:
    """Block a thread until the test opens the gate."""
    GATE.wait(10)


async def turns(count: int) -> str:
    """Answer after some turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)
    return "done"


def serves(agent: Any, name: str) -> int:
    """Return how many calls of a worker an agent serves."""
    connection = link(agent, name)
    return 0 if connection is None else len(connection.server.calls)


@pytest.mark.parametrize(("mine", "other"), [(1024, 3), (3, 1024), (1, 1)])
async def test_smaller_limit_counts(mine: int, other: int) -> None:
    """Whichever side's limit is smaller, calls beyond it wait, in order, and all run."""
    most = 0

    async def watch(agent: Any) -> None:
        nonlocal most
        while True:
            most = max(most, serves(agent, "worker0"))
            await asyncio.sleep(0)

    async with cluster(2, options=[options(mine), options(other)]) as (a, b):
        await a.rpc_async("worker1", targets.echo, args=(0,))
        watcher = asyncio.create_task(watch(b))
        calls = [a.rpc_async("worker1", targets.note_and_wait, args=(i, 0.001)) for i in range(50)]
        await asyncio.gather(*calls)
        watcher.cancel()

    assert list(range(50)) == targets.log
    assert most == min(mine, other)


async def test_smaller_limit_of_the_callee_with_errors() -> None:
    """With on_full="error" the callee's smaller limit is an error of the caller's own."""
    mine, other = options(8, on_full="error"), options(2)
    async with cluster(2, options=[mine, other]) as (a, _):
        await a.rpc_async("worker1", targets.echo, args=(0,))
        calls = [a.rpc_async("worker1", targets.sleep, args=(1000,)) for _ in range(2)]
        with pytest.raises(rpc.ResourceExhaustedError, match="max_inflight is 2"):
            await a.rpc_async("worker1", targets.echo, args=(1,))
        calls[0].cancel()
        calls[1].cancel()
        again = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(2)]

        assert [0, 1] == await asyncio.gather(*again)


async def test_cancelled_call_that_runs_on() -> None:
    """A cancelled ``def`` whose thread runs on holds up nobody's place."""
    async with cluster(2, options=options(1)) as (a, b):
        await a.rpc_async("worker1", targets.echo, args=(0,))
        running = a.rpc_async("worker1", wait_for_gate)
        waiting = a.rpc_async("worker1", targets.echo, args=(2,))
        await until(lambda: serves(b, "worker0"))
        running.cancel()
        result = await waiting
        still = serves(b, "worker0")
        GATE.set()

        assert (2, 1) == (result, still)
        assert {} == await at_rest((a, b))


async def test_very_many_that_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where too many cancelled calls do not end, others wait for them and are not refused."""
    monkeypatch.setattr("asyncrpc.agent.serving._STOPPING", 4)
    async with cluster(2, options=options(3)) as (a, b):
        await a.rpc_async("worker1", targets.echo, args=(0,))
        for _ in range(7):
            call = a.rpc_async("worker1", wait_for_gate)
            served = serves(b, "worker0")
            await until(lambda served=served: serves(b, "worker0") > served)  # type: ignore[misc]
            call.cancel()
        waiting = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(4)]
        for _ in range(20):
            await asyncio.sleep(0)
        done = [call.done() for call in waiting]
        GATE.set()

        assert [False] * 4 == done
        assert [0, 1, 2, 3] == await asyncio.gather(*waiting)
        assert {} == await at_rest((a, b))


@pytest.mark.parametrize("side", [0, 1])
async def test_cancel_that_is_lost(side: int) -> None:
    """A lost CANCEL keeps the place until the next sign of life repeats it."""
    direction: Any = ("out", "in")[side]
    plan = rpc.FaultPlan([rpc.Fault("drop", message="CANCEL", direction=direction, times=1)])
    clock = VirtualClock()
    plans = [plan if rank == side else None for rank in range(2)]
    async with cluster(2, options=options(1), clock=clock, faults=plans) as (a, b):
        running = a.rpc_async("worker1", targets.sleep, args=(1000,), timeout=None)
        waiting = a.rpc_async("worker1", targets.echo, args=(2,), timeout=None)
        await until(lambda: serves(b, "worker0"))
        running.cancel()
        await clock.advance(0.1)
        before = waiting.done()
        await clock.advance(2)

        assert not before
        assert 2 == await waiting
        assert {} == await at_rest((a, b))


@pytest.mark.parametrize("seed", range(6))
async def test_no_refusal_whatever_is_lost(seed: int) -> None:
    """Requests, cancels and replies that are lost, late or doubled never cost others a refusal."""
    rng = random.Random(seed)
    rules = [
        rpc.Fault(kind, message=message, direction=direction, probability=0.15, delay=0.05)
        for kind in ("drop", "delay", "duplicate", "reorder")
        for message in ("CANCEL", "PYTHON_CALL", "PYTHON_RET")
        for direction in ("out", "in")
    ]
    clock = VirtualClock()
    faults = [rpc.FaultPlan(rng.sample(rules, 8), seed=seed + rank) for rank in range(2)]
    both = [options(rng.choice([1, 2, 4])), options(rng.choice([1, 2, 4]))]
    async with cluster(2, options=both, clock=clock, faults=faults) as agents:
        calls: list[Any] = []
        for number in range(300):
            rank = rng.randrange(2)
            call = agents[rank].rpc_async(1 - rank, turns, args=(rng.randrange(50),), timeout=2)
            calls.append(call)
            if rng.random() < 0.3:
                rng.choice(calls).cancel()
            if number % 3 == 0:
                await clock.advance(rng.random() * 0.05)
            if number % 100 == 50 and link(agents[0], "worker1") is not None:
                link(agents[0], "worker1").stream.abort()
        await clock.advance(200)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        left = await at_rest(agents)

    allowed = {str, asyncio.CancelledError, rpc.RpcTimeoutError, rpc.PeerLostError}
    assert allowed >= {type(outcome) for outcome in outcomes}
    assert str in {type(outcome) for outcome in outcomes}
    assert {} == left


async def test_what_holds_no_place() -> None:
    """Nested and one-way calls that come first do not push a plain call over the limit."""
    limits = rpc.Limits(max_inflight=1, handshake_timeout=1)
    names = (b"tests.agent.targets:sleep", b"tests.agent.targets:echo")
    intern = b"".join(
        encode_frame(int(MessageType.INTERN), 0, name, function=number)
        for number, name in enumerate(names, 1)
    )
    slow, quick = msgpack.packb([1000, None]), msgpack.packb([1, None])
    async with two_workers(limits) as (a, _, c), bad_peer(a, c) as guest:
        guest.writer.write(intern + encode_frame(CALL, 1, slow, function=1, depth=1))
        guest.writer.write(encode_frame(NOTIFY, 2, slow, function=1))
        guest.writer.write(encode_frame(CALL, 3, quick, function=2))
        reply = HEADER.unpack(await guest.reader.readexactly(HEADER_SIZE))
        link(a, "worker2").server.close(everything=True)

    assert (int(MessageType.PYTHON_RET), 0, 3) == (reply[1], reply[2], reply[4])


async def test_flood_above_the_limit_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls of a peer that ignores the limit are refused, one error is encoded."""
    encoded: list[object] = []

    def encode(error: BaseException, **fields: Any) -> dict[str, object]:
        encoded.append(error)
        return encode_failure(error, **fields)

    monkeypatch.setattr("asyncrpc.agent.replying.encode_failure", encode)
    limits = rpc.Limits(max_inflight=1, handshake_timeout=1)
    intern = encode_frame(int(MessageType.INTERN), 0, b"tests.agent.targets:sleep", function=1)
    body = msgpack.packb([1000, None])
    async with two_workers(limits) as (a, _, c), bad_peer(a, c) as guest:
        calls = [encode_frame(CALL, call, body, function=1) for call in range(1, 1001)]
        guest.writer.write(intern + b"".join(calls))
        for _ in range(999):
            head = HEADER.unpack(await guest.reader.readexactly(HEADER_SIZE))
            await guest.reader.readexactly(head[0])

    assert 1 == len(encoded)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cancel", "gather", "timeout"])
async def test_many_that_are_given_up(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of calls that are given up while they wait, none is sent first."""
    sent: list[object] = []
    send = Connection.send

    def count(self: Connection, message: Any) -> None:
        sent.append(message)
        send(self, message)

    total, most = 10_000, 100
    clock = VirtualClock()
    async with cluster(2, options=options(most), clock=clock) as (a, b):
        await a.rpc_async("worker1", targets.echo, args=(0,))
        served = b._agent.served
        monkeypatch.setattr(Connection, "send", count)
        timeout = 0.2 if how == "timeout" else 1000
        calls = [
            a.rpc_async("worker1", targets.sleep, args=(1000,), timeout=timeout)
            for _ in range(total)
        ]
        await until(lambda: serves(b, "worker0") == most)
        if how == "cancel":
            for call in calls:
                call.cancel()
        elif how == "gather":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*calls), 0.001)
        else:
            await clock.advance(0.3)
        await asyncio.gather(*calls, return_exceptions=True)
        assert 1 == await a.rpc_async("worker1", targets.echo, args=(1,))
        counts = b._agent.served - served, len(sent)
        left = await at_rest((a, b))

    assert counts[0] <= 2 * most
    assert counts[1] <= 4 * most
    assert {} == left
