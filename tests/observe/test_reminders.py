"""`reminding`: after 10 s and each minute, as long as the body runs."""

from __future__ import annotations

import asyncio

import pytest

from asyncrpc.observe import reminding
from asyncrpc.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def test_tells_while_the_body_runs() -> None:
    """Not before 10 s, then each minute, and no more once the body is over."""
    clock = VirtualClock()
    told: list[float] = []
    end = asyncio.Event()

    async def tell(seconds: float) -> None:
        told.append(seconds)

    async def wait() -> None:
        async with reminding(clock, tell):
            await end.wait()

    task = asyncio.create_task(wait())
    await clock.advance(9)
    early = list(told)
    await clock.advance(122)
    end.set()
    await task
    await clock.advance(200)

    assert [] == early
    assert [10, 70, 130] == told


async def test_errors_of_the_body_pass() -> None:
    """What the body raises comes out, and a reminder that is under way ends with it."""
    clock = VirtualClock()
    is_told = asyncio.Event()

    async def tell(seconds: float) -> None:
        is_told.set()
        await asyncio.Event().wait()

    async def fail() -> None:
        async with reminding(clock, tell):
            await is_told.wait()
            raise ValueError("mine")

    task = asyncio.create_task(fail())
    await clock.advance(11)
    with pytest.raises(ValueError, match="mine"):
        await task
