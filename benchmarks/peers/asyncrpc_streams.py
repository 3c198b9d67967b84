"""Streams and calls between two asyncrpc workers, for bench_stream: every feature on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import perf_counter

import asyncrpc as rpc
from peers.asyncrpc_peer import connection_options, echo

__all__ = ("finish", "items", "measure", "serve")

_IN_FLIGHT = 128
_SMALL = {"id": 7, "name": "item"}

_finished = asyncio.Event()


async def items(count: int, value: object) -> AsyncIterator[object]:
    """Give a value that many times."""
    for _ in range(count):
        yield value


async def finish() -> None:
    """Let the server leave the group."""
    _finished.set()


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Join as rank 0 and serve until the client says it is finished."""

    async def main() -> None:
        ready(f"tcp://127.0.0.1:{spec['port']}")
        options = connection_options(spec, "server")
        async with rpc.init_rpc("server", rank=0, world_size=2, options=options):
            await _finished.wait()

    rpc.run(main())


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and return items and calls per second."""

    async def main() -> dict[str, float]:
        options = connection_options(spec, "client")
        async with rpc.init_rpc("client", rank=1, world_size=2, options=options):
            figures = await _measure(int(spec["items"]))  # type: ignore[call-overload]  # json's int
            await rpc.rpc_async("server", finish)
        return figures

    result: dict[str, float] = rpc.run(main())
    return result


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
