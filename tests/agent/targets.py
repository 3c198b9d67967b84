"""Functions that the agent's tests call on other workers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import numpy as np

import asyncrpc as rpc

log: list[object] = []
"""What happened on the callee; tests clear it."""


async def echo(value: Any) -> Any:
    """Give the argument back."""
    return value


def add(a: int, b: int = 10) -> int:
    """Add, with a default."""
    return a + b


async def who() -> tuple[str, str]:
    """Say who serves and who called."""
    return rpc.current_agent().info.name, rpc.caller().name


async def sleep(seconds: float) -> str:
    """Sleep on the loop, and note how that ended."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    log.append("slept")
    return "slept"


def block(seconds: float) -> str:
    """Block a thread; return its name."""
    time.sleep(seconds)
    return threading.current_thread().name


async def left() -> float | None:
    """Return the seconds left."""
    return rpc.remaining()


async def left_nested(to: str, detached: bool) -> float | None:
    """Ask another worker for the seconds left."""
    if detached:
        with rpc.detached():
            return cast("float | None", await rpc.rpc_async(to, left, timeout=None))
    return cast("float | None", await rpc.rpc_async(to, left, timeout=None))


def nested_sync(to: str, depth: int) -> int:
    """Call back and forth with blocking calls."""
    if depth == 0:
        return 0
    me = rpc.current_agent().info.name
    return 1 + cast("int", rpc.rpc_sync(to, nested_sync, args=(me, depth - 1)))


async def chain(hops: int, names: list[str]) -> None:
    """Go on to the next worker without waiting for it."""
    log.append(hops)
    if hops:
        await asyncio.sleep(0.005)
        rpc.rpc_notify(names[hops % len(names)], chain, args=(hops - 1, names))


@rpc.inline
def inline_thread() -> int:
    """Return the thread it runs in."""
    return threading.get_ident()


@rpc.functions.async_execution
def forward(to: str, value: object) -> object:
    """Return the awaitable of another call."""
    return rpc.rpc_async(to, echo, args=(value,))


@rpc.functions.async_execution
def not_awaitable() -> int:
    """Return nothing awaitable."""
    return 1


async def cancel_itself() -> None:
    """Raise the cancellation nobody asked for."""
    raise asyncio.CancelledError("own doing")


def raise_it(error: BaseException) -> None:
    """Raise what came."""
    raise error


def fail(text: str) -> None:
    """Raise a ValueError."""
    raise ValueError(text)


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start

    def plus(self, n: int) -> int:
        return self.value + n

    @classmethod
    def make(cls, n: int) -> str:
        return f"{cls.__name__}{n}"

    @staticmethod
    def twice(n: int) -> int:
        return 2 * n


def note(value: Any) -> Any:
    """Write down that it ran."""
    log.append(value)
    return value


async def note_and_wait(value: Any, seconds: float) -> Any:
    """Write down that it runs, and take some time."""
    log.append(value)
    await asyncio.sleep(seconds)
    return value


async def fail_nested(hops: list[str]) -> None:
    """Fail on the last of the workers, each called by the one before: on the loop."""
    if not hops:
        raise KeyError("deep")
    try:
        await rpc.rpc_async(hops[0], fail_nested_sync, args=(hops[1:],))
    except KeyError as error:
        raise KeyError(f"async {len(hops)}") from error


def fail_nested_sync(hops: list[str]) -> None:
    """Fail on the last of the workers, each called by the one before: from a thread."""
    if not hops:
        raise KeyError("deep")
    try:
        rpc.rpc_sync(hops[0], fail_nested, args=(hops[1:],))
    except KeyError as error:
        raise KeyError(f"sync {len(hops)}") from error


async def note_and_fail(times: int) -> int:
    """Fail so many runs; return the number of the run."""
    log.append(len(log) + 1)
    if len(log) <= times:
        raise ValueError(f"run {len(log)}")
    return len(log)


async def read(rref: Any) -> Any:
    """Read what a reference refers to."""
    return await rref


async def read_twice(given: Any) -> Any:
    """Read what references refer to; fail at first."""
    values = [await rref for rref in getattr(given, "content", given)[:2]]
    log.append(f"{'read' if log else 'failed'} {values}")
    if len(log) < 2:
        raise ValueError("not yet")
    return values


async def end_the_owner(rref: Any) -> None:
    """End the worker that keeps a value, then fail."""
    with contextlib.suppress(rpc.RpcError):
        await rpc.rpc_async(rref.owner(), rpc.shutdown, args=(False,))
    raise ValueError("ended")


async def retry_nested(to: str, value: object) -> object:
    """Give back what another worker echoes at the third attempt at the latest."""
    return await rpc.rpc_async(to, echo, args=(value,), timeout=None, retry=rpc.RetryPolicy())


async def lock() -> object:
    """Return what cannot travel."""
    return threading.Lock()


async def return_a_lambda() -> object:
    """Return what cannot travel."""
    log.append("lambda")
    return lambda: None


array = np.zeros(200_000)
"""What `shared_array` returns, and others change."""


async def shared_array(given: Any) -> Any:
    """Return an array that is still in use here."""
    log.append("array")
    array[:] = given + 1
    return array


async def count_up(end: int) -> AsyncIterator[int]:
    """Give numbers from 0."""
    for number in range(end):
        yield number
