"""Peers that one worker is connected to, all in this process: one call to each opens its link."""

from __future__ import annotations

import asyncio
import operator

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import MemoryNetwork, Network
from growth.point import Held, timed

__all__ = ("measure",)


def measure(size: int) -> dict[str, float]:
    """Join `size` workers; the seconds are for one call to each other one, their links open."""
    return rpc.run(_measure(size, MemoryNetwork()))


async def _measure(size: int, network: Network) -> dict[str, float]:
    held = Held()
    options = rpc.RpcOptions(num_worker_threads=1, heartbeat_interval=30.0, rpc_timeout=300.0)
    async with cluster(size, options=options, network=network) as (ours, *others):
        names = [other.info.name for other in others]

        async def call_each() -> None:
            await asyncio.gather(
                *[ours.rpc_async(name, operator.index, args=(7,)) for name in names]
            )

        await call_each()
        fullest = held.bytes()
        return {"seconds": await timed(call_each), "bytes": fullest}
