"""`Deadlines`: a call that is live when its time comes is told of, once; others cost nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncrpc.agent.pending import Deadlines
from asyncrpc.testing import VirtualClock

pytestmark = pytest.mark.asyncio


@dataclass
class Call:
    """Anything with a deadline."""

    deadline: float
    is_timed: bool = False


class Calls:
    """Live calls under deadlines, and what expired when."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.live: dict[int, Call] = {}
        self.deadlines = Deadlines(self.clock, self.live, self._expire)
        self.expired: list[tuple[float, int]] = []

    def add(self, key: int, deadline: float) -> None:
        """Add a call as the agent does."""
        self.live[key] = Call(deadline)
        if 0 < deadline < self.deadlines.armed:
            self.deadlines.arm(deadline)

    def _expire(self, key: int) -> None:
        del self.live[key]
        self.expired.append((self.clock.now(), key))


async def test_each_expires_at_its_time() -> None:
    """Whatever the order in which they came; one without a deadline never does."""
    calls = Calls()
    for key, deadline in ((1, 3.0), (2, 1.0), (3, 0.0), (4, 2.0), (5, 1.0)):
        calls.add(key, deadline)
    await calls.clock.advance(10.0)

    assert [(1.0, 2), (1.0, 5), (2.0, 4), (3.0, 1)] == calls.expired
    assert [3] == list(calls.live)


async def test_ended_calls_leave_nothing() -> None:
    """Calls that end before the timer fires are never in the heap, and do not expire."""
    calls = Calls()
    for key in range(5000):
        calls.add(key, 60.0 + key)
        del calls.live[key]

    assert 0 == len(calls.deadlines)

    await calls.clock.advance(60.0)

    assert (0, math.inf) == (len(calls.deadlines), calls.deadlines.armed)
    assert [] == calls.expired


async def test_outlived_calls_are_dropped_from_the_heap() -> None:
    """Calls that the timer saw and that ended since do not pile up until their time."""
    calls = Calls()
    for turn in range(100):
        for key in range(100):
            calls.add(100 * turn + key, 1e6)
        calls.add(-1, turn + 1.0)
        await calls.clock.advance(1.0)
        calls.live.clear()

    assert 100 == len(calls.expired)
    assert len(calls.deadlines) <= 1024 + 2 * 101


async def test_key_used_again_has_its_own_time() -> None:
    """The old call's time does not end the new one."""
    calls = Calls()
    calls.add(1, 2.0)
    calls.add(2, 1.0)
    await calls.clock.advance(1.5)  # the timer has seen the first
    del calls.live[1]
    calls.add(1, 3.0)
    await calls.clock.advance(1.0)

    assert [(1.0, 2)] == calls.expired

    await calls.clock.advance(1.0)

    assert [(1.0, 2), (3.0, 1)] == calls.expired


async def test_closed_deadlines_are_silent() -> None:
    """Nothing fires after close, and nothing is kept."""
    calls = Calls()
    calls.add(1, 1.0)
    calls.deadlines.close()
    await calls.clock.advance(2.0)

    assert ([], 0) == (calls.expired, len(calls.deadlines))


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 12)),  # seconds from now, 0 for no deadline
        st.tuples(st.just("end"), st.integers(0, 5)),  # which of the live
        st.tuples(st.just("wait"), st.integers(1, 4)),
    ),
    max_size=40,
)


@settings(max_examples=80, deadline=None)
@given(steps=_STEPS)
async def test_expires_as_a_plain_list_would(steps: list[tuple[str, int]]) -> None:
    """Any mix of new, ended and overdue calls expires when, and only when, each is due."""
    calls = Calls()
    due: dict[int, float] = {}
    expected: list[tuple[float, int]] = []
    for key, (step, number) in enumerate(steps):
        now = calls.clock.now()
        if step == "add":
            due[key] = now + number if number else math.inf
            calls.add(key, now + number if number else 0.0)
        elif step == "end" and due:
            ended = sorted(due)[number % len(due)]
            del due[ended], calls.live[ended]
        elif step == "wait":
            await calls.clock.advance(number)
            over = sorted((when, key) for key, when in due.items() if when <= now + number)
            expected += over
            for _, key_over in over:
                del due[key_over]

    assert expected == calls.expired
