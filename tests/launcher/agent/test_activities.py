"""`launcher.agent.activities`: stimuli come in order, and nothing is left under way."""

from __future__ import annotations

import asyncio

import pytest

from launcher.agent.activities import Activities
from launcher.agent.state import Event, Stimulus

pytestmark = pytest.mark.asyncio


async def produce(stimulus: Stimulus | None) -> Stimulus | None:
    """Return a stimulus."""
    return stimulus


async def fail() -> None:
    """Raise."""
    raise OSError("why")


async def test_what_comes_of_tasks_comes_in_order() -> None:
    """With what no task produced in between; tasks without a result are passed over."""
    activities = Activities()
    activities.tell(Event.BEGUN)
    activities.begin(produce(None))
    activities.begin(produce(Event.JOINED))
    got = [await activities.next_stimulus() for _ in range(2)]
    activities.tell(Event.FAILED)
    got.append(await activities.next_stimulus())

    assert got == [Event.BEGUN, Event.JOINED, Event.FAILED]


async def test_what_a_task_raises_is_raised() -> None:
    """Once; what comes after it is still there."""
    activities = Activities()
    activities.begin(fail())
    activities.begin(produce(Event.JOINED))
    with pytest.raises(OSError, match="why"):
        await activities.next_stimulus()

    assert await activities.next_stimulus() is Event.JOINED


async def test_the_end_cancels_and_forgets() -> None:
    """A task that failed unseen warns nobody later."""
    activities = Activities()
    cancelled = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            cancelled.set()

    activities.begin(wait())
    activities.begin(fail())
    await asyncio.sleep(0)
    await activities.end()

    assert cancelled.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}
