"""Whether a loop is at rest: nothing in it is ready to run."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ("is_idle", "turns_to_rest")

# How many turns in a row the loop must look idle. Where its ready queue can be seen, one turn more
# lets it poll its sockets; where it cannot (uvloop), chains of callbacks without a task show
# only by what they end in, so they get room to run.
_TURNS_SEEN = 2
_TURNS_UNSEEN = 16
_UNKNOWN: Any = object()  # a task of another kind does not show what it waits for


def turns_to_rest(loop: asyncio.AbstractEventLoop) -> int:
    """Return how many turns in a row a loop has to be idle in to be at rest."""
    return _TURNS_SEEN if hasattr(loop, "_ready") else _TURNS_UNSEEN


def is_idle(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether nothing but the current task is ready to run."""
    ready = getattr(loop, "_ready", None)
    if ready is not None:
        return not ready
    current = asyncio.current_task(loop)
    return not any(_is_runnable(task) for task in asyncio.all_tasks(loop) if task is not current)


def _is_runnable(task: asyncio.Task[object]) -> bool:
    """Whether a task waits only for its turn."""
    awaited = getattr(task, "_fut_waiter", _UNKNOWN)
    return awaited is None or (awaited is not _UNKNOWN and awaited.done())
