"""Functions that tell which trace they are called in."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncrpc as rpc

notified: list[str | None] = []
"""What one-way calls saw; tests clear it."""


async def trace() -> str | None:
    """Return the trace of this call."""
    return rpc.current_traceparent()


def trace_in_a_thread() -> str | None:
    """Return the trace of this call, asked in a thread."""
    return rpc.current_traceparent()


def note() -> None:
    """Keep the trace of this call."""
    notified.append(rpc.current_traceparent())


async def trace_over(hops: list[str]) -> list[str | None]:
    """Return the traces of this call and of calls made over these workers in turn."""
    here = rpc.current_traceparent()
    if not hops:
        return [here]
    return [here, *await rpc.rpc_async(hops[0], trace_over, (hops[1:],))]


async def trace_of_another(to: str, value: str) -> list[str | None]:
    """Call on in another trace, and after it in that of this call."""
    with rpc.traceparent(value):
        first = await rpc.rpc_async(to, trace)
    return [first, await rpc.rpc_async(to, trace)]


async def items_of(to: str) -> AsyncIterator[str | None]:
    """Give the trace of this stream, and of a call that it makes."""
    yield rpc.current_traceparent()
    yield await rpc.rpc_async(to, trace)
