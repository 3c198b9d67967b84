"""Functions that tests call inside a call context."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncrpc as rpc


async def note(key: str) -> list[str]:
    """Add to this worker's state; return all that it has."""
    context = rpc.current_context()
    assert context is not None
    notes: list[str] = context.state.setdefault("notes", [])
    notes.append(key)
    return notes


def note_in_thread(key: str) -> list[str]:
    """Do the same on a thread."""
    context = rpc.current_context()
    assert context is not None
    notes: list[str] = context.state.setdefault("notes", [])
    notes.append(key)
    return notes


async def relay(*route: str) -> list[str | None]:
    """Note the own name, go on to the next worker; return the ids that all saw."""
    context = rpc.current_context()
    seen: list[str | None] = [None if context is None else context.id]
    if context is not None:
        context.state["seen"] = True
    if route:
        seen += await rpc.rpc_async(route[0], relay, args=route[1:])
    return seen


async def ident() -> str | None:
    """Return the id of the context, ``None`` outside of one."""
    context = rpc.current_context()
    return None if context is None else context.id


async def idents(count: int) -> AsyncIterator[str | None]:
    """Give the id some times."""
    for _ in range(count):
        yield await ident()


async def detached_ident(to: str) -> str | None:
    """Ask another worker from a call that is free of its deadline."""
    with rpc.detached():
        result: str | None = await rpc.rpc_async(to, ident)
        return result


async def late(to: str, gate: str) -> None:
    """Call on after the context has ended."""
    await gates[gate].wait()
    await rpc.rpc_async(to, ident)


gates: dict[str, asyncio.Event] = {}
