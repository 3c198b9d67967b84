"""Functions of every kind that take a known time on the agent's clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable

import asyncrpc as rpc

gate = threading.Event()
"""Opened by tests: lets `in_thread` end."""
opened: dict[str, asyncio.Event] = {}
"""Set by tests: lets `on_loop` end."""


async def on_loop() -> int:
    """Wait on the loop."""
    await opened["loop"].wait()
    return 1


async def fail() -> None:
    """Raise at once."""
    raise LookupError("as asked")


async def hang() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


def in_thread() -> int:
    """Block a thread."""
    gate.wait(10)
    return 2


def fail_in_thread() -> None:
    """Raise in a thread."""
    raise LookupError("as asked")


@rpc.inline
def inline() -> int:
    """Return at once."""
    return 3


@rpc.functions.async_execution
def deferred() -> Awaitable[int]:
    """Return an awaitable."""
    return on_loop()


async def items(count: int) -> AsyncIterator[int]:
    """Give numbers."""
    for number in range(count):
        yield number
