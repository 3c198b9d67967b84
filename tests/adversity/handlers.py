"""Functions that the adversity tests call."""

from __future__ import annotations

import asyncio
import collections
import threading
import time
from typing import Any

import asyncrpc as rpc

RUNS: collections.Counter[int] = collections.Counter()
"""How often each call that may run once only has run."""
_lock = threading.Lock()


def expected(number: int) -> tuple[int, int]:
    """Return the right result of a call."""
    return number, number % 10


def answer(number: int) -> tuple[int, int]:
    """Count a run, and return what is expected of that call."""
    with _lock:
        RUNS[number] += 1
    return expected(number)


async def failing(number: int) -> object:
    """Count a run, then fail."""
    answer(number)
    raise KeyError(number)


async def small(number: int) -> object:
    """Answer at once."""
    return answer(number)


async def slow(number: int, seconds: float) -> object:
    """Answer after a while."""
    answer(number)
    await asyncio.sleep(seconds)
    return number, number % 10


async def repeatable(number: int, seconds: float) -> object:
    """Answer after a while; may run twice."""
    await asyncio.sleep(seconds)
    return number, number % 10


async def nested(number: int, to: int) -> object:
    """Answer with what another worker echoes."""
    answer(number)
    return await rpc.rpc_async(to, echo, args=((number, number % 10),))


async def echo(value: Any) -> Any:
    """Give back what came."""
    return value


def threaded(number: int) -> object:
    """Answer from a thread."""
    answer(number)
    time.sleep(0.0005)
    return number, number % 10


async def large(number: int, data: bytes) -> object:
    """Answer for a large argument."""
    assert data.count(0) == len(data)
    return answer(number)
