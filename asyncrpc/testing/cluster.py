"""`cluster`: a whole group of workers in one process and loop, on a network in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Sequence

from asyncrpc.faults import FaultPlan
from asyncrpc.observe import Clock
from asyncrpc.options import RpcOptions
from asyncrpc.runtime import RpcAgent
from asyncrpc.store import MemoryStore, Store
from asyncrpc.transport import MemoryNetwork, Network

__all__ = ("cluster",)


@contextlib.asynccontextmanager
async def cluster(
    n: int,
    *,
    options: RpcOptions | Sequence[RpcOptions] | None = None,
    clock: Clock | None = None,
    network: Network | None = None,
    store: Store | None = None,
    faults: FaultPlan | Sequence[FaultPlan | None] | None = None,
) -> AsyncIterator[list[RpcAgent]]:
    """Run ``n`` workers named ``worker0``… that know each other; the body gets their agents.

    They are isolated from each other and from the process's own agent: `asyncrpc.current_agent` is
    unset in the body. They end gracefully after it, or at once if it raised.

    Args:
        n: number of workers, at least 1.
        options: settings of all workers, or one for each; a secret is made up where none is given.
        clock: their time; ``None`` takes the loop's.
        network: opens their links; ``None`` takes a network in memory of their own.
        store: where they find each other; ``None`` takes one in memory.
        faults: a plan for all workers, or one for each; ``None`` takes that of their options.

    Yields:
        The agents, by rank.
    """
    given = options if isinstance(options, Sequence) else [options or RpcOptions()] * n
    if len(given) != n:
        raise ValueError(f"options must be one, or one for each of {n} workers, got {len(given)}")
    plans = faults if isinstance(faults, Sequence) else [faults] * n
    if len(plans) != n:
        raise ValueError(f"faults must be one, or one for each of {n} workers, got {len(plans)}")
    given = [
        o if plan is None else dataclasses.replace(o, faults=plan)
        for o, plan in zip(given, plans, strict=True)
    ]
    secret = secrets.token_bytes(32)
    settings = [dataclasses.replace(o, secret=secret) if o.secret is None else o for o in given]
    store = MemoryStore() if store is None else store
    network = MemoryNetwork() if network is None else network
    agents = await asyncio.gather(
        *[
            RpcAgent.start(
                f"worker{rank}",
                rank=rank,
                world_size=n,
                options=settings[rank],
                store=store,
                network=network,
                clock=clock,
                environ={},
            )
            for rank in range(n)
        ]
    )
    try:
        yield agents
    except BaseException:
        await asyncio.gather(*[agent.shutdown(graceful=False) for agent in agents])
        raise
    await asyncio.gather(*[agent.shutdown() for agent in agents])
