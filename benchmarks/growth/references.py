"""Remote references held by one worker to values of another one, over TCP."""

from __future__ import annotations

import asyncio

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork
from growth.point import Held, timed

__all__ = ("make_value", "measure")

_BATCH = 1_000  # creations that are out at once


async def make_value() -> object:
    """Make what a reference refers to."""
    return 7


def measure(size: int) -> dict[str, float]:
    """Create, confirm and drop `size` references; the bytes are both workers' for all of them."""
    return rpc.run(_measure(size))


async def _measure(size: int) -> dict[str, float]:
    options = rpc.RpcOptions(rpc_timeout=300.0)
    async with cluster(2, options=options, network=SocketNetwork()) as (ours, _):
        held = Held()
        fullest = 0

        async def live() -> None:
            nonlocal fullest
            rrefs: list[rpc.RRef] = []
            for start in range(0, size, _BATCH):
                count = min(_BATCH, size - start)
                rrefs += [ours.remote("worker1", make_value) for _ in range(count)]
                await asyncio.gather(*[rref.to_here() for rref in rrefs[-count:]])
            fullest = max(fullest, held.bytes())
            rrefs.clear()

        return {"seconds": await timed(live), "bytes": fullest}
