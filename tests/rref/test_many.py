"""Very many references: dropped at once, and called at once."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

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
    """100 000 references dropped at once: few frames, both loops go on, the link lives."""
    async with cluster(2, network=SocketNetwork()) as (a, b):
        rrefs: list[Any] = []
        for _ in range(MANY // 10_000):
            rrefs += await a.rpc_async("worker1", workers.make_rrefs, args=(10_000,))
        connection = link(a, "worker1")
        before = b.references.handled
        meter = LagMeter()
        gc.disable()  # a full collection of so many objects takes longer, whoever causes it
        await asyncio.to_thread(rrefs.clear)  # the drops themselves are the user's own time
        measuring = asyncio.create_task(meter.run())
        await until(lambda: not b.references.machine._owners._held, 60)
        measuring.cancel()
        gc.enable()
        messages = b.references.handled - before
        is_same = link(a, "worker1") is connection
        assert 1 == await a.rpc_async("worker1", workers.echo, args=(1,))
        left = await empty((a, b), 30)

    assert messages <= MANY / 1000
    assert meter.longest < 0.1
    assert is_same
    assert {} == left


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
