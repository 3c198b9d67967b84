"""A stream of replies and calls of grpc.aio with msgpack, for bench_stream; on uvloop.

Its flow control counts bytes, so there is no window to choose: its stream stands in the row of ours
as it comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import perf_counter

import grpc
import grpc.aio
import msgpack
import uvloop

from peers.grpc_aio import serve

__all__ = ("measure", "serve")

_IN_FLIGHT = 128
_SMALL = {"id": 7, "name": "item"}


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Return items and calls per second; of a tenth as many, since each takes as much longer."""
    return uvloop.run(_measure(str(spec["endpoint"]), int(spec["items"]) // 10))  # type: ignore[call-overload]  # json's int


async def _measure(endpoint: str, count: int) -> dict[str, float]:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        kinds = {"request_serializer": msgpack.packb, "response_deserializer": msgpack.unpackb}
        call = channel.unary_unary("/Bench/Echo", **kinds)
        stream = channel.unary_stream("/Bench/Items", **kinds)
        await call(_SMALL)
        start = perf_counter()
        for _ in range(count // 10):
            await call(_SMALL)
        one_by_one = count // 10 / (perf_counter() - start)
        start = perf_counter()
        await asyncio.gather(*[_several(call, count // _IN_FLIGHT) for _ in range(_IN_FLIGHT)])
        in_flight = count // _IN_FLIGHT * _IN_FLIGHT / (perf_counter() - start)
        start = perf_counter()
        number = await _count(stream([count, _SMALL]))
        if number != count:
            raise ValueError(f"{number} items came of {count}")
        return {
            "one_by_one_s": one_by_one,
            "in_flight_128_s": in_flight,
            "stream_window_64_s": count / (perf_counter() - start),
        }


async def _several(call: grpc.aio.UnaryUnaryMultiCallable, count: int) -> None:
    for _ in range(count):
        await call(_SMALL)


async def _count(items: AsyncIterator[object]) -> int:
    number = 0
    async for _ in items:
        number += 1
    return number
