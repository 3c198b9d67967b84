"""`time_limit`: what takes too long is stopped, and shows where it stood."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest

from asyncrpc.testing import TimeLimitError, cluster, time_limit
from tests.agent.groups import until

pytestmark = pytest.mark.asyncio


async def stuck_here() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


async def test_in_time() -> None:
    """A body that ends in time is left alone, and so is the code behind it."""
    async with time_limit(5):
        await asyncio.sleep(0)
    task = asyncio.current_task()

    assert task is not None
    assert 0 == task.cancelling()


async def test_too_long() -> None:
    """The body is cancelled, and the error shows limit and stacks; the task is as before."""
    with pytest.raises(TimeLimitError, match=r"still running after 0\.01 s\n") as caught:
        async with time_limit(0.01):
            await stuck_here()
    await asyncio.sleep(0)
    task = asyncio.current_task()

    assert isinstance(caught.value, TimeoutError)
    assert 0.01 == caught.value.seconds
    assert "in stuck_here" in caught.value.stacks
    assert task is not None
    assert 0 == task.cancelling()


async def test_shows_other_tasks() -> None:
    """The stacks are those of all tasks, however deep they wait."""
    other = asyncio.create_task(stuck_here(), name="the other one")
    with pytest.raises(TimeLimitError, match="the other one") as caught:
        async with time_limit(0.01):
            await asyncio.Event().wait()
    other.cancel()

    assert "in stuck_here" in caught.value.stacks


async def test_shows_served_functions() -> None:
    """A function that a worker serves is shown too, wherever it waits."""
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", stuck_here)
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "1")
        with pytest.raises(TimeLimitError, match="in stuck_here"):
            async with time_limit(0.01):
                await asyncio.Event().wait()
        call.cancel()


async def test_swallowed_cancel() -> None:
    """A body that swallows the cancel and ends fails all the same."""
    with pytest.raises(TimeLimitError):
        async with time_limit(0.01):
            with contextlib.suppress(asyncio.CancelledError):
                await stuck_here()
    await asyncio.sleep(0)


@pytest.mark.slow
async def test_swallowed_cancel_again() -> None:
    """A body that goes on is cancelled again."""
    seen = 0
    with pytest.raises(TimeLimitError):
        async with time_limit(0.01):
            while seen < 2:
                try:
                    await stuck_here()
                except asyncio.CancelledError:
                    seen += 1

    assert 2 == seen


async def test_other_errors() -> None:
    """What the body raises in time goes through; raised after the limit it is the cause."""
    with pytest.raises(KeyError):
        async with time_limit(5):
            raise KeyError
    with pytest.raises(TimeLimitError) as caught:
        async with time_limit(0.01):
            try:
                await stuck_here()
            finally:
                raise KeyError

    assert isinstance(caught.value.__cause__, KeyError)


async def test_cancelled_from_outside() -> None:
    """A cancel that is not of the limit's making stays a cancel, even after the limit."""

    async def limited(seconds: float) -> None:
        async with time_limit(seconds):
            try:
                await stuck_here()
            except asyncio.CancelledError:
                if seconds < 1:
                    task.cancel()  # somebody else, in the same moment
                raise

    for seconds in (5, 0.01):
        task = asyncio.create_task(limited(seconds))
        await asyncio.sleep(0)
        if seconds == 5:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_once() -> None:
    """A limit cannot be used again, nor twice at once."""
    limit = time_limit(5)
    async with limit:
        pass
    with pytest.raises(RuntimeError, match="a time limit can be used once"):
        async with limit:
            pass


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, "5", None, True])
async def test_bad_limit(seconds: float) -> None:
    """A limit is a finite number of seconds above 0."""
    with pytest.raises(ValueError, match="seconds must be a finite number above 0, got"):
        time_limit(seconds)
