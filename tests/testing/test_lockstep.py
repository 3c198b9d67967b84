"""`Lockstep`: threads end as they like, and their outcomes come in the order of their start."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster, lockstep

pytestmark = pytest.mark.asyncio

PATIENT = 10.0  # seconds of real time for what comes at once

served: list[object] = []
turns: list[threading.Event] = []


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with nothing served; a slow machine is no reason to give up the order."""
    served.clear()
    turns[:] = [threading.Event() for _ in range(5)]
    turns[-1].set()
    monkeypatch.setattr(lockstep, "_PATIENCE", PATIENT)


def backwards(n: int) -> int:
    """End before the function that was started just before."""
    assert turns[n + 1].wait(PATIENT)
    turns[n].set()
    return n


def call_backwards(n: int) -> Any:
    """Make a blocking call before the function that was started just before."""
    assert turns[n + 1].wait(PATIENT)
    threading.Timer(0.001, turns[n].set).start()  # once this call is on its way, most likely
    return rpc.rpc_sync("worker0", note, args=(n,))


def refer_backwards(n: int) -> Any:
    """Make a reference before the function that was started just before, and read it."""
    assert turns[n + 1].wait(PATIENT)
    threading.Timer(0.001, turns[n].set).start()
    return rpc.remote("worker0", note, args=(n,)).rpc_sync().__add__(0)


async def note(value: int) -> int:
    """Note what was served."""
    served.append(value)
    return value


def wait_for(n: int) -> int:
    """Wait for an event of the test's."""
    assert turns[n].wait(PATIENT)
    return n


def leave_a_thread(n: int) -> int:
    """Start a thread that makes a blocking call, in the same context, once this has ended."""

    def call() -> None:
        turns[0].wait(PATIENT)
        rpc.rpc_sync("worker0", note, args=(n,))
        turns[1].set()

    threading.Thread(target=contextvars.copy_context().run, args=(call,)).start()
    return n


def at_random(n: int) -> Any:
    """Take a while, make a call, take a while."""
    time.sleep(random.random() * 0.002)
    answer = rpc.rpc_sync("worker0", note, args=(n,)) if n % 3 else n
    time.sleep(random.random() * 0.002)
    return answer


async def test_ends_in_the_order_of_the_starts() -> None:
    """Functions that end one before the other are taken in the order in which they began."""
    ended: list[object] = []
    async with cluster(2, clock=VirtualClock()) as (a, _):
        calls = [a.rpc_async("worker1", backwards, args=(n,)) for n in range(4)]
        for call in calls:
            call.add_done_callback(lambda done: ended.append(done.result()))
        await asyncio.gather(*calls)

    assert [0, 1, 2, 3] == ended


@pytest.mark.parametrize("function", [call_backwards, refer_backwards])
async def test_blocking_calls_in_the_order_of_the_starts(function: Callable[[int], Any]) -> None:
    """So are the calls that they make, and what they make on the loop otherwise."""
    async with cluster(2, clock=VirtualClock()) as (a, _):
        answers = await asyncio.gather(
            *[a.rpc_async("worker1", function, args=(n,)) for n in range(4)]
        )

    assert [0, 1, 2, 3] == answers
    assert [0, 1, 2, 3] == served


async def test_more_functions_than_threads() -> None:
    """Functions that wait for a thread come in order too, behind those that block one."""
    options = rpc.RpcOptions(num_worker_threads=2)
    async with cluster(2, clock=VirtualClock(), options=options) as (a, _):
        answers = await asyncio.gather(
            *[a.rpc_async("worker1", at_random, args=(n,)) for n in range(12)]
        )

    assert list(range(12)) == answers
    assert [n for n in range(12) if n % 3] == served


async def test_one_that_waits_for_another_ones_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """Order is given up for a function that goes on computing, so that nothing waits for ever."""
    monkeypatch.setattr(lockstep, "_PATIENCE", 0.02)
    async with cluster(2, clock=VirtualClock()) as (a, _):
        stuck = a.rpc_async("worker1", wait_for, args=(0,))
        other = [await a.rpc_async("worker1", wait_for, args=(4,)) for _ in range(3)]
        turns[0].set()

        assert [4, 4, 4] == other
        assert await stuck == 0


async def test_thread_of_a_function_that_has_ended() -> None:
    """A blocking call that comes after the end of the function is let through."""
    async with cluster(2, clock=VirtualClock()) as (a, _):
        answer = await a.rpc_async("worker1", leave_a_thread, args=(1,))
        turns[0].set()
        await asyncio.to_thread(turns[1].wait, PATIENT)

    assert answer == 1
    assert [1] == served


async def test_two_groups_of_one_clock() -> None:
    """Groups that share a clock share the order, and may end one before the other."""
    clock = VirtualClock()
    ended: list[object] = []
    async with cluster(1, clock=clock) as (a,):
        async with cluster(1, clock=clock) as (b,):
            calls = [w.rpc_async("worker0", backwards, (n,)) for n, w in enumerate((a, b, a, b))]
            for call in calls:
                call.add_done_callback(lambda done: ended.append(done.result()))
            await asyncio.gather(*calls)
        last = await a.rpc_async("worker0", wait_for, args=(4,))

    assert [0, 2, 1, 3] == ended  # the calls of one worker come together
    assert last == 4


async def test_after_the_end() -> None:
    """What comes after the group's end is taken as it comes."""
    outcomes: asyncio.Queue[object] = asyncio.Queue()
    async with cluster(1, clock=VirtualClock()) as (a,):
        with pytest.raises(ZeroDivisionError):
            async with VirtualClock().lockstep.ordering([a.threads]):
                a.threads.submit(
                    asyncio.get_running_loop(),
                    contextvars.Context(),
                    wait_for,
                    (0,),
                    {},
                    lambda result, _: outcomes.put_nowait(result),
                )
                raise ZeroDivisionError
        turns[0].set()

        assert await asyncio.wait_for(outcomes.get(), PATIENT) == 0


async def test_same_log_in_every_run() -> None:
    """A seed decides all that happens, though the threads take their time."""

    async def run() -> list[Any]:
        clock = VirtualClock()
        rules = [rpc.Fault(kind, probability=0.3, delay=0.5) for kind in ("drop", "delay")]
        plan = rpc.FaultPlan(rules, seed=7)
        retry = rpc.RetryPolicy(per_attempt_timeout=1)
        async with cluster(3, clock=clock, faults=plan) as workers:
            calls = [
                workers[n % 3].rpc_async(
                    f"worker{(n + 1) % 3}", at_random, args=(n,), timeout=5, retry=retry
                )
                for n in range(30)
            ]
            await clock.advance(10)
            await asyncio.gather(*calls, return_exceptions=True)
        return list(plan.events)

    first = await run()

    assert len(first) > 30
    assert first == await run() == await run()
