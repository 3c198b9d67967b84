"""One asyncrpc worker that loads many others, for bench_load: every feature on.

The server process holds all the others: each is an agent of its own with its own link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from time import perf_counter

import asyncrpc as rpc
from harness.samples import latency
from peers.asyncrpc_group import connection_options, finish, finished
from peers.asyncrpc_peer import echo, take

__all__ = ("IDLE", "WORKERS", "echo_blocking", "echo_inline", "measure", "serve")

WORKERS = 16
"""Workers that a fan-out goes to."""
IDLE = 100
"""Further workers that are connected and have nothing to do."""

_SMALL = {"id": 7, "name": "item"}
_BULK = 16 << 20  # bytes of an array of the mixed load
_BULKS_IN_FLIGHT = 2


@rpc.inline
def echo_inline(value: object) -> object:
    """Give the argument back, on the loop."""
    return value


def echo_blocking(value: object) -> object:
    """Give the argument back, in a thread."""
    return value


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Join as all workers but the last, and serve until that one says it is finished."""

    async def main() -> None:
        ready(f"tcp://127.0.0.1:{spec['port']}")
        async with AsyncExitStack() as stack:
            starts = [_start(spec, rank) for rank in range(_others(spec))]
            for agent in await asyncio.gather(*starts):
                stack.push_async_callback(agent.shutdown, graceful=False)
            await finished()

    rpc.run(main())


def _others(spec: dict[str, object]) -> int:
    idle: int = spec["idle"]  # type: ignore[assignment]  # json's int
    return WORKERS + idle


async def _start(spec: dict[str, object], rank: int) -> rpc.RpcAgent:
    options = replace(connection_options(spec, f"w{rank}"), num_worker_threads=2)
    world_size = _others(spec) + 1
    return await rpc.RpcAgent.start(f"w{rank}", rank=rank, world_size=world_size, options=options)


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as the last worker and return the figures."""

    async def main() -> dict[str, float]:
        agent = await _start(spec, _others(spec))
        try:
            if spec["idle"]:
                return await _idle(agent, spec)
            return await _busy(agent, spec)
        finally:
            await agent.rpc_async("w0", finish)
            await agent.shutdown(graceful=False)

    result: dict[str, float] = rpc.run(main())
    return result


async def _idle(agent: rpc.RpcAgent, spec: dict[str, object]) -> dict[str, float]:
    """Measure calls to one worker, all others being connected."""
    for rank in range(_others(spec)):
        await agent.rpc_async(f"w{rank}", echo, args=(_SMALL,))
    seconds = await _one_by_one(agent, int(spec["calls"]) // 4)  # type: ignore[call-overload]  # json's int
    return latency(seconds, "idle_peers")


async def _busy(agent: rpc.RpcAgent, spec: dict[str, object]) -> dict[str, float]:
    calls = int(spec["calls"])  # type: ignore[call-overload]  # json's int
    await _one_by_one(agent, 500)
    figures = latency(await _one_by_one(agent, calls // 4), "alone")
    handlers = (("async", echo), ("inline", echo_inline), ("thread", echo_blocking))
    for name, function in handlers:
        for width in (1, 16, 128, 1024):
            if name == "async" or width == 128:
                count = calls // (8 if width == 1 else 2)
                rate = await _in_flight(agent, function, count, width)
                figures[f"{name}_{width}_s"] = rate
    figures["fan_out_s"] = await _fan_out(agent, calls // (4 * WORKERS))
    figures |= await _mixed(agent, calls // 40)
    return figures


async def _one_by_one(agent: rpc.RpcAgent, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        start = perf_counter()
        await agent.rpc_async("w0", echo, args=(_SMALL,))
        seconds.append(perf_counter() - start)
    return seconds


async def _in_flight(
    agent: rpc.RpcAgent, function: Callable[[object], object], count: int, width: int
) -> float:
    """Return calls per second of `width` coroutines."""
    left = count

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await agent.rpc_async("w0", function, args=(_SMALL,))

    return await _rate(count, [caller() for _ in range(width)])


async def _fan_out(agent: rpc.RpcAgent, rounds: int) -> float:
    """Return calls per second, one to each of the workers at a time."""

    async def go() -> None:
        for _ in range(rounds):
            await asyncio.gather(
                *[agent.rpc_async(f"w{rank}", echo, args=(_SMALL,)) for rank in range(WORKERS)]
            )

    return await _rate(rounds * WORKERS, [go()])


async def _rate(count: int, work: Sequence[Awaitable[None]]) -> float:
    start = perf_counter()
    await asyncio.gather(*work)
    return count / (perf_counter() - start)


async def _mixed(agent: rpc.RpcAgent, count: int) -> dict[str, float]:
    """Measure small calls over the link on which arrays are sent without a pause."""
    import numpy as np  # type: ignore[import-not-found, unused-ignore]  # an extra

    array = np.zeros(_BULK, dtype=np.uint8)
    sent = 0

    async def send() -> None:
        nonlocal sent
        while True:
            sent += await agent.rpc_async("w0", take, args=(array,))

    start = perf_counter()
    sending = [asyncio.create_task(send()) for _ in range(_BULKS_IN_FLIGHT)]
    await asyncio.sleep(0.1)
    seconds = await _one_by_one(agent, count)
    elapsed = perf_counter() - start
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    return latency(seconds, "mixed") | {"mixed_mb_s": sent / elapsed / 1e6}
