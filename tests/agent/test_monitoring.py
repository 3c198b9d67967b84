"""Monitors: every worker's fate in order, bounded, for several readers, and gone when let go."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref

import pytest

import asyncrpc as rpc
from asyncrpc import MemberEvent, WorkerInfo
from asyncrpc.agent import Monitor, PeerState
from asyncrpc.testing import cluster

pytestmark = pytest.mark.asyncio

A, B = WorkerInfo("a", 0), WorkerInfo("b", 1)


def everybody(_: WorkerInfo) -> bool:
    """Accept all."""
    return True


async def rest(monitor: Monitor) -> list[tuple[str, str]]:
    """Return what is left in a monitor that has ended."""
    return [(event.worker.name, event.kind) async for event in monitor]


async def test_present_first() -> None:
    """It begins with those that are there, then tells what happens, then ends."""
    monitor = Monitor(everybody, [A, B])
    monitor.put(MemberEvent(A, "left", "it shut down"))
    monitor.end()
    monitor.put(MemberEvent(B, "lost", "too late"))

    assert [("a", "joined"), ("b", "joined"), ("a", "left")] == await rest(monitor)
    assert [] == await rest(monitor)


async def test_filter() -> None:
    """Of the others it says nothing."""
    monitor = Monitor(lambda info: info.name == "b", [A, B])
    monitor.put(MemberEvent(A, "lost", ""))
    monitor.put(MemberEvent(B, "lost", "it fell silent"))
    monitor.end()

    assert [MemberEvent(B, "joined"), MemberEvent(B, "lost", "it fell silent")] == [
        event async for event in monitor
    ]


async def test_cancelled_reader_loses_nothing() -> None:
    """A reader that was cancelled takes the next event the next time."""
    monitor = Monitor(everybody, [])
    reader = asyncio.ensure_future(anext(monitor))
    await asyncio.sleep(0)
    monitor.put(MemberEvent(A, "joined"))
    reader.cancel()  # in the very turn in which it would have been woken
    with pytest.raises(asyncio.CancelledError):
        await reader

    assert MemberEvent(A, "joined") == await anext(monitor)


async def test_two_readers() -> None:
    """A monitor has one reader; a second one at the same time is told."""
    monitor = Monitor(everybody, [])
    reader = asyncio.ensure_future(anext(monitor))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="read by another task"):
        await anext(monitor)
    monitor.end()
    with pytest.raises(StopAsyncIteration):
        await reader


async def test_close() -> None:
    """Closing drops what waits and stops the reader."""
    async with Monitor(everybody, [A]) as monitor:
        assert MemberEvent(A, "joined") == await anext(monitor)
        reader = asyncio.ensure_future(anext(monitor))
        await asyncio.sleep(0)
        monitor.put(MemberEvent(A, "lost"))
        await monitor.aclose()
        with pytest.raises(StopAsyncIteration):
            await reader
        await monitor.aclose()


@pytest.mark.parametrize("seed", range(10))
async def test_slow_reader(seed: int) -> None:
    """However far it falls behind, the reader ends up knowing who is there, in bounded memory."""
    choice = random.Random(seed)
    monitor = Monitor(everybody, [])
    truth: dict[str, WorkerInfo] = {}
    view: dict[str, WorkerInfo] = {}
    most = taken = 0
    for number in range(20_000):
        name = f"w{choice.randrange(40)}" if choice.random() < 0.5 else f"w{number}"
        info = WorkerInfo(name, number % 32768)
        if name in truth:
            monitor.put(MemberEvent(truth.pop(name), choice.choice(("left", "lost"))))
        else:
            truth[name] = info
            monitor.put(MemberEvent(info, "joined"))
            if len(truth) > 50:
                monitor.put(MemberEvent(truth.pop(next(iter(truth))), "lost"))
        most = max(most, len(monitor._events))
        if choice.random() < 0.02:
            note(view, await anext(monitor))
            taken += 1
    monitor.end()
    async for event in monitor:
        note(view, event)

    assert truth == view
    assert taken > 100
    assert most <= 1025


def note(view: dict[str, WorkerInfo], event: MemberEvent) -> None:
    """Follow the events as a user would."""
    if event.kind == "joined":
        view[event.worker.name] = event.worker
    else:
        assert event.worker.name in view, "a worker went that never came"
        del view[event.worker.name]


async def test_of_an_agent() -> None:
    """Several at once see the same; one of a name sees that one; all end with the agent."""
    async with cluster(3) as (a, b, _):
        monitors = [a.monitor(), a.monitor(), a.monitor("worker1"), a.monitor(1), a.monitor(b.info)]
        first = [[(await anext(m)).worker.name for _ in range(3)] for m in monitors[:2]]
        only = [(await anext(m)).worker for m in monitors[2:]]
        a._agent.members.lose(a._agent.members.route("worker1"), "the test says so")
        lost = [await anext(m) for m in monitors]
        a._agent.members.gone(a._agent.members.route("worker2"), PeerState.LEFT, "by itself")
        left = [await anext(m) for m in monitors[:2]]
        waiting = [asyncio.ensure_future(anext(m)) for m in monitors]
        await a.shutdown(graceful=False)
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        after = await rest(a.monitor())

    assert [["worker0", "worker1", "worker2"]] * 2 == first
    assert [b.info] * 3 == only
    assert [MemberEvent(b.info, "lost", "the test says so")] * 5 == lost
    assert ["left"] * 2 == [event.kind for event in left]
    assert {StopAsyncIteration} == {type(end) for end in ends}
    assert [] == after


async def test_of_the_process() -> None:
    """`asyncrpc.monitor` is that of the process's agent."""
    options = rpc.RpcOptions(secret=b"a secret of the tests")
    store = rpc.store.MemoryStore()
    with pytest.raises(rpc.NotInitializedError):
        rpc.monitor()
    async with rpc.init_rpc("a", rank=0, world_size=1, options=options, store=store) as agent:
        async for event in rpc.monitor():
            assert MemberEvent(agent.info, "joined") == event
            break
        with pytest.raises(ValueError, match="name must be a name, an int id"):
            rpc.monitor(1.5)  # type: ignore[arg-type]


async def test_let_go() -> None:
    """A monitor that nobody holds any more is collected."""
    async with cluster(1) as (a,):
        async for _ in a.monitor():
            break
        monitor = a.monitor()
        gone = weakref.ref(monitor)
        del monitor
        gc.collect()

        assert gone() is None
        assert 0 == len(a._agent.members._monitors)
