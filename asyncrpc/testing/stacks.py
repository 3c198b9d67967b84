"""Where tasks stand, as text: what `leak_check` and `time_limit` show of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

__all__ = ("stacks_of",)

_DRIVER = "_rest"
"""What drives the coroutine of a served call in `execution.executor`; until the second thing that
the call waits for, only a local variable of it leads there."""


def stacks_of(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Return name and stack of each task as text, down to what it waits for."""
    lines: list[str] = []
    for task in sorted(tasks, key=asyncio.Task.get_name):
        lines.append(repr(task))
        lines += [
            f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'
            for frame in _frames_of(task.get_coro())
        ]
    return "\n".join(lines)


def _frames_of(awaitable: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of what it awaits (3.11's stacks show one)."""
    while awaitable is not None:
        for prefix in ("cr", "ag", "gi"):
            if (frame := getattr(awaitable, f"{prefix}_frame", None)) is not None:
                yield frame
                inner = "yieldfrom" if prefix == "gi" else "await"
                awaitable = getattr(awaitable, f"{prefix}_{inner}")
                if awaitable is None and frame.f_code.co_name == _DRIVER:
                    awaitable = frame.f_locals.get("coroutine")
                break
        else:
            return
