"""The store in memory: its clock, its end, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc

import pytest

from asyncrpc.errors import Delivery, StoreConnectionError, StoreError, StoreTimeoutError
from asyncrpc.store import MemoryStore, StoreEvent
from asyncrpc.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def test_time_is_that_of_its_clock() -> None:
    """Time-outs and leases follow the clock given, not the real one."""
    clock = VirtualClock()
    async with MemoryStore(clock=clock) as store:
        waiting = asyncio.create_task(store.get("k", 100))
        await clock.advance(99.9)
        assert not waiting.done()
        await clock.advance(0.2)
        with pytest.raises(StoreTimeoutError, match="100 s"):
            await waiting

        async with store.lease(30) as lease:
            await store.set("k", "v", lease=lease)
            await clock.advance(300)
            assert await store.check(["k"]) is True
            lease.abandon()
            await clock.advance(31)
            assert await store.check(["k"]) is False


async def test_its_time_out_is_the_default() -> None:
    """Operations without a time-out take the store's; None is no limit."""
    clock = VirtualClock()
    async with MemoryStore(5, clock=clock) as store, MemoryStore(None, clock=clock) as patient:
        waits = [asyncio.create_task(store.get("k")), asyncio.create_task(patient.get("k"))]
        await clock.advance(5.1)
        with pytest.raises(StoreTimeoutError):
            await waits[0]
        await clock.advance(1e6)
        await patient.set("k", "v")

        assert await waits[1] == b"v"


@pytest.mark.parametrize("timeout", [-1, float("nan"), "x", True])
async def test_a_bad_time_out_is_named(timeout: object) -> None:
    """The store's own time-out is checked like any other."""
    with pytest.raises((TypeError, ValueError), match=r"^timeout "):
        MemoryStore(timeout)  # type: ignore[arg-type] # wrong on purpose


async def test_closing_fails_what_waits() -> None:
    """Waits, watches and later calls fail; closing twice is allowed."""
    store = MemoryStore()
    waiting = asyncio.create_task(store.get("k"))
    watch = store.watch("")
    await asyncio.sleep(0)
    await store.close()
    await store.close()

    for operation in (waiting, anext(watch), store.num_keys()):
        with pytest.raises(StoreConnectionError, match="was closed"):
            await operation


async def test_failures_say_that_the_store_answered() -> None:
    """An error of the table has delivery EXECUTED, at once or later."""
    async with MemoryStore() as store:
        await store.set("k", "word")
        for operation in (store.add("k", 1), store.get("absent", 0.001)):
            with pytest.raises(StoreError) as caught:
                await operation

            assert caught.value.delivery is Delivery.EXECUTED


async def test_a_pop_cancelled_in_its_last_turn_loses_nothing() -> None:
    """A value goes back if the cancel and the value come in the same turn, in any order."""
    async with MemoryStore() as store:
        for is_waiting in (False, True):
            for is_cancelled_first in (False, True):
                if not is_waiting:
                    await store.queue_push("q", "x")
                task = asyncio.create_task(store.queue_pop("q"))
                await asyncio.sleep(0)
                if is_cancelled_first:
                    task.cancel()
                if is_waiting:
                    await store.queue_push("q", "x")
                task.cancel()
                [result] = await asyncio.gather(task, return_exceptions=True)
                if result != b"x":
                    assert isinstance(result, asyncio.CancelledError)
                    assert await store.queue_pop("q", block=False) == b"x"


async def test_a_dropped_watch_is_withdrawn() -> None:
    """A watch that nobody holds any more ends."""
    async with MemoryStore() as store:
        watch = store.watch("")
        assert store.debug_info()["waiting"] == 1
        del watch
        gc.collect()
        await asyncio.sleep(0)

        assert store.debug_info()["waiting"] == 0


async def test_a_watch_is_told_a_long_past() -> None:
    """All of it, as much as the store keeps."""
    async with MemoryStore() as store:
        for _ in range(5):
            await store.multi_set([f"k{number}" for number in range(5000)], [b""] * 5000)
        async with store.watch("", since=0) as watch:
            seen = [(await anext(watch)).version for _ in range(25_000)]

    assert seen == list(range(1, 25_001))


async def test_nothing_is_left_of_many_calls() -> None:
    """Cancelled, timed out and answered waits leave every table empty."""
    async with MemoryStore() as store:
        waits = [asyncio.create_task(store.get(f"k{number}", 0.01)) for number in range(30)]
        await asyncio.sleep(0)
        for number in range(10):
            waits[number].cancel()
            await store.set(f"k{number + 10}", "")
        await asyncio.gather(*waits, return_exceptions=True)

        assert store.debug_info()["waiting"] == 0
        assert not store._waiting


async def test_leases_are_entered_once() -> None:
    """A lease cannot be entered again, and says whether it is alive."""
    async with MemoryStore() as store:
        lease = store.lease(5)
        assert not lease.is_alive
        async with lease:
            assert lease.is_alive
            with pytest.raises(RuntimeError, match="only once"):
                await lease.__aenter__()
        assert not lease.is_alive


async def test_lost_leases_are_noticed() -> None:
    """A lease that another ended is known to be lost at its next renewal."""
    clock = VirtualClock()
    async with MemoryStore(clock=clock) as store, store.lease(3) as lease:
        await store.revoke_lease(lease)
        await clock.advance(1.1)

        assert not lease.is_alive


async def test_events_compare_and_read_well() -> None:
    """Events are plain values."""
    event = StoreEvent("put", "k", b"v", 7)

    assert event == StoreEvent(kind="put", key="k", value=b"v", version=7)
    assert repr(event) == "StoreEvent(kind='put', key='k', value=b'v', version=7)"
