"""`finished`: the wait for a task that has to come to its end, whoever gives up on it.

asyncio cancels a task once, and what it then awaits to clean up is its own business. A scope of
anyio cancels anew, in each turn of the loop, whatever its task awaits. So clean-up that takes time
runs in a task of its own, and is waited for here.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

__all__ = ("finished",)


async def finished(task: asyncio.Task[Any]) -> None:
    """Return once a task is done, however often the waiting one is cancelled meanwhile.

    Args:
        task: bounded in time; its outcome is looked at, so that nobody is told of it.
    """
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
