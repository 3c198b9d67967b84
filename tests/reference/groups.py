"""What the reference's tests have in common here: groups of four, and time that moves on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock
from tests.rref.workers import empty

CONTROL = (
    "RREF_FORK_REQUEST",
    "RREF_CHILD_ACCEPT",
    "RREF_USER_DELETE",
    "CLEANUP_AUTOGRAD_CONTEXT_REQ",
)
"""Messages that the reference's fixture makes fail."""


def faulty(fail: Iterable[str] = (), delay: dict[str, float] | None = None) -> rpc.FaultyRpcOptions:
    """Return the fixture's options, eight threads and three failing sends, for other messages."""
    return rpc.FaultyRpcOptions(
        num_worker_threads=8,
        num_fail_sends=3,
        messages_to_fail=tuple(fail),
        messages_to_delay=delay or {},
    )


async def in_time(clock: VirtualClock, what: Awaitable[Any], most: float = 60.0) -> Any:
    """Return what an awaitable gives while time moves on, ``most`` seconds at the utmost."""
    future = asyncio.ensure_future(what)
    passed = 0.0
    while not future.done() and passed < most:
        await clock.advance(0.25)
        passed += 0.25
    if not future.done():
        future.cancel()
        raise AssertionError(f"not done after {most} virtual seconds")
    return await future


async def turns_until(condition: Callable[[], object], most: int = 10_000) -> None:
    """Let the loop turn until it is so."""
    for _ in range(most):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to be")


async def flushed(agent: rpc.RpcAgent) -> None:
    """Wait until no creation is pending: each is confirmed or has failed."""
    await turns_until(lambda: agent.debug_info()["num_pending_users"] == "0")


async def emptied(clock: VirtualClock, agents: Iterable[Any]) -> dict[str, Any]:
    """Return what the tables hold in the end, once time has passed for all retries."""
    await clock.advance(30)
    return await empty(agents)
