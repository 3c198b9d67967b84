"""An agent's metrics: what is counted, and that it stays counted."""

from __future__ import annotations

import asyncio

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import intercepted, producers, targets
from tests.agent.groups import any_network, link, until

pytestmark = pytest.mark.asyncio


async def test_calls_of_all_kinds_are_counted_once() -> None:
    """Calls, one-way calls, streams, references and fetches; control messages are none."""
    async with cluster(2) as (a, b):
        assert a.metrics().calls_made == 0
        await a.rpc_async("worker1", max, (1, 2))
        a.rpc_notify("worker1", max, (1, 2))
        assert [0, 1] == [i async for i in a.rpc_stream("worker1", producers.count, (2,))]
        rref = a.remote("worker1", dict)
        assert {} == await rref
        assert {} == await rref.rpc_async().copy()
        await asyncio.gather(a.barrier(), b.barrier())
        del rref
        made, served = a.metrics(), b.metrics()

    assert [6, 6] == [made.calls_made, served.calls_served]
    assert [{}, {}, 0] == [made.calls_failed, served.served_failed, made.calls_served]


async def test_failures_are_counted_by_code_on_both_sides() -> None:
    """What the function raised, what did not come in time, was cancelled or refused."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        with pytest.raises(LookupError):
            await a.rpc_async("worker1", intercepted.fail)
        with pytest.raises(rpc.FunctionNotFoundError):
            await a.rpc_async("worker1", "tests.agent.targets:missing")
        late = a.rpc_async("worker1", intercepted.hang, timeout=1)
        await clock.advance(1)
        assert late.exception() is not None
        a.rpc_async("worker1", intercepted.hang).cancel()
        await clock.advance(0)
        made, served = a.metrics(), b.metrics()

    assert {
        rpc.StatusCode.INTERNAL: 1,
        rpc.StatusCode.NOT_FOUND: 1,
        rpc.StatusCode.DEADLINE_EXCEEDED: 1,
        rpc.StatusCode.CANCELLED: 1,
    } == made.calls_failed
    assert rpc.StatusCode.INTERNAL in served.served_failed
    assert 1 == served.served_failed[rpc.StatusCode.NOT_FOUND]
    assert [4, 0] == [made.calls_made, made.calls_in_flight]


async def test_calls_made_of_others_count_as_their_parts() -> None:
    """A hedged call is as many calls as workers were asked, an intercepted one is one."""
    async with cluster(3, options=rpc.RpcOptions(interceptors=[rpc.Interceptor()])) as (a, *_):
        await a.rpc_async("worker1", max, (1, 2))
        with pytest.raises(LookupError):
            await a.rpc_async("worker1", intercepted.fail)
        await a.rpc_hedged(["worker1", "worker2"], max, (1, 2), delay=100)
        found = a.metrics()

    assert [3, {rpc.StatusCode.INTERNAL: 1}] == [found.calls_made, found.calls_failed]


async def test_what_is_out_waits_and_is_served() -> None:
    """Gauges of this moment: in flight, queued, serving, threads, and by peer."""
    options = rpc.RpcOptions(limits=rpc.Limits(max_inflight=2), num_worker_threads=3)
    async with cluster(2, options=options) as (a, b):
        calls = [a.rpc_async("worker1", intercepted.hang) for _ in range(5)]
        await until(lambda: b.metrics().calls_serving == 2)
        here, there = a.metrics(), b.metrics()
        for call in calls:
            call.cancel()
        assert await a.rpc_async("worker1", targets.add, (1, 2)) == 3
        after = b.metrics()

    assert [2, 3] == [here.calls_in_flight, here.calls_queued]
    assert ["worker0", "worker1"] == [peer.name for peer in here.peers]
    assert [0, 2] == [peer.in_flight for peer in here.peers]
    assert [True, True] == [peer.is_connected for peer in here.peers]
    assert [0, 1] == [there.threads, after.threads]
    assert "worker0" == here.worker


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_bytes_survive_their_links(kind: str) -> None:
    """Counters never go back when a link is replaced."""
    async with any_network(kind) as network, cluster(2, network=network) as (a, b):
        seen = []
        for _ in range(3):
            await a.rpc_async("worker1", targets.echo, (b"x" * 1000,))
            seen.append((a.metrics().bytes_sent, b.metrics().bytes_received))
            link(a, "worker1").stream.abort()
            seen.append((a.metrics().bytes_sent, b.metrics().bytes_received))
            await asyncio.sleep(0)
            seen.append((a.metrics().bytes_sent, b.metrics().bytes_received))
        info = a.debug_info()["agent.bytes_sent"]

    assert seen == sorted(seen)
    assert seen[-1][0] > 3000
    assert int(info) >= seen[-1][0]


async def test_retries_and_round_trips() -> None:
    """Attempts after the first, and what pings measure."""
    plan = rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_CALL", times=2)])
    clock = VirtualClock()
    options = rpc.RpcOptions(heartbeat_interval=1.0)
    async with cluster(2, options=options, clock=clock, faults=[plan, None]) as (a, _):
        call = a.rpc_async("worker1", max, (1, 2), retry=rpc.RetryPolicy(initial=0.1))
        await clock.advance(5)
        assert call.result() == 2
        found = a.metrics()

    assert [2, 1] == [found.retries, found.calls_made]
    assert {} == found.calls_failed
    assert found.loop_lag >= 0.0
    assert all(peer.rtt >= 0.0 for peer in found.peers)


async def test_module_function_and_threads() -> None:
    """`metrics` is that of the current agent; other threads may ask the agent."""
    async with cluster(2) as (a, _):
        there = await a.rpc_async("worker1", worker_of_metrics)
        elsewhere = await asyncio.to_thread(a.metrics)

    assert ["worker1", "worker0", 1] == [there, elsewhere.worker, elsewhere.calls_made]
    with pytest.raises(rpc.NotInitializedError):
        rpc.metrics()


async def worker_of_metrics() -> str:
    """Return whose metrics these are."""
    return rpc.metrics().worker
