"""`cluster`: a whole group of workers in one process and loop, on a network in memory."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

from asyncrpc.faults import FaultPlan
from asyncrpc.observe import Clock
from asyncrpc.options import RpcOptions
from asyncrpc.runtime import RpcAgent
from asyncrpc.store import MemoryStore, Store
from asyncrpc.testing.arguments import check_clock
from asyncrpc.testing.clock import VirtualClock
from asyncrpc.transport import MemoryNetwork, Network

__all__ = ("cluster",)

_STUCK = 0.1  # seconds of real time for which the end of a group may wait before time moves on
_STEP = 0.002  # and between two timers then, for what is done in real time
_PATIENCE = 5.0  # seconds for functions in threads after a failure, as after a graceful end

T = TypeVar("T")


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
    unset in the body. They end gracefully after it, or at once if it raised. Under a `VirtualClock`
    time moves on by itself in that end where something waits for it, and `VirtualClock.advance`
    waits for plain functions, which the workers run in threads. All happens in the same order then
    each time: what plain functions return is taken in the order in which they began, once none of
    them computes any more. One that takes longer than half a second of real time is not waited for,
    and references in cycles are dropped whenever Python's collector finds them.

    Args:
        n: number of workers, at least 1.
        options: settings of all workers, or one for each; a secret is made up where none is given.
        clock: their time; ``None`` takes the loop's.
        network: opens their links; ``None`` takes a network in memory of their own.
        store: where they find each other; ``None`` takes one in memory.
        faults: a plan for all workers, or one for each; ``None`` takes that of their options.

    Yields:
        The agents, by rank.

    Raises:
        ValueError: an argument breaks its rule; the message names it.

    Example:
        ```python
        async def main():
            async with cluster(2) as workers:
                assert await workers[0].rpc_async("worker1", min, args=(1, 2)) == 1
        ```
    """
    if type(n) is not int or n < 1:
        raise ValueError(f"n must be an int of at least 1, got {n!r}")
    check_clock(clock)
    settings = _settings(n, options, faults)
    meeting = MemoryStore(clock=clock) if store is None else store
    network = MemoryNetwork() if network is None else network
    agents = await _start(settings, meeting, network, clock)
    async with _held_by(agents, clock):
        try:
            yield agents
        except BaseException:
            await _end(agents, clock, graceful=False)
            await _threads_done(agents)
            raise
        await _end(agents, clock, graceful=True)


def _settings(
    n: int,
    options: RpcOptions | Sequence[RpcOptions] | None,
    faults: FaultPlan | Sequence[FaultPlan | None] | None,
) -> list[RpcOptions]:
    """Return the options of each worker, its plan and the group's secret among them."""
    given = _for_each(n, "options", RpcOptions, RpcOptions() if options is None else options)
    secret = secrets.token_bytes(32)
    settings = []
    for option, plan in zip(given, _for_each(n, "faults", FaultPlan, faults), strict=True):
        if option is None:
            raise ValueError("options must be RpcOptions for each worker, got None")
        changes: dict[str, Any] = {} if plan is None else {"faults": plan}
        if option.secret is None:
            changes["secret"] = secret
        settings.append(dataclasses.replace(option, **changes))
    return settings


def _for_each(n: int, field: str, kind: type[T], given: object) -> list[T | None]:
    """Return what an argument gives to each of ``n`` workers: all the same, or its items."""
    items: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given] * n
    for item in items:
        if item is not None and not isinstance(item, kind):
            raise ValueError(f"{field} must be {kind.__name__} objects, got {item!r}")
    if len(items) != n:
        raise ValueError(f"{field} must be one, or one for each of {n} workers, got {len(items)}")
    return items


async def _start(
    settings: Sequence[RpcOptions], store: Store, network: Network, clock: Clock | None
) -> list[RpcAgent]:
    """Start all workers, or none: if one fails, the others are ended at once."""
    starts = [
        asyncio.ensure_future(
            RpcAgent.start(
                f"worker{rank}",
                rank=rank,
                world_size=len(settings),
                options=options,
                store=store,
                network=network,
                clock=clock,
                environ={},
            )
        )
        for rank, options in enumerate(settings)
    ]
    try:
        return await asyncio.gather(*starts)
    except BaseException:
        for start in starts:
            start.cancel()
        ended = await asyncio.gather(*starts, return_exceptions=True)
        begun = [agent for agent in ended if isinstance(agent, RpcAgent)]
        await _end(begun, None, graceful=False)
        raise


@contextlib.asynccontextmanager
async def _held_by(agents: Sequence[RpcAgent], clock: Clock | None) -> AsyncIterator[None]:
    """Let virtual time wait for functions in the agents' threads, and take them in order."""
    if not isinstance(clock, VirtualClock):
        yield
        return
    pools = [agent.threads for agent in agents]
    with clock.hold_while(lambda: any(agent.is_computing for agent in agents)):
        async with clock.lockstep.ordering(pools):
            yield


async def _end(agents: Sequence[RpcAgent], clock: Clock | None, *, graceful: bool) -> None:
    """End all workers, whatever happens to one; raise the first failure."""
    mover = asyncio.ensure_future(_keep_moving(clock)) if isinstance(clock, VirtualClock) else None
    try:
        ends = [agent.shutdown(graceful=graceful) for agent in agents]
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
    finally:
        if mover is not None:
            mover.cancel()
            await asyncio.wait([mover])
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _threads_done(agents: Sequence[RpcAgent]) -> None:
    """Give plain functions time to end: nothing can stop them, and the next test is not theirs."""
    for _ in range(round(_PATIENCE / _STEP)):
        if not any(map(_has_running_thread, agents)):
            return
        await asyncio.sleep(_STEP)


def _has_running_thread(agent: RpcAgent) -> bool:
    info = agent.debug_info()
    return info["agent.num_idle_threads"] != info["agent.thread_pool_size"]


async def _keep_moving(clock: VirtualClock) -> None:
    """Move time on, timer by timer: what waits for one at the end would wait for ever."""
    await asyncio.sleep(_STUCK)
    while True:
        await asyncio.sleep(_STEP)
        if clock.next_timer is not None:
            with contextlib.suppress(RuntimeError):  # another task moves it, or the loop is busy
                await clock.advance(max(0.0, clock.next_timer - clock.now()))
