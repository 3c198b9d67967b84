"""`time_limit`: on the clock it is given, and otherwise like `asyncio.timeout`."""

from __future__ import annotations

import asyncio

import pytest

from asyncrpc.observe import LoopClock, time_limit
from asyncrpc.testing import VirtualClock

pytestmark = pytest.mark.asyncio


async def limited(clock: VirtualClock, seconds: float, event: asyncio.Event) -> str:
    """Wait for an event within a limit."""
    async with time_limit(clock, seconds):
        await event.wait()
    return "done"


async def test_virtual_time_ends_the_wait() -> None:
    """Not before its time on the clock, and then with TimeoutError."""
    clock = VirtualClock()
    task = asyncio.create_task(limited(clock, 10.0, asyncio.Event()))
    await clock.advance(9.99)
    assert not task.done()
    await clock.advance(0.02)

    with pytest.raises(TimeoutError):
        await task


async def test_body_in_time_is_left_alone() -> None:
    """A body that ends in time is not disturbed later."""
    clock = VirtualClock()
    event = asyncio.Event()
    task = asyncio.create_task(limited(clock, 10.0, event))
    await clock.advance(5.0)
    event.set()

    assert await task == "done"
    await clock.advance(50.0)


async def test_no_limit() -> None:
    """0 seconds mean no limit."""
    clock = VirtualClock()
    event = asyncio.Event()
    task = asyncio.create_task(limited(clock, 0.0, event))
    await clock.advance(1e9)
    assert not task.done()
    event.set()

    assert await task == "done"


async def test_cancel_is_not_a_timeout() -> None:
    """A cancel from outside stays one."""
    task = asyncio.create_task(limited(VirtualClock(), 10.0, asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_of_the_body_pass() -> None:
    """What the body raises comes out as it is, TimeoutError too."""
    for error in (ValueError("mine"), TimeoutError("mine")):
        with pytest.raises(type(error), match="mine"):
            async with time_limit(VirtualClock(), 10.0):
                raise error


async def test_limits_nest() -> None:
    """The outer limit ends the inner body, whose own limit has not come."""
    clock = VirtualClock()

    async def nested() -> None:
        async with time_limit(clock, 1.0):
            try:
                async with time_limit(clock, 5.0):
                    await asyncio.Event().wait()
            except TimeoutError:
                pytest.fail("the inner limit took the outer one's time")

    task = asyncio.create_task(nested())
    await clock.advance(2.0)

    with pytest.raises(TimeoutError):
        await task


async def test_real_time() -> None:
    """The real clock does the same."""
    with pytest.raises(TimeoutError):
        async with time_limit(LoopClock(), 0.01):
            await asyncio.Event().wait()
