"""`cluster` and `kv_store`: a group in one process that starts whole and leaves nothing behind."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.store import MemoryStore, StoreConnectionError
from asyncrpc.testing import VirtualClock, cluster, kv_store, leak_check
from tests.agent import targets

pytestmark = pytest.mark.asyncio


async def test_workers() -> None:
    """The agents come by rank, know each other, and are not the process's."""
    async with cluster(3) as workers:
        answer = await workers[2].rpc_async("worker1", targets.who)
        with pytest.raises(rpc.NotInitializedError):
            rpc.current_agent()

    assert ["worker0", "worker1", "worker2"] == [agent.info.name for agent in workers]
    assert ("worker1", "worker2") == answer


async def test_two_groups() -> None:
    """Groups with the same names do not meet."""
    async with cluster(2) as (a, _), cluster(2) as (b, _):
        await a.rpc_async("worker1", targets.note, args=("a",))

        assert "1" == a.debug_info()["agent.connections"] or a is not b


@pytest.mark.parametrize("n", [0, -1, 1.0, "2", None, True])
async def test_bad_number(n: int) -> None:
    """A group has a whole number of workers, at least one."""
    with pytest.raises(ValueError, match="n must be an int of at least 1, got"):
        async with cluster(n):
            pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"rpc_timeout": 5}}, "options must be RpcOptions objects, got {"),
        ({"options": [None, None]}, "options must be RpcOptions for each worker, got None"),
        ({"options": [rpc.RpcOptions()]}, "options must be one, or one for each of 2 workers"),
        ({"faults": rpc.Fault("drop")}, "faults must be FaultPlan objects, got Fault"),
        ({"faults": [rpc.Fault("drop")]}, "faults must be FaultPlan objects, got Fault"),
        ({"faults": [rpc.FaultPlan([])] * 3}, "faults must be one, or one for each of 2 workers"),
        ({"clock": 5}, "clock must be a Clock"),
        ({"clock": VirtualClock().advance}, "clock must be a Clock"),
    ],
)
async def test_bad_arguments(arguments: Any, message: str) -> None:
    """An argument of another type is named, with what it should be."""
    with pytest.raises(ValueError, match=message):
        async with cluster(2, **arguments):
            pass


async def test_one_that_cannot_start() -> None:
    """If one worker fails to start, the error comes at once and nothing stays of the others."""
    options = [rpc.RpcOptions(), rpc.RpcOptions(), rpc.RpcOptions(listen="tcp://192.0.2.1:0")]
    async with leak_check():
        with pytest.raises(OSError):
            async with cluster(3, options=options, network=rpc_sockets()):
                pass


def rpc_sockets() -> Any:
    """Return a network of sockets."""
    from asyncrpc.transport import SocketNetwork

    return SocketNetwork()


async def test_cancelled_start() -> None:
    """Cancelled while it starts, it leaves nothing behind."""
    async with leak_check():
        for turns in range(12):

            async def enter() -> None:
                async with cluster(2):
                    await asyncio.Event().wait()

            task = asyncio.create_task(enter())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_failure_in_the_body() -> None:
    """A failing body ends the group at once, whatever still runs, and leaves nothing behind."""
    async with leak_check(settle=0.01):
        with pytest.raises(AssertionError):
            async with cluster(3) as workers:
                call = workers[0].rpc_async("worker1", targets.sleep, args=(1000,))
                workers[1].rpc_notify("worker2", targets.sleep, args=(1000,))
                workers[1].rpc_notify("worker2", targets.block, args=(0.1,))
                await workers[2].rpc_async("worker0", targets.add, args=(1,))
                raise AssertionError
        with pytest.raises(rpc.NotInitializedError):
            await call


async def test_a_worker_that_left_early() -> None:
    """A worker may be ended in the body."""
    async with leak_check(), cluster(3) as workers:
        await workers[1].shutdown(graceful=False)


@pytest.mark.slow
async def test_partitioned_at_the_end_of_virtual_time() -> None:
    """Nobody moves time in the end, so it moves by itself: what waits for a timer gets it."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        a.partition([b.info])
        b.rpc_notify("worker0", targets.note, args=("never arrives",))

    assert 0 < clock.now() < 60


@pytest.mark.slow
async def test_time_is_moved_by_another_task_in_the_end() -> None:
    """A task that still advances the clock in the end is not disturbed."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        a.partition([b.info])
        mover = asyncio.create_task(clock.advance(30))
    await mover

    assert 30 <= clock.now()


async def test_virtual_time_waits_for_threads() -> None:
    """A plain function that takes real time has its result before virtual time moves on."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, _):
        calls = [a.rpc_async("worker1", targets.block, args=(0.02,), timeout=1) for _ in range(5)]
        await clock.advance(1)
        done = [call.done() for call in calls]
        names = await asyncio.gather(*calls)

    assert [True] * 5 == done
    assert all(name.startswith("asyncrpc-worker1") for name in names)


async def test_a_thread_that_waits_for_virtual_time() -> None:
    """A plain function blocked in rpc_sync does not hold time up: it may wait for it."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("delay", "PYTHON_CALL", peer="worker0", delay=50.0)])
    began = time.monotonic()
    async with cluster(2, clock=clock, faults=plan) as (a, _):
        call = a.rpc_async("worker1", targets.nested_sync, args=("worker0", 1), timeout=100)
        await clock.advance(49)
        early = call.done()
        await clock.advance(1)

        assert not early
        assert 1 == await call
    assert time.monotonic() - began < 2


async def test_a_thread_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time moves on if a function takes too long; it is not waited for time and again."""
    from asyncrpc.testing import clock as clock_module

    monkeypatch.setattr(clock_module, "_PATIENCE", 0.05)
    release.clear()
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, _):
        call = a.rpc_async("worker1", wait_for_the_test, timeout=5)
        await clock.advance(600)
        with pytest.raises(rpc.RpcTimeoutError):
            await call
        release.set()


release = threading.Event()


def wait_for_the_test() -> None:
    """Block until the test says so."""
    release.wait(10)


@pytest.mark.slow
async def test_minutes_in_no_time() -> None:
    """Heartbeats, deadlines and delays take no real time, and come out the same each time."""
    began = time.monotonic()
    first = await delayed_calls()
    again = await delayed_calls()

    assert [("late", 200.0, True), ("in time", 300.0, False), ("also", 300.0, False)] == first[0]
    assert first == again
    assert time.monotonic() - began < 15


async def delayed_calls() -> tuple[list[tuple[str, float, bool]], list[str]]:
    """Make three calls that are delayed; return when they failed or not, and the plan's log."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("delay", "PYTHON_CALL", delay=300.0)])
    log: list[tuple[str, float, bool]] = []

    async def call(worker: rpc.RpcAgent, name: str, timeout: float) -> None:
        answer = worker.rpc_async("worker1", targets.echo, args=(name,), timeout=timeout)
        await asyncio.wait([answer])
        log.append((name, clock.now(), answer.exception() is not None))

    async with cluster(2, clock=clock, faults=plan) as (a, _), asyncio.TaskGroup() as group:
        for name, timeout in (("late", 200), ("in time", 500), ("also", 400)):
            group.create_task(call(a, name, timeout))
        await clock.advance(600)
    return log, [str(event) for event in plan.events]


async def test_heartbeats_find_a_partition() -> None:
    """Virtual time runs the heartbeats too: a worker that is cut off is lost in time."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        call = a.rpc_async("worker1", targets.sleep, args=(1000,), timeout=None)
        await clock.advance(1)
        a.partition([b.info])
        await clock.advance(20)
        with pytest.raises(rpc.PeerLostError):
            await call


async def test_store_in_virtual_time() -> None:
    """Waits and leases of a store end in its clock's time."""
    clock = VirtualClock()
    async with kv_store(clock=clock) as store:
        waiting = asyncio.ensure_future(store.get("key", timeout=60))
        await clock.advance(59)
        early = waiting.done()
        await clock.advance(1)
        with pytest.raises(TimeoutError):
            await waiting

    assert not early


async def test_store_ends() -> None:
    """Leaving the store fails what waits in it."""
    async with kv_store() as store:
        waiting = asyncio.ensure_future(store.get("key"))
        await asyncio.sleep(0)
    with pytest.raises(StoreConnectionError):
        await waiting

    assert isinstance(store, MemoryStore)


async def test_bad_clock_of_a_store() -> None:
    """A clock must be one."""
    with pytest.raises(ValueError, match="clock must be a Clock"):
        kv_store(clock=math.pi)  # type: ignore[arg-type]
