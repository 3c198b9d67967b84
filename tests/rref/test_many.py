"""Very many references: dropped at once, and called at once."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from typing import Any, NamedTuple

import pytest

from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork
from tests.agent.groups import link, until
from tests.rref import workers
from tests.rref.workers import Counter, empty

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(120)]

MANY = 100_000


class LagMeter:
    """Measures the longest pause between two turns of the loop."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last)
            last = now


async def test_dropped_at_once() -> None:
    """100 000 references dropped at once: few frames, both loops go on, the link lives.

    The garbage collector is on, with its usual settings. The pause may be 0.1 s, or what this
    machine needs just now to collect as many dicts of its own, whichever is longer; the best of
    three counts.
    """
    async with cluster(2, network=SocketNetwork()) as (a, b):
        for _ in range(3):
            drop = await drop_many(a, b)
            if drop.pause < 0.1:
                break
        assert 1 == await a.rpc_async("worker1", workers.echo, args=(1,))
        left = await empty((a, b), 30)

    assert drop.messages <= MANY / 1000
    assert drop.pause < max(0.1, drop.yardstick)
    assert drop.is_same_link
    assert {} == left


class Drop(NamedTuple):
    """What came of dropping very many references."""

    pause: float
    yardstick: float
    messages: int
    is_same_link: bool


async def drop_many(a: Any, b: Any) -> Drop:
    """Have ``a`` drop references to values of ``b`` while both loops, which are one, are timed."""
    rrefs: list[Any] = []
    for _ in range(MANY // 10_000):
        rrefs += await a.rpc_async("worker1", workers.make_rrefs, args=(10_000,))
    connection = link(a, "worker1")
    before = b.references.handled
    meter = LagMeter()
    await asyncio.to_thread(rrefs.clear)  # the drops themselves are the user's own time
    measuring = asyncio.create_task(meter.run())
    await until(lambda: not b.references.machine._owners.holders, 60)
    measuring.cancel()
    messages = b.references.handled - before
    is_same_link = link(a, "worker1") is connection
    return Drop(meter.longest, collection_time(), messages, is_same_link)


def collection_time() -> float:
    """Return the seconds that collecting ``MANY`` dicts takes here and now, and all else."""
    dicts = [{"a": [number]} for number in range(MANY)]
    begun = time.perf_counter()
    gc.collect()
    taken = time.perf_counter() - begun
    assert len(dicts) == MANY
    return taken


async def test_what_a_reference_costs_the_garbage_collector() -> None:
    """It looks at two objects for each: the user's RRef, and the user's value at the owner."""
    count = 2_000
    async with cluster(2) as (a, b):
        for _ in range(2):  # the first round fills what is made once and kept
            gc.collect()
            before = len(gc.get_objects())
            created = [a.remote("worker1", Counter, args=(n,)) for n in range(count)]
            assert list(range(count)) == [c.value for c in await asyncio.gather(*created)]
            given = await a.rpc_async("worker1", workers.make_rrefs, args=(count,))
            await a.rpc_async("worker1", workers.echo, args=(1,))
            gc.collect()
            tracked = len(gc.get_objects()) - before
            del created, given
            assert {} == await empty((a, b))

    # Python 3.14 counts the attributes of a value, its __dict__, apart.
    assert tracked < (2.2 if sys.version_info < (3, 14) else 2.7) * 2 * count


async def test_many_calls_at_once() -> None:
    """Ten thousand calls and reads of one reference are out at once, beyond all limits."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", Counter)
        calls = [rref.rpc_async().async_plus() for _ in range(10_000)]
        reads = [rref.to_here() for _ in range(2_000)]

        assert 10_000 == max(await asyncio.gather(*calls))
        assert 10_000 == (await asyncio.gather(*reads))[-1].value
        del rref
        calls.clear()
        reads.clear()
        assert {} == await empty((a, b))


async def test_many_of_unknown_end() -> None:
    """References of a call that was cancelled are asked about in one message, however large."""
    async with cluster(2) as (a, b):
        await a.rpc_async("worker1", workers.echo, args=(1,))
        connection = link(a, "worker1")
        count = 14_000
        rrefs = [a.rref(number) for number in range(count)]
        call = a.rpc_async("worker1", workers.hold_until, args=("closed", *rrefs))
        await until(lambda: len(a.references.machine._owners.holders) == count)
        await until(lambda: b.debug_info()["agent.server_active_calls"] == "1")
        call.cancel()
        del rrefs, call
        left = await empty((a, b), 30)
        is_same_link = link(a, "worker1") is connection

    assert {} == left
    assert is_same_link
