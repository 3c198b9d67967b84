"""The load for peers whose calls are awaited: sequential, 128 coroutines, sizes, an array."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from harness.budget import IN_FLIGHT, SIZES, Budget, small_value
from harness.cpu import cpu_seconds, pinned_to_one_core, pinned_to_own_cores
from harness.loss import lose_awaited
from harness.samples import latency, rate, size_figures

__all__ = ("AsyncClient", "run_load")


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncClient:
    """What a peer gives to the load."""

    call: Callable[[Any], Awaitable[object]]
    """Echo one small value or a bytes."""

    hang: Callable[[], Awaitable[object]] | None = None
    """Call what never answers, without a timeout. None: a limit, which does not notice a loss."""

    send_array: Callable[[Any], Awaitable[object]] | None = None
    """Send a numpy array; done when the server has all of it. None: no array path."""

    echo_array: Callable[[Any], Awaitable[object]] | None = None
    """Send a numpy array and get an equal one back."""


async def run_load(
    client: AsyncClient, spec: dict[str, object], value: object = None
) -> dict[str, float]:
    """Run everything in order and return the figures, or those of the server's loss.

    Args:
        client: the connected peer.
        spec: what the parent gave (`harness.role`): budget, server_pid, small; or, for
            `harness.loss`, signal and patience.
        value: the small argument; None means the one every peer gets.
    """
    if client.hang is not None and "signal" in spec:
        return await lose_awaited(client.hang, spec)
    budget = Budget(**spec["budget"])  # type: ignore[arg-type]
    server_pid = int(spec["server_pid"])  # type: ignore[call-overload]
    value = small_value(str(spec["small"])) if value is None else value
    await _check_echo(client, value)
    figures = await _sequential(client, value, budget, server_pid)
    figures |= await _in_flight(client, value, budget, server_pid)
    for label, size in SIZES.items():
        seconds = await _repeat(
            client.call, os.urandom(size), budget.size_calls, budget.size_seconds
        )
        figures |= size_figures(label, size, seconds)
    return figures | await _arrays(client, budget)


async def _check_echo(client: AsyncClient, value: object) -> None:
    for sample in (value, b"\x00\xff" * 40_000):
        answer = await client.call(sample)
        if answer != sample:
            raise ValueError(f"the echo of {str(sample)[:40]} is {str(answer)[:40]}")


async def _sequential(
    client: AsyncClient, value: object, budget: Budget, server_pid: int
) -> dict[str, float]:
    await _repeat(client.call, value, 500, 0.2)  # warm up
    seconds = await _repeat(client.call, value, budget.sequential_calls, budget.sequential_seconds)
    figures = latency(seconds, "sequential")
    for prefix, pin in (("pinned", pinned_to_one_core), ("apart", pinned_to_own_cores)):
        with pin((os.getpid(), server_pid)):
            seconds = await _repeat(
                client.call, value, budget.sequential_calls // 2, budget.sequential_seconds / 2
            )
        figures |= latency(seconds, prefix)
    return figures


async def _in_flight(
    client: AsyncClient, value: object, budget: Budget, server_pid: int
) -> dict[str, float]:
    await _flood(client, value, budget.flight_calls // 10, budget.flight_seconds / 5)
    pids = (os.getpid(), server_pid)
    cpu_before = [cpu_seconds(pid) for pid in pids]
    start = perf_counter()
    calls = await _flood(client, value, budget.flight_calls, budget.flight_seconds)
    elapsed = perf_counter() - start
    used = [cpu_seconds(pid) - before for pid, before in zip(pids, cpu_before, strict=True)]
    return {
        "in_flight_calls_s": calls / elapsed,
        "client_cpu_s_100k": used[0] / calls * 1e5,
        "server_cpu_s_100k": used[1] / calls * 1e5,
    }


async def _flood(client: AsyncClient, value: object, calls: int, seconds: float) -> int:
    """Keep 128 calls in flight from 128 coroutines; return how many calls were answered."""
    left = calls

    def stop() -> None:
        nonlocal calls, left
        calls -= left
        left = 0

    async def caller() -> None:
        nonlocal left
        call = client.call
        while left > 0:
            left -= 1
            await call(value)

    timer = asyncio.get_running_loop().call_later(seconds, stop)
    await asyncio.gather(*[caller() for _ in range(IN_FLIGHT)])
    timer.cancel()
    return calls


async def _arrays(client: AsyncClient, budget: Budget) -> dict[str, float]:
    if client.send_array is None or client.echo_array is None:
        return {}
    import numpy as np

    array = np.arange(budget.array_bytes // 4, dtype=np.float32)
    start = perf_counter()
    answer: Any = await client.echo_array(array)
    first = perf_counter() - start
    if not np.array_equal(answer, array):
        raise ValueError("the echo of the array differs")
    del answer
    await client.send_array(array)
    sent = await _repeat(client.send_array, array, budget.array_calls, budget.array_seconds)
    if first > budget.array_seconds:
        echoed = [first]  # a warm-up would not change what takes seconds
    else:
        echoed = await _repeat(client.echo_array, array, budget.array_calls, budget.array_seconds)
    return {
        "array_send_gb_s": rate(array.nbytes / 1e9, sent),
        "array_echo_gb_s": rate(2 * array.nbytes / 1e9, echoed),
    }


async def _repeat(
    call: Callable[[object], Awaitable[object]], value: object, calls: int, seconds: float
) -> list[float]:
    """Call one after the other, at least once; return the seconds of each."""
    samples = []
    end = perf_counter() + seconds
    for _ in range(calls):
        start = perf_counter()
        await call(value)
        stop = perf_counter()
        samples.append(stop - start)
        if stop > end:
            break
    return samples
