"""References in items of streams and in gathered objects: as those in arguments and results."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import producers
from tests.agent.groups import link, until
from tests.rref import workers
from tests.rref.workers import Counter, empty

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("to", ["", "worker0", "worker1", "worker2"])
@pytest.mark.parametrize("reader", ["worker0", "worker1"])
async def test_items_are_references(to: str, reader: str) -> None:
    """They mean the same value here, in their order, on the owner, on others, on oneself."""
    async with cluster(3) as agents:
        a = next(agent for agent in agents if agent.info.name == reader)
        got = []
        stream = a.rpc_stream("worker1", workers.give_references, args=(20, to), window=3)
        async for rref in stream:
            assert rref.confirmed_by_owner()
            got.append(await rref)
        assert [[number] for number in range(20)] == got
        del rref, stream
        assert {} == await empty(agents)


async def test_items_share_what_they_refer_to() -> None:
    """A reference in a container within an item, with a buffer beside it, and sent home again."""
    async with cluster(3) as agents:
        a = agents[0]
        mine, other = a.rref([]), a.remote("worker2", Counter)
        items = ({"deep": (mine, [other])}, bytes(300_000), mine)
        stream = a.rpc_stream("worker1", producers.give, args=items)
        first, second, third = [item async for item in stream]
        assert mine.local_value() is third.local_value()
        assert first["deep"][0].is_owner()
        assert 1 == await first["deep"][1][0].rpc_async().plus()
        assert 1 == await other.rpc_async().get()
        assert bytes(300_000) == second
        del mine, other, items, stream, first, third
        assert {} == await empty(agents)


async def test_an_item_that_was_lost_of_a_stream_that_has_ended() -> None:
    """Whoever misses it gives up, and the producer, long over, finds out what has not come."""
    plan = rpc.FaultPlan([rpc.Fault("drop", message="STREAM_ITEM", times=1)])
    async with cluster(2, faults=[rpc.FaultPlan([]), plan]) as agents:
        a, b = agents
        stream = a.rpc_stream("worker1", workers.give_references, args=(3,))
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: 2 < b.references.machine.counts()["num_forks"])
        await until(lambda: not any(server.calls for server in b._agent.servers))
        first.cancel()
        await until(lambda: 0 == b.references.machine.counts()["num_forks"])
        del stream, first
        assert {} == await empty(agents)


async def test_an_item_that_waits_keeps_those_behind_it() -> None:
    """No unconfirmed reference is read, and the order stays."""
    plan = rpc.FaultPlan([rpc.Fault("delay", message="RREF_FORK_REQUEST", delay=2)])
    clock = VirtualClock()
    async with cluster(3, clock=clock, faults=plan) as agents:
        a = agents[0]
        other = a.remote("worker2", Counter)
        await other
        stream = a.rpc_stream("worker1", producers.give, args=(1, other, 2), timeout=10)
        del other
        assert 1 == await asyncio.wait_for(clock_runs(clock, anext(stream)), 5)
        reading = asyncio.ensure_future(anext(stream))
        before = clock.now()
        rref = await clock_runs(clock, reading)
        assert clock.now() - before >= 1
        assert rref.confirmed_by_owner()
        assert [2] == [item async for item in stream]
        del rref, stream, reading
        assert {} == await empty(agents)


async def clock_runs(clock: VirtualClock, awaitable: Any) -> Any:
    """Await something while time goes on."""
    future = asyncio.ensure_future(awaitable)
    for _ in range(400):
        if future.done():
            break
        await asyncio.sleep(0.001)
        await clock.advance(0.05)
    return await future


@pytest.mark.parametrize("how", ["aclose", "drop", "cancel", "break", "unread"])
async def test_unread_items_are_released(how: str) -> None:
    """A stream that is closed early, or never read to its end, holds nothing any more."""
    async with cluster(3) as agents:
        a = agents[0]
        args = (5, "worker2") if how == "unread" else (1000, "worker2")
        stream = a.rpc_stream("worker1", workers.give_references, args=args, window=10)
        await (await anext(stream))
        if how == "aclose":
            await stream.aclose()
        elif how == "cancel":
            stream.ended.cancel()
        elif how == "break":
            async for _ in stream:
                break
            del _
        elif how == "unread":
            await stream.ended
        del stream
        assert {} == await empty(agents)


@pytest.mark.parametrize("is_large", [False, True])
async def test_half_encoded_item(is_large: bool) -> None:
    """References in an item that does not go out are taken back; those before it are good."""
    limits = rpc.Limits(max_message_size=100_000)
    async with cluster(2, options=rpc.RpcOptions(limits=limits)) as agents:
        a = agents[0]
        stream = a.rpc_stream("worker1", workers.give_badly, kwargs={"is_large": is_large})
        first = await anext(stream)
        expected = rpc.MessageTooLargeError if is_large else rpc.EncodingError
        with pytest.raises(expected, match="item"):
            await anext(stream)
        assert 0 == await first
        del first, stream
        assert {} == await empty(agents)


@pytest.mark.parametrize("message", ["STREAM_ITEM", "RREF_TAKEN"])
@pytest.mark.parametrize("kind", ["drop", "fail", "duplicate", "reorder"])
@pytest.mark.parametrize("direction", ["in", "out"])
async def test_items_with_trouble(message: str, kind: Any, direction: Any) -> None:
    """Items, and the word that they came, may be lost, fail, come twice or late."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault(kind, message=message, direction=direction, probability=0.4)])
    async with cluster(3, clock=clock, faults=plan) as agents:
        a = agents[0]
        stream = a.rpc_stream(
            "worker1", workers.give_references, args=(12, "worker2"), timeout=3, window=4
        )
        got = await clock_runs(clock, read(stream))
        assert [[number] for number in range(len(got))] == got
        assert len(got) == 12 or (message == "STREAM_ITEM" and kind in ("drop", "fail"))
        del stream
        for agent in agents:
            for server in agent._agent.servers:
                for ident in server.passed:  # as the end of the link, or of the agent, does
                    server.doubt_passed(ident)
        assert {} == await empty(agents)


async def read(stream: rpc.RpcStream[rpc.RRef]) -> list[Any]:
    """Return the values that the items of a stream refer to, up to an error."""
    got = []
    try:
        async for rref in stream:
            got.append(await rref)
            del rref
    except (rpc.RpcTimeoutError, rpc.InjectedFaultError):
        pass
    return got


async def test_a_broken_link_leaves_nothing() -> None:
    """What was in items on a link that broke is asked about."""
    async with cluster(3) as agents:
        a = agents[0]
        args = (1000, "worker2")
        stream = a.rpc_stream("worker1", workers.give_references, args=args, window=10)
        await (await anext(stream))
        link(a, "worker1").stream.abort()
        with pytest.raises(rpc.PeerLostError):
            async for rref in stream:
                assert rref.confirmed_by_owner()
        del rref, stream
        gc.collect()
        assert {} == await empty(agents)


async def test_lost_owner_fails_the_stream() -> None:
    """An item that refers to a value of a lost worker cannot be read."""
    late = rpc.Fault("delay", "RREF_FORK_REQUEST", peer="worker0", direction="in", delay=1000)
    async with cluster(3, clock=VirtualClock(), faults=rpc.FaultPlan([late])) as agents:
        a = agents[0]
        other = a.remote("worker2", Counter)
        await other
        stream = a.rpc_stream("worker1", producers.give, args=(1, other, 2))
        assert 1 == await anext(stream)
        await until(lambda: len(a.references.machine._parking) == 1)
        await agents[2].shutdown(graceful=False)
        with pytest.raises(rpc.OwnerLostError) as caught:
            await anext(stream)
        assert rpc.Delivery.EXECUTED is caught.value.delivery
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        del stream, other, caught
        assert {} == await empty(agents[:2])


async def test_all_gather_of_references() -> None:
    """Every worker gets a reference of its own to every value, and to that of its own."""
    async with cluster(4) as agents:
        elsewhere = agents[1].remote("worker3", Counter, args=(7,))
        mine: list[Any] = [a.rref([a.info.name]) for a in agents]
        mine[1] = elsewhere
        objs = [{"mine": (rref, n)} for n, rref in enumerate(mine)]
        all_got = await asyncio.gather(
            *[a.all_gather(obj) for a, obj in zip(agents, objs, strict=True)]
        )
        for got in all_got:
            assert all(got[name]["mine"][0].confirmed_by_owner() for name in got)
            values = [await got[name]["mine"][0] for name in sorted(got)]
            assert [["worker0"], ["worker2"], ["worker3"]] == [values[0], *values[2:]]
            assert 7 == values[1].value
        assert all_got[2]["worker2"]["mine"][0].local_value() is mine[2].local_value()
        del elsewhere, mine, objs, got, all_got
        assert {} == await empty(agents)


@pytest.mark.parametrize("how", ["unencodable", "timeout", "cut"])
async def test_all_gather_that_fails(how: str) -> None:
    """References in objects of a gather that does not come about are held by nobody."""
    async with cluster(3) as agents:
        mine = agents[1].rref([])
        obj = [mine, lambda: 1] if how == "unencodable" else [mine]
        part = asyncio.ensure_future(
            agents[1].all_gather(obj, timeout=0.2 if how == "timeout" else 5)
        )
        other = asyncio.ensure_future(agents[2].all_gather(agents[2].rref(1), timeout=5))
        if how == "cut":
            await until(lambda: len(agents[0].references.machine._users.rows()) == 2)
            link(agents[1], "worker0").stream.abort()
        for each in (part, other):
            with pytest.raises(rpc.RpcError):
                await each
        del mine, obj, part, other, each
        await asyncio.sleep(0.01)  # until the tasks, whose frames hold the objects, are garbage
        assert {} == await empty(agents)
