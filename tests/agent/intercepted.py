"""Functions of every kind that are called through interceptors, and what they saw."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from contextvars import ContextVar

import asyncrpc as rpc

log: list[str] = []
"""What happened, in order; tests clear it."""

mark: ContextVar[str] = ContextVar("mark", default="none")
"""Set by interceptors of the callee."""


async def on_loop(value: int) -> tuple[int, str, str]:
    """Return the value, the caller and the mark."""
    log.append("on_loop")
    return value, rpc.caller().name, mark.get()


def in_thread(value: int) -> tuple[int, str, str, bool]:
    """Do the same in a thread, and say whether it is one."""
    log.append("in_thread")
    is_main = threading.current_thread() is threading.main_thread()
    return value, rpc.caller().name, mark.get(), is_main


@rpc.inline
def inline(value: int) -> tuple[int, str, str]:
    """Do the same at once."""
    return value, rpc.caller().name, mark.get()


@rpc.functions.async_execution
def deferred(value: int) -> Awaitable[tuple[int, str, str]]:
    """Do the same by an awaitable."""
    return on_loop(value)


async def items(count: int) -> AsyncIterator[int]:
    """Give numbers, and note the end."""
    try:
        for number in range(count):
            yield number
    finally:
        log.append("items closed")


async def broken_items(count: int) -> AsyncIterator[int]:
    """Give numbers, and fail."""
    for number in range(count):
        yield number
    raise LookupError("no more")


async def stalled_items() -> AsyncIterator[int]:
    """Give one number, and no other."""
    yield 0
    await asyncio.Event().wait()


def note(text: str) -> None:
    """Write down what was sent one way."""
    log.append(text)


async def hang() -> None:
    """Wait for ever; note the cancel."""
    log.append("hangs")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        log.append("hang cancelled")
        raise


def hang_on_another(to: str) -> None:
    """Wait in a thread for a call that never ends; note how that ended."""
    try:
        rpc.rpc_sync(to, hang, timeout=None)
    except rpc.RpcError as error:
        log.append(f"{error.code.name} {rpc.remaining()}")
        raise


async def chain(to: str) -> tuple[int, str, str]:
    """Call on."""
    found: tuple[int, str, str] = await rpc.rpc_async(to, on_loop, (2,))
    return found


async def fail() -> None:
    """Raise."""
    raise LookupError("as asked")


async def awaited_by_none() -> int:
    """Return a number."""
    return 1


def returns_awaitable() -> Awaitable[int]:
    """Be wrong: a ``def`` that returns an awaitable."""
    return awaited_by_none()
