"""Streams and calls between two asyncrpc workers, for bench_stream: every feature on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

import asyncrpc as rpc
from peers.asyncrpc_group import as_client, serve
from peers.asyncrpc_peer import echo

__all__ = ("items", "measure", "serve")

_IN_FLIGHT = 128
_SMALL = {"id": 7, "name": "item"}


async def items(count: int, value: object) -> AsyncIterator[object]:
    """Give a value that many times."""
    for _ in range(count):
        yield value


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and return items and calls per second."""
    return as_client(spec, lambda: _measure(int(spec["items"])))  # type: ignore[call-overload]  # json's int


async def _measure(count: int) -> dict[str, float]:
    await _stream(count // 10, 64)
    figures = {
        f"stream_window_{window}_s": await _stream(count, window) for window in (1, 16, 64, 1024)
    }
    start = perf_counter()
    for _ in range(count // 10):
        await rpc.rpc_async("server", echo, args=(_SMALL,))
    figures["one_by_one_s"] = count // 10 / (perf_counter() - start)
    figures["in_flight_128_s"] = await _in_flight(count)
    return figures


async def _stream(count: int, window: int) -> float:
    start = perf_counter()
    number = 0
    async for _ in rpc.rpc_stream("server", items, args=(count, _SMALL), window=window):
        number += 1
    if number != count:
        raise ValueError(f"{number} items came of {count}")
    return count / (perf_counter() - start)


async def _in_flight(count: int) -> float:
    left = count

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await rpc.rpc_async("server", echo, args=(_SMALL,))

    start = perf_counter()
    await asyncio.gather(*[caller() for _ in range(_IN_FLIGHT)])
    return count / (perf_counter() - start)
