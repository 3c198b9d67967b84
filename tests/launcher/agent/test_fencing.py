"""`launcher.agent.fencing`: what the guardian is told of how long the others wait."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.agent.fencing import keep_fenced

pytestmark = pytest.mark.asyncio


async def told(lives: list[float], words: int) -> list[float]:
    """Return the deadlines that the guardian was told, as seconds from when it was."""
    heard: list[float] = []
    handler: Any = SimpleNamespace(alive_until=lambda: time.monotonic() + lives[len(heard)])
    processes: Any = SimpleNamespace(
        fence_at=lambda deadline: heard.append(deadline - time.monotonic())
    )
    await keep_fenced(handler, processes, lambda: len(heard) < words)
    return heard


async def test_deadlines_are_told_as_long_as_the_round_goes_on() -> None:
    """Each in place of the one before."""
    heard = await told([0.2, 0.3, 0.1], 3)

    assert [round(seconds, 1) for seconds in heard] == [0.2, 0.3, 0.1]


async def test_a_node_that_comes_to_host_the_store_is_fenced_no_more() -> None:
    """Nobody can go on without it."""
    assert (await told([0.2, math.inf], 9))[1:] == [math.inf]
