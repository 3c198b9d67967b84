"""What workers that are called for the same thing do, each by its name."""

from __future__ import annotations

import asyncio

import asyncrpc as rpc

log: list[str] = []
"""What happened, in order; tests clear it."""


async def answer(plan: dict[str, str]) -> str:
    """Answer with this worker's name, but do as ``plan`` says for it: ``wait`` or ``fail``."""
    me = rpc.current_agent().info.name
    log.append(f"{me} asked")
    if plan.get(me) == "fail":
        raise LookupError(f"{me} has none")
    if plan.get(me) == "wait":
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append(f"{me} cancelled")
            raise
    return me


async def ask_others(workers: list[str], plan: dict[str, str]) -> str:
    """Make a hedged call in a served one."""
    outcome: str = await rpc.rpc_hedged(workers, answer, (plan,), delay=10)
    return outcome


async def ask_too_late(worker: str) -> None:
    """Make a hedged call when the time is over; note how that ends."""
    try:
        await asyncio.Event().wait()
    finally:
        log.append("too late")
        try:
            await rpc.rpc_hedged([worker], answer, ({},), delay=1)
        except rpc.RpcError as error:
            log.append(error.delivery.name)
