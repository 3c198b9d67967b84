"""Large buffers through shared memory, long and at random: right, released, nothing piles up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
from typing import Any

import numpy as np
import psutil
import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import IS_POSSIBLE, SocketNetwork
from tests.agent.groups import at_rest
from tests.agent.targets import echo

TRANSFERS = int(os.environ.get("SHARED_TRANSFERS", "200"))
"""How many calls a run makes; `make soak` makes many more."""

MIB = 1 << 20
KEPT = 12  # results in use at once

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio,
    pytest.mark.skipif(not IS_POSSIBLE, reason="needs memfd of the system"),
    pytest.mark.timeout(30 + TRANSFERS // 10),
]


async def numbers(count: int, size: int, value: int) -> Any:
    """Give arrays of one value."""
    for _ in range(count):
        yield np.full(size, value, np.uint8)


class Schedule:
    """Random calls of one worker to another, and what it keeps of their results."""

    def __init__(self, agent: Any, to: str, seed: int) -> None:
        self.agent = agent
        self.to = to
        self.random = random.Random(seed)
        self.kept: list[tuple[int, Any]] = []

    async def run(self, calls: int) -> None:
        """Make calls, a few at once; check all that comes back, and what was kept meanwhile."""
        for start in range(0, calls, 4):
            await asyncio.gather(*[self.call(start + n) for n in range(4)])
            self.random.shuffle(self.kept)
            for value, array in self.kept:
                assert value == array[0] == array[-1]
            del self.kept[self.random.randrange(KEPT) :]

    async def call(self, number: int) -> None:
        """Make one call of a random kind."""
        value = number % 251
        array = np.full(self.random.randrange(MIB, 3 * MIB), value, np.uint8)
        match self.random.randrange(6):
            case 0:
                assert array.tobytes() == await self.echo(array.tobytes())
            case 1:
                await self.cancelled(array)
            case 2:
                stream = self.agent.rpc_stream(self.to, numbers, args=(3, array.size, value))
                async for item in stream:
                    assert value == item[0] == item[-1]
            case 3:
                for half in await self.echo([array, array[:MIB]]):
                    assert np.all(half == value)
            case _:
                answer = await self.echo(array)
                assert np.array_equal(array, answer)
                self.kept.append((value, answer))

    async def echo(self, content: object) -> Any:
        """Send something there and back."""
        return await self.agent.rpc_async(self.to, echo, args=(content,))

    async def cancelled(self, array: Any) -> None:
        """Make a call and give it up somewhere on its way."""
        call = self.agent.rpc_async(self.to, echo, args=(array,))
        for _ in range(self.random.randrange(30)):
            await asyncio.sleep(0)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call


async def test_random_schedules() -> None:
    """Contents are right whatever else goes on; in the end no place, page or descriptor is held."""
    process = psutil.Process()
    async with cluster(2, options=rpc.RpcOptions(), network=SocketNetwork()) as (a, b):
        schedules = [Schedule(a, "worker1", 1), Schedule(b, "worker0", 2)]
        await asyncio.gather(*[s.run(TRANSFERS // 4) for s in schedules])
        files, memory = process.num_fds(), process.memory_info().rss
        await asyncio.gather(*[s.run(TRANSFERS // 4) for s in schedules])

        assert process.num_fds() <= files + 1
        assert process.memory_info().rss - memory < 128 * MIB
        del schedules
        gc.collect()
        assert {} == await at_rest((a, b))
