"""Calls made by served functions: from threads, from the loop, cancelled, late, in a full pool."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.adversity import handlers
from tests.agent import targets
from tests.agent.groups import at_rest, until

pytestmark = pytest.mark.asyncio

GATE = threading.Event()
ENTERED = threading.Event()
seen: list[Any] = []


@pytest.fixture(autouse=True)
def _reset() -> None:
    GATE.clear()
    ENTERED.clear()
    seen.clear()


def sync_to(to: str, seconds: float) -> Any:
    """Make a blocking nested call, and write down how it ended."""
    ENTERED.set()
    try:
        return rpc.rpc_sync(to, targets.sleep, args=(seconds,))
    except BaseException as error:
        seen.append(error)
        raise
    finally:
        seen.append(rpc.remaining())


def sync_after_gate(to: str) -> Any:
    """Wait, then make a blocking nested call."""
    ENTERED.set()
    GATE.wait(10)
    try:
        return rpc.rpc_sync(to, targets.note, args=("must not run",))
    except BaseException as error:
        seen.append(error)
        raise


async def hang_on(to: str) -> Any:
    """Wait for another worker for ever."""
    return await rpc.rpc_async(to, targets.sleep, args=(1000,))


async def test_blocking_nested_call_is_cancelled() -> None:
    """When the outer call is cancelled, a blocking nested one raises and remaining() is 0."""
    async with cluster(2) as agents:
        a, _ = agents
        call = a.rpc_async("worker1", sync_to, args=("worker0", 1000))
        await until(lambda: a.debug_info()["agent.server_active_async_calls"] == "1")
        call.cancel()
        await until(lambda: len(seen) == 2)
        left = await at_rest(agents)

    assert rpc.StatusCode.CANCELLED is seen[0].code
    assert 0.0 == seen[1]
    assert {} == left


async def test_nested_call_after_the_cancel_is_not_sent() -> None:
    """A function that was cancelled cannot start anything any more."""
    targets.log.clear()
    async with cluster(2) as agents:
        a, b = agents
        call = a.rpc_async("worker1", sync_after_gate, args=("worker0",))
        await until(ENTERED.is_set)
        call.cancel()
        await until(lambda: not any(not c.is_cancelled for c in served(b)))
        GATE.set()
        await until(lambda: seen)
        left = await at_rest(agents)

    assert (rpc.StatusCode.CANCELLED, rpc.Delivery.NOT_SENT) == (seen[0].code, seen[0].delivery)
    assert [] == targets.log
    assert {} == left


def served(agent: Any) -> list[Any]:
    """Return the calls that an agent serves."""
    return [call for server in agent._agent.servers for call in server.calls.values()]


async def test_queued_function_is_dropped() -> None:
    """A plain function whose call is cancelled while all threads are busy never runs."""
    targets.log.clear()
    async with cluster(2, options=rpc.RpcOptions(num_worker_threads=1)) as agents:
        a, _ = agents
        busy = a.rpc_async("worker1", wait_for_gate)
        await until(ENTERED.is_set)
        queued = a.rpc_async("worker1", targets.note, args=("never",))
        timed = a.rpc_async("worker1", targets.note, args=("never",), timeout=0.01)
        with pytest.raises(rpc.RpcTimeoutError):
            await timed
        queued.cancel()
        await a.rpc_async("worker1", targets.echo, args=(1,))
        GATE.set()
        await busy
        left = await at_rest(agents)

    assert [] == targets.log
    assert {} == left


def wait_for_gate() -> None:
    """Block a thread until the test opens the gate."""
    ENTERED.set()
    GATE.wait(10)


@pytest.mark.slow
async def test_full_pool_of_nested_blocking_calls() -> None:
    """Threads that all wait for each other hold up no deadline, cancel or async function."""
    async with cluster(2, options=rpc.RpcOptions(num_worker_threads=2)) as agents:
        a, _ = agents
        start = time.monotonic()
        calls = [
            a.rpc_async("worker1", targets.nested_sync, args=("worker0", 5), timeout=0.5)
            for _ in range(8)
        ]
        assert 1 == await a.rpc_async("worker1", targets.echo, args=(1,), timeout=0.4)
        calls[0].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        span = time.monotonic() - start
        left = await at_rest(agents)
        after = await a.rpc_async("worker1", targets.add, args=(1,))

    assert {asyncio.CancelledError, rpc.RpcTimeoutError} == {type(o) for o in outcomes}
    assert span < 1.5
    assert {} == left
    assert 11 == after


async def test_served_while_the_main_task_is_stuck() -> None:
    """A worker whose own program waits for something else serves calls all the same."""
    async with cluster(2) as (a, b):
        stuck = asyncio.create_task(asyncio.to_thread(GATE.wait, 10))
        also_stuck = asyncio.create_task(b.all_gather(1))
        results = [
            await a.rpc_async("worker1", targets.add, args=(1,)),
            await a.rpc_async("worker1", targets.echo, args=(2,)),
        ]
        GATE.set()
        await asyncio.gather(stuck, also_stuck, a.all_gather(0))

    assert [11, 2] == results


@pytest.mark.slow
async def test_deadline_of_a_nested_call_is_the_callers() -> None:
    """However deep a chain hangs, its caller sees its own timeout and nobody anything else."""
    async with cluster(3) as agents:
        a = agents[0]
        for _ in range(200):
            with pytest.raises(rpc.RpcTimeoutError):
                await a.rpc_async("worker1", hang_on, args=("worker2",), timeout=0.003)
        left = await at_rest(agents)

    assert {} == left


async def test_cancel_right_after_the_start() -> None:
    """A nested call is cancelled with the one it serves, however early that is."""
    async with cluster(3) as agents:
        a = agents[0]
        await a.rpc_async("worker1", handlers.nested, args=(1, 2))
        for turns in range(12):
            call = a.rpc_async("worker1", hang_on, args=("worker2",))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
        left = await at_rest(agents)

    assert {} == left


async def test_results_that_break_while_encoded() -> None:
    """A result or error whose encoding fails in any way is an error of the call, not silence."""
    limits = rpc.Limits(max_message_size=3000)
    async with cluster(2, options=rpc.RpcOptions(limits=limits)) as (a, b):
        with pytest.raises(rpc.RpcError, match="while encoding"):
            await a.rpc_async("worker1", unpicklable, timeout=1)
        with pytest.raises(rpc.MessageTooLargeError, match="max_message_size 3000"):
            await a.rpc_async("worker1", bytes, args=(3001,), timeout=1)
        with pytest.raises(rpc.RpcError, match="ValueError"):
            await a.rpc_async("worker1", fail_with, args=(5000,), timeout=1)
        with pytest.raises(rpc.MessageTooLargeError, match="max_message_size 3000"):
            await a.rpc_async("worker1", targets.echo, args=("x" * 3001,))
        with pytest.raises(rpc.MessageTooLargeError):
            await asyncio.gather(a.all_gather(bytes(2000)), b.all_gather(bytes(2000)))

        assert 11 == await a.rpc_async("worker1", targets.add, args=(1,))


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("while encoding")


def unpicklable() -> object:
    """Return what cannot travel."""
    return Unpicklable()


def fail_with(size: int) -> None:
    """Raise an error that is too large."""
    raise ValueError("x" * size)


async def test_burst_of_one_way_calls() -> None:
    """Many more one-way calls than places in flight all run."""
    targets.log.clear()
    async with cluster(2, options=rpc.RpcOptions(limits=rpc.Limits(max_inflight=8))) as (a, b):
        for number in range(500):
            a.rpc_notify("worker1", targets.note_and_wait, args=(number, 0.001))
        await asyncio.gather(a.shutdown(), b.shutdown())

    assert set(range(500)) == set(targets.log)


async def test_limit_of_the_callee() -> None:
    """Calls above the callee's limit wait though the caller's own is higher."""
    options = [rpc.RpcOptions(), rpc.RpcOptions(limits=rpc.Limits(max_inflight=4))]
    async with cluster(2, options=options) as (a, b):
        calls = [a.rpc_async("worker1", targets.sleep, args=(1000,)) for _ in range(6)]
        await until(lambda: len(served(b)) == 4)
        for call in calls:
            call.cancel()
        again = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(4)]
        results = await asyncio.gather(*again)

    assert [0, 1, 2, 3] == results


async def test_on_full_without_a_link() -> None:
    """With on_full="error" the limit holds before there is a link, too."""
    limits = rpc.Limits(max_inflight=2, on_full="error")
    async with cluster(2, options=rpc.RpcOptions(limits=limits)) as (a, _):
        calls = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(2)]
        with pytest.raises(rpc.ResourceExhaustedError, match="max_inflight is 2"):
            await a.rpc_async("worker1", targets.echo, args=(3,))

        assert [0, 1] == await asyncio.gather(*calls)


async def test_no_queue_at_all() -> None:
    """max_queued=0 still lets calls wait for the first link."""
    limits = rpc.Limits(max_inflight=2, max_queued=0)
    async with cluster(2, options=rpc.RpcOptions(limits=limits)) as (a, _):
        calls = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(2)]
        with pytest.raises(rpc.ResourceExhaustedError, match="max_queued is 0"):
            await a.rpc_async("worker1", targets.echo, args=(3,))

        assert [0, 1] == await asyncio.gather(*calls)


async def test_import_that_fails(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that raises while it is imported on the callee is a clear error."""
    (tmp_path / "broken_for_rpc.py").write_text("raise SystemExit('in the module')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.FunctionNotFoundError, match="in the module") as caught:
            await a.rpc_async("worker1", "broken_for_rpc:f")
        assert 11 == await a.rpc_async("worker1", targets.add, args=(1,))

    assert rpc.Delivery.NOT_SENT is caught.value.delivery


async def test_rpc_sync_after_the_end() -> None:
    """A thread that still waits when the worker ends hears of it; later ones at once."""
    async with cluster(2) as (a, b):
        waiting = asyncio.create_task(
            asyncio.to_thread(a.rpc_sync, "worker1", targets.sleep, (1000,))
        )
        await until(lambda: b.debug_info()["agent.server_active_calls"] == "1")
        await a.shutdown(graceful=False)
        with pytest.raises(rpc.NotInitializedError):
            await waiting
        with pytest.raises(rpc.NotInitializedError):
            await asyncio.to_thread(a.rpc_sync, "worker1", targets.add, (1,))
