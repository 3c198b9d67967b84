"""`reminding`: a wait without a limit, or with a long one, is not silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from asyncrpc.observe.clock import Clock

__all__ = ("reminding",)

_FIRST = 10.0  # seconds that a wait may take before anybody wonders
_AGAIN = 60.0  # seconds between two later reminders


@contextlib.asynccontextmanager
async def reminding(clock: Clock, tell: Callable[[float], Awaitable[None]]) -> AsyncIterator[None]:
    """Have somebody told when the body takes 10 s, and again each minute from then on.

    Args:
        clock: whose time counts.
        tell: awaited with the seconds so far, beside the body; cancelled when that ends.
    """
    task = asyncio.create_task(_remind(clock, tell), name="asyncrpc: reminders of a wait")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _remind(clock: Clock, tell: Callable[[float], Awaitable[None]]) -> None:
    begin = clock.time()
    await clock.sleep(_FIRST)
    while True:
        await tell(clock.time() - begin)
        await clock.sleep(_AGAIN)
