"""Async generators that tests stream from other workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncrpc as rpc

log: list[str] = []
"""What producers did, in order."""


async def count(to: int, step: int = 1, *, fail_at: int = -1) -> AsyncIterator[int]:
    """Give the multiples of ``step``, and say what becomes of the generator."""
    try:
        for number in range(to):
            if number == fail_at:
                raise ValueError(f"no {number}")
            log.append(f"make {number}")
            yield number * step
    finally:
        await asyncio.sleep(0)
        log.append("finally")


async def give(*items: Any) -> AsyncIterator[Any]:
    """Give what it is given."""
    for item in items:
        yield item


async def forever() -> AsyncIterator[int]:
    """Give one item, then nothing."""
    try:
        yield 0
        await asyncio.Event().wait()
    finally:
        log.append("finally")


async def remaining() -> AsyncIterator[float | None]:
    """Give what is left of the deadline."""
    yield rpc.remaining()


async def big(count: int, size: int) -> AsyncIterator[bytes]:
    """Give large items."""
    for number in range(count):
        yield bytes([number % 256]) * size


async def odd() -> AsyncIterator[object]:
    """Give what travels, then what does not without pickle."""
    yield 1
    yield [asyncio.Event()]


class Source:
    """An object whose method is a generator."""

    def __init__(self, start: int) -> None:
        self.start = start

    async def numbers(self, count: int) -> AsyncIterator[int]:
        """Count from the start."""
        for number in range(count):
            yield self.start + number


async def read_all(to: str, items: int) -> list[int]:
    """Read a stream of a third worker."""
    return [item async for item in rpc.rpc_stream(to, count, args=(items,))]


def steps(n: int) -> Iterator[int]:
    """Is a generator, but no async one."""
    yield from range(n)


async def plain() -> int:
    """Is no generator."""
    return 1
