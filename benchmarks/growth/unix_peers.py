"""Peers that one worker is connected to by unix sockets, all in this process."""

from __future__ import annotations

import asyncio
import operator
import tempfile

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork
from growth.point import Held, timed

__all__ = ("measure",)


def measure(size: int) -> dict[str, float]:
    """Join `size` workers; the seconds are for one call to each other one, their links open."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return rpc.run(_measure(size, folder))


async def _measure(size: int, folder: str) -> dict[str, float]:
    held = Held()
    options = [
        rpc.RpcOptions(
            listen=f"unix://{folder}/{rank}",
            num_worker_threads=1,
            heartbeat_interval=30.0,
            rpc_timeout=300.0,
        )
        for rank in range(size)
    ]
    async with cluster(size, options=options, network=SocketNetwork()) as (ours, *others):
        names = [other.info.name for other in others]

        async def call_each() -> None:
            await asyncio.gather(
                *[ours.rpc_async(name, operator.index, args=(7,)) for name in names]
            )

        await call_each()
        fullest = held.bytes()
        return {"seconds": await timed(call_each), "bytes": fullest}
