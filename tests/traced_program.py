"""Functions whose calls are traced, some of which make calls and spans of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncrpc as rpc


async def leaf() -> str:
    """Do nothing."""
    return "leaf"


async def branch(to: str) -> str:
    """Call on."""
    text: str = await rpc.rpc_async(to, leaf)
    return text


def branch_in_a_thread(to: str) -> str:
    """Call on from a thread."""
    text: str = rpc.rpc_sync(to, leaf)
    return text


async def fail() -> None:
    """Raise."""
    raise LookupError("nothing there")


async def items(count: int) -> AsyncIterator[int]:
    """Give numbers."""
    for number in range(count):
        yield number
