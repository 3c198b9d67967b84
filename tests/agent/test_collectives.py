"""Collectives give all members the same round, or fail for all of them and go on."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import link

pytestmark = pytest.mark.asyncio


async def test_gather_and_barrier() -> None:
    """Every worker gets every object; several at once, also over subsets, do not mix."""
    async with cluster(3) as agents:
        first = [agent.all_gather({"from": agent.info.id}) for agent in agents]
        second = [agent.all_gather(agent.info.id) for agent in agents]
        two = ["worker2", "worker0"]
        subset = [agent.all_gather("s", two) for agent in agents if agent.info.id != 1]
        results = await asyncio.gather(*first, *second, *subset)
        await asyncio.gather(*[agent.barrier() for agent in agents])

    assert [{f"worker{i}": {"from": i} for i in range(3)}] * 3 == results[:3]
    assert [{f"worker{i}": i for i in range(3)}] * 3 == results[3:6]
    assert [{"worker0": "s", "worker2": "s"}] * 2 == results[6:]


async def test_gather_timeout() -> None:
    """The leader's error names who is missing and the seconds."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, _):
        gather = asyncio.create_task(a.all_gather(1, timeout=0.1))
        await clock.advance(0.2)
        with pytest.raises(
            rpc.RpcTimeoutError, match=r"after 0\.10 seconds, waiting for worker1"
        ) as caught:
            await gather

    assert caught.value.__suppress_context__  # how time is kept here is no news


async def test_names_of_the_missing_reach_everybody() -> None:
    """A member that is no leader names who is missing, too."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (_, b, _):
        gather = asyncio.create_task(b.all_gather(1, timeout=5))
        await clock.advance(5)
        text = r"all_gather over 3 workers timed out after 5\.00 seconds, "
        with pytest.raises(rpc.RpcTimeoutError, match=text + "waiting for worker0, worker2$"):
            await gather


async def test_time_out_fails_the_round_for_all() -> None:
    """Who waits hears of a time-out at once, who comes later when it comes; the next one works."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (a, b, c):
        hasty = asyncio.create_task(b.barrier(timeout=1))
        patient = asyncio.create_task(a.barrier(timeout=100))
        await clock.advance(1)
        with pytest.raises(rpc.RpcTimeoutError, match=r"after 1\.00 seconds, waiting for worker2$"):
            await hasty
        text = (
            r"barrier over 3 workers timed out: worker1 gave up after 1\.00 seconds, waiting for "
        )
        with pytest.raises(rpc.RpcTimeoutError, match=text + "worker2$"):
            await patient
        with pytest.raises(rpc.RpcTimeoutError, match=text + "worker2$"):
            await c.barrier(timeout=100)
        results = await asyncio.gather(*[agent.all_gather(agent.info.id) for agent in (a, b, c)])
        await asyncio.gather(*[agent.barrier(timeout=100) for agent in (a, b, c)])

    assert [{f"worker{i}": i for i in range(3)}] * 3 == results


@pytest.mark.parametrize("who", [0, 1])
async def test_cancel_fails_the_round_for_all(who: int) -> None:
    """A cancelled gather has failed for the others too, who are told why."""
    async with cluster(2) as agents:
        task = asyncio.create_task(agents[who].all_gather("old"))
        other = asyncio.create_task(agents[who].all_gather("new"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(
            rpc.RpcError, match=rf"worker{who} gave up \(CancelledError\)"
        ) as caught:
            await agents[1 - who].all_gather("old")
        result = await agents[1 - who].all_gather("new")

        assert {"worker0": "new", "worker1": "new"} == result == await other
        assert rpc.StatusCode.ABORTED is caught.value.code


async def test_object_that_cannot_travel_fails_the_round_for_all() -> None:
    """An object that cannot be encoded is its sender's error, and the others do not wait for it."""
    async with cluster(2) as (a, b):
        with pytest.raises(rpc.EncodingError):
            await a.all_gather(lambda: 0)
        with pytest.raises(rpc.RpcError, match=r"worker0 gave up \(.*lambda"):
            await b.all_gather(1)
        results = [*await asyncio.gather(a.all_gather(0), b.all_gather(1))]

    assert [{"worker0": 0, "worker1": 1}] * 2 == list(results)


async def test_barrier_and_gather_never_meet() -> None:
    """A worker in a barrier is missing in a gather, and the error says where it is."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        gather = asyncio.create_task(a.all_gather(1, timeout=1))
        barrier = asyncio.create_task(b.barrier(timeout=2))
        await clock.advance(1)
        with pytest.raises(
            rpc.RpcTimeoutError, match=r"waiting for worker1 \(which is in barrier\)$"
        ):
            await gather
        await a.barrier()
        await barrier
        with pytest.raises(rpc.RpcTimeoutError, match="all_gather over 2 workers timed out"):
            await b.all_gather(1)


@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_a_member_that_goes_fails_it_at_once(leaver: int) -> None:
    """Whoever of the set goes, whether it had come or not, those who wait hear of it."""
    async with cluster(3) as agents:
        stay = [agent for agent in agents if agent.info.id != leaver]
        waiting = [asyncio.create_task(agent.barrier(timeout=0)) for agent in stay[:1]]
        waiting.append(asyncio.create_task(agents[leaver].barrier(timeout=0)))
        await asyncio.sleep(0.01)
        await agents[leaver].shutdown(graceful=False)
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(rpc.PeerLostError):
            await stay[1].barrier([agent.info.name for agent in agents], timeout=0)
        names = [agent.info.name for agent in stay]
        await asyncio.gather(*[agent.barrier(names, timeout=0) for agent in stay])

    assert isinstance(errors[0], rpc.PeerLostError)
    assert isinstance(errors[1], rpc.RpcError)


async def test_giving_up_outlives_its_link() -> None:
    """That a member gave up reaches the leader, though the link breaks meanwhile."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        gather = asyncio.create_task(b.all_gather(1, timeout=1))
        await clock.advance(0.5)
        link(b, "worker0").stream.abort()
        with pytest.raises(rpc.PeerLostError):
            await gather
        await clock.advance(1)
        with pytest.raises(rpc.RpcError, match="worker1 gave up"):
            await a.all_gather(0, timeout=0)
        results = [*await asyncio.gather(a.all_gather(0), b.all_gather(1))]

    assert [{"worker0": 0, "worker1": 1}] * 2 == list(results)


async def test_leader_that_does_not_answer() -> None:
    """A time-out is raised although the leader is out of reach."""
    clock = VirtualClock()
    options = rpc.RpcOptions(heartbeat_interval=100.0)
    async with cluster(2, clock=clock, options=options) as (_, b):
        await b.rpc_async("worker0", min, args=(1, 2))
        b.partition(["worker0"])
        gather = asyncio.create_task(b.all_gather(1, timeout=1))
        await clock.advance(2)
        with pytest.raises(rpc.RpcTimeoutError, match="waiting for the answer of worker0"):
            await gather
        b.heal()


ROUNDS = 20


@pytest.mark.parametrize("breaks", [False, True])
@pytest.mark.parametrize("seed", range(6))
async def test_random_schedules_never_mix_rounds(seed: int, breaks: bool) -> None:
    """Whatever is given up and cut when, a result has all objects of one and the same round."""
    clock = VirtualClock()
    chance = random.Random(seed)
    program = [chance.choice(["all_gather", "barrier"]) for _ in range(ROUNDS)]
    results: list[tuple[int, dict[str, Any]]] = []

    async def one(agent: rpc.RpcAgent, number: int, kind: str) -> None:
        timeout = chance.choice([0.5, 1.0, 2.0, 50.0, 50.0, 50.0, 50.0])
        with contextlib.suppress(rpc.RpcError, TimeoutError):
            if kind == "barrier":
                await agent.barrier(timeout=timeout)
            else:
                results.append((number, await agent.all_gather(number, timeout=timeout)))

    async def work(agent: rpc.RpcAgent) -> None:
        for number, kind in enumerate(program):
            await clock.sleep(chance.choice([0, 0.1, 0.7, 1.5]))
            task = asyncio.create_task(one(agent, number, kind))
            if chance.random() < 0.07:
                await clock.sleep(chance.choice([0, 0.3]))
                task.cancel()
            await asyncio.wait([task])

    async with cluster(3, clock=clock) as agents:
        workers = [asyncio.create_task(work(agent)) for agent in agents]
        while not all(worker.done() for worker in workers):
            await clock.advance(chance.choice([0.1, 1]))
            near, far = chance.sample(agents, 2)
            if breaks and chance.random() < 0.2 and link(near, far.info.name) is not None:
                link(near, far.info.name).stream.abort()
        await asyncio.gather(*workers)
        final = await asyncio.gather(*[agent.all_gather("end", timeout=0) for agent in agents])
        left = [agent._collectives._book._open for agent in agents]

    assert results
    assert [] == [r for r in results if {r[0]} != set(r[1].values()) or len(r[1]) != 3]
    assert [dict.fromkeys(("worker0", "worker1", "worker2"), "end")] * 3 == final
    assert [{}, {}, {}] == left


async def test_objects_that_cannot_travel_and_names_that_are_none() -> None:
    """Both are errors of the caller's words, and the next round works."""
    names: Any = 3
    async with cluster(2) as (a, b):
        with pytest.raises(rpc.EncodingError, match=r"obj\['x'\] cannot be encoded") as caught:
            await a.all_gather({"x": lambda: 1})
        with pytest.raises(rpc.RpcError):
            await b.all_gather(1)
        with pytest.raises(TypeError, match="worker_names must be a collection of names, got 3"):
            await a.barrier(names)
        results = await asyncio.gather(a.all_gather(1), b.all_gather(2))

    assert "obj['x']" == caught.value.path
    assert [{"worker0": 1, "worker1": 2}] * 2 == list(results)
