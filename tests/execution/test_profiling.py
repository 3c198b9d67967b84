"""Profiling: what is measured while it is on, and that nothing is in the way when it is off."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.execution import (
    Executor,
    Profiler,
    ServedCall,
    Target,
    TargetKind,
    ThreadPool,
    intercept_incoming,
)
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import any_network, until
from tests.execution import profiled
from tests.execution.test_executor import Outcomes

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _closed() -> None:
    profiled.gate.clear()
    profiled.opened["loop"] = asyncio.Event()


def row(info: Mapping[str, str], name: str) -> dict[str, float]:
    """Return what is told of a function."""
    start = f"function.tests.execution.profiled:{name}."
    return {key.removeprefix(start): float(info[key]) for key in info if key.startswith(start)}


def replaced(agent: Any) -> set[str]:
    """Return the names of bound functions that are not those of their class."""
    executor = agent._agent.executor
    found = {name for name in ("start", "start_async", "_start_thread") if name in vars(executor)}
    return found | ({"submit"} & set(vars(executor.threads)))


async def test_times_of_functions_on_the_loop() -> None:
    """Calls, total and longest time, and errors; time is that of the agent's clock."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        b.enable_profiling()
        for seconds in (1, 3):
            call = a.rpc_async("worker1", profiled.on_loop)
            later = a.rpc_async("worker1", profiled.deferred)
            await clock.advance(seconds)
            profiled.opened["loop"].set()
            assert [1, 1] == [await call, await later]
            profiled.opened["loop"].clear()
        with pytest.raises(LookupError):
            await a.rpc_async("worker1", profiled.fail)
        a.rpc_async("worker1", profiled.hang).cancel()
        stopped = a.rpc_async("worker1", profiled.hang)
        await clock.advance(0)
        stopped.cancel()
        await clock.advance(0)
        assert await a.rpc_async("worker1", profiled.inline) == 3
        assert [0, 1] == [i async for i in a.rpc_stream("worker1", profiled.items, (2,))]
        info = b.debug_info()

    no_wait = {"total_wait": 0.0, "max_wait": 0.0}
    both = {"calls": 2.0, "errors": 0.0, "total_time": 4.0, "max_time": 3.0, **no_wait}
    once = {"calls": 1.0, "errors": 0.0, "total_time": 0.0, "max_time": 0.0, **no_wait}
    assert both == row(info, "on_loop")
    assert both == row(info, "deferred")
    assert {**once, "errors": 1.0} == row(info, "fail")
    assert once == row(info, "hang")
    assert once == row(info, "inline")
    assert once == row(info, "items")
    assert {} == row(a.debug_info(), "on_loop")


@pytest.mark.parametrize("has_interceptors", [False, True])
async def test_plain_functions_also_wait_for_a_thread(has_interceptors: bool) -> None:
    """The wait is told apart from the time that they take, with interceptors too."""
    now = [0.0]
    to = Outcomes()
    executor = Executor(ThreadPool(1, "test"))
    if has_interceptors:
        intercept_incoming(executor, [rpc.Interceptor()])
    profiler = Profiler(executor, lambda: now[0])
    profiler.start()
    for ident, function in enumerate((profiled.in_thread, profiled.in_thread)):
        target = Target(TargetKind.SYNC, function, "slow")
        executor.start(ServedCall(to, ident, target, 0.0, 1, reply=1), target, (), {})
    await until(lambda: executor.threads.queued == 1 and executor.threads.running)
    names = [entry.function for entry in executor.threads.running]
    now[0] = 5.0
    profiled.gate.set()
    target = Target(TargetKind.SYNC, profiled.fail_in_thread, "fails")
    executor.start(ServedCall(to, 2, target, 0.0, 1, reply=1), target, (), {})
    await until(lambda: len(to.outcomes) == 3)
    slow, fails = profiler.times()["slow"], profiler.times()["fails"]
    profiler.stop()
    executor.close()
    await executor.threads.close(5.0)
    await asyncio.sleep(0)

    assert ["tests.execution.profiled:in_thread"] == names
    assert [2, 0, 5.0, 5.0] == [slow.calls, slow.errors, slow.total_time, slow.max_time]
    assert [5.0, 5.0] == [slow.total_wait, slow.max_wait]
    assert [1, 1, 0.0] == [fails.calls, fails.errors, fails.total_wait]
    assert {0: 2, 1: 2, 2: LookupError} == to.outcomes


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_off_again_is_as_if_it_had_never_been_on(kind: str) -> None:
    """The bound functions are those of their classes, also on links that were there."""
    async with any_network(kind) as network, cluster(2, network=network) as (a, b):
        await a.rpc_async("worker1", profiled.inline)
        before = replaced(b)
        b.enable_profiling(True)
        b.enable_profiling(True)
        profiled.opened["loop"].set()
        await a.rpc_async("worker1", profiled.on_loop)
        on = row(b.debug_info(), "on_loop")
        hanging = a.rpc_async("worker1", profiled.hang)
        await until(lambda: b.metrics().calls_serving)
        b.enable_profiling(False)
        b.enable_profiling(False)
        after, off = replaced(b), b.debug_info()
        await a.rpc_async("worker1", profiled.on_loop)
        hanging.cancel()
        b.enable_profiling()
        anew = row(b.debug_info(), "on_loop")

    assert [set(), set()] == [before, after]
    assert 1.0 == on["calls"]
    assert [] == [key for key in off if key.startswith("function.")]
    assert {} == anew


async def test_module_function_acts_on_the_agent_that_serves() -> None:
    """As all module-level functions do."""
    async with cluster(2) as (a, b):
        await a.rpc_async("worker1", rpc.enable_profiling)
        await a.rpc_async("worker1", profiled.inline)
        info = b.debug_info()
        wrong: list[Any] = [1, None, "yes"]
        for value in wrong:
            with pytest.raises(ValueError, match="enabled must be True or False"):
                a.enable_profiling(value)

    assert 1.0 == row(info, "inline")["calls"]
