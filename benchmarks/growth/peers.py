"""Workers of one group that know each other, all in this process; one is linked to all others.

Each knows all others, so what grows is the number of pairs, size * (size - 1).
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Sequence
from time import perf_counter

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import MemoryNetwork, Network
from growth.point import Held

__all__ = ("join", "measure", "options")


def measure(size: int) -> dict[str, float]:
    """Join `size` workers in memory."""
    return rpc.run(join([options()] * size, MemoryNetwork()))


def options(listen: str | None = None) -> rpc.RpcOptions:
    """Return options of a worker among many in one process."""
    return rpc.RpcOptions(
        listen=listen, num_worker_threads=1, heartbeat_interval=30.0, rpc_timeout=300.0
    )


async def join(settings: Sequence[rpc.RpcOptions], network: Network) -> dict[str, float]:
    """Join workers; the seconds are until all know each other and one has called each."""
    held = Held()
    start = perf_counter()
    async with cluster(len(settings), options=settings, network=network) as (ours, *others):
        names = [other.info.name for other in others]
        await asyncio.gather(*[ours.rpc_async(name, operator.index, args=(7,)) for name in names])
        return {"seconds": perf_counter() - start, "bytes": held.bytes()}
