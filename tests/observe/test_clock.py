"""`LoopClock`: timers that are never early and never spin, on either loop."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import math
import time
from types import SimpleNamespace

import pytest

from asyncrpc.observe import LoopClock
from asyncrpc.observe import clock as clock_module

pytestmark = pytest.mark.asyncio


def fake_time(monkeypatch: pytest.MonkeyPatch, *readings: float) -> None:
    """Let the module read these times one after the other, the last one from then on."""
    values = itertools.chain(readings, itertools.repeat(readings[-1]))
    monkeypatch.setattr(clock_module, "time", SimpleNamespace(monotonic=lambda: next(values)))


async def test_time_is_monotonic() -> None:
    """It is the clock of time.monotonic, and moves within one turn of the loop."""
    before = time.monotonic()
    now = LoopClock().time()

    assert before <= now <= time.monotonic()


@pytest.mark.parametrize("delay", [-1.0, 0.0, 0.0002, 0.0017, 0.004])
async def test_never_early(delay: float) -> None:
    """A timer fires at its time or later, below the loops' resolution too."""
    clock = LoopClock()
    fired = asyncio.get_running_loop().create_future()
    when = clock.time() + delay
    clock.call_at(when, lambda: fired.set_result(clock.time()))

    assert await fired >= when


async def test_not_early_after_a_blocked_turn() -> None:
    """A loop whose cached time lags behind does not fire early either."""
    clock = LoopClock()
    fired = asyncio.get_running_loop().create_future()
    end = clock.time() + 0.01
    while clock.time() < end:
        pass
    when = clock.time() + 0.005
    clock.call_at(when, lambda: fired.set_result(clock.time()))

    assert await fired >= when


async def test_early_wake_up_is_armed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the loop calls too soon, the timer waits on, by at least a tick each time."""
    fake_time(monkeypatch, 9.999, 9.9999, 9.9999, 10.0)
    delays: list[float] = []
    loop = asyncio.get_running_loop()
    fired = loop.create_future()

    def call_later(delay: float, callback: object) -> asyncio.Handle:
        delays.append(delay)
        return loop.call_soon(callback)  # type: ignore[arg-type]

    fake_loop = SimpleNamespace(call_later=call_later, call_soon=loop.call_soon)
    monkeypatch.setattr(
        clock_module,
        "asyncio",
        SimpleNamespace(get_running_loop=lambda: fake_loop, Handle=asyncio.Handle),
    )
    LoopClock().call_at(10.0, fired.set_result, "fired")

    assert await fired == "fired"
    assert delays == pytest.approx([0.001, 0.001])


async def test_never_calls_back_from_inside() -> None:
    """A time that has passed is met in a later turn, not in the call."""
    calls: list[int] = []
    LoopClock().call_at(0.0, calls.append, 1)
    within = list(calls)
    await asyncio.sleep(0)

    assert (within, calls) == ([], [1])


@pytest.mark.parametrize("when", [math.inf, 1e300])
async def test_far_times_can_be_waited_for(when: float) -> None:
    """Infinity is a time that does not come, not an error."""
    timer = LoopClock().call_at(when, pytest.fail)
    await asyncio.sleep(0)
    timer.cancel()


@pytest.mark.parametrize("delay", [0.0, 0.002])
async def test_cancelled_timer_stays_silent(delay: float) -> None:
    """After cancel nothing is called; cancelling again is harmless."""
    clock = LoopClock()
    timer = clock.call_at(clock.time() + delay, pytest.fail)
    timer.cancel()
    timer.cancel()
    await clock.sleep(delay + 0.002)


async def test_cancel_after_firing_is_harmless() -> None:
    """A timer that has fired can be cancelled."""
    calls: list[int] = []
    timer = LoopClock().call_at(0.0, calls.append, 1)
    await asyncio.sleep(0)
    timer.cancel()

    assert calls == [1]


async def test_callback_runs_in_the_callers_context() -> None:
    """Context variables are those of call_at."""
    variable = contextvars.ContextVar("variable", default="outside")
    seen = asyncio.get_running_loop().create_future()
    token = variable.set("inside")
    LoopClock().call_at(0.0, lambda: seen.set_result(variable.get()))
    variable.reset(token)

    assert await seen == "inside"


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.003])
async def test_sleep(seconds: float) -> None:
    """Sleep lasts as long as asked and lets others run even for nothing."""
    clock = LoopClock()
    others: list[int] = []
    asyncio.get_running_loop().call_soon(others.append, 1)
    start = clock.time()
    await clock.sleep(seconds)

    assert clock.time() - start >= seconds
    assert others == [1]


async def test_cancelled_sleep_leaves_no_timer() -> None:
    """Cancelling a sleeper ends it at once."""
    sleeper = asyncio.ensure_future(LoopClock().sleep(1000))
    await asyncio.sleep(0)
    sleeper.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sleeper
