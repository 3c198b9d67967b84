"""`time_limit`: `asyncio.timeout` on a `Clock`, so that virtual time ends waits too."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from asyncrpc.observe.clock import Clock

__all__ = ("time_limit",)


@contextlib.asynccontextmanager
async def time_limit(clock: Clock, seconds: float) -> AsyncIterator[None]:
    """Cancel the body after ``seconds`` on ``clock``, which raises TimeoutError here.

    Args:
        clock: whose time counts.
        seconds: above 0; 0 for no limit.

    Raises:
        TimeoutError: the body took longer.
    """
    if not seconds:
        yield
        return
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        timer = clock.call_at(clock.time() + seconds, lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()
