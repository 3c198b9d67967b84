"""`VirtualClock`: time moves by `advance` alone, in order, and the loop rests in between."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncrpc.observe import Clock
from asyncrpc.testing import VirtualClock
from asyncrpc.testing import clock as clock_module

pytestmark = pytest.mark.asyncio


async def test_is_a_clock() -> None:
    """It can stand where the library wants a clock."""
    clock: Clock = VirtualClock(start=7.0)

    assert clock.time() == 7.0


async def test_time_stands_still() -> None:
    """Nothing but advance moves it."""
    clock = VirtualClock()
    await asyncio.sleep(0.001)

    assert (clock.now(), clock.time()) == (0.0, 0.0)


async def test_advance_moves_exactly() -> None:
    """Afterwards now is what was asked for, timers or none."""
    clock = VirtualClock(start=1.0)
    clock.call_at(1.5, int)
    await clock.advance(2.25)

    assert clock.now() == 3.25


async def test_timers_run_in_order_at_their_times() -> None:
    """By time, then by age; each sees its own time."""
    clock = VirtualClock()
    seen: list[tuple[str, float]] = []
    for name, when in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.5), ("late", 3.1)):
        clock.call_at(when, lambda name=name: seen.append((name, clock.now())))
    await clock.advance(3.0)

    assert seen == [("a", 1.0), ("b", 1.5), ("c", 2.0), ("d", 2.0)]


async def test_timer_at_the_target_runs() -> None:
    """The end of the interval belongs to it."""
    clock = VirtualClock()
    calls: list[int] = []
    clock.call_at(1.0, calls.append, 1)
    await clock.advance(1.0)

    assert calls == [1]


async def test_many_small_steps() -> None:
    """Steps that add up to the time of a timer, but for rounding, reach it."""
    clock = VirtualClock()
    calls: list[int] = []
    clock.call_at(1.0, calls.append, 1)
    for _ in range(10):
        await clock.advance(0.1)

    assert ([1], 1.0) == (calls, clock.now())


async def test_timers_made_by_timers_run_in_the_same_advance() -> None:
    """A chain of timers is followed as far as the target, and no further."""
    clock = VirtualClock()
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(clock.now())
        clock.call_at(clock.now() + 1.0, tick)

    clock.call_at(1.0, tick)
    await clock.advance(3.5)

    assert ticks == [1.0, 2.0, 3.0]


async def test_passed_time_is_due_at_the_next_advance() -> None:
    """A timer in the past runs without moving time back."""
    clock = VirtualClock(start=10.0)
    seen: list[float] = []
    clock.call_at(5.0, lambda: seen.append(clock.now()))
    await clock.advance(0)

    assert seen == [10.0]


@pytest.mark.parametrize("hops", [1, 10, 200])
async def test_tasks_come_to_rest_between_timers(hops: int) -> None:
    """What one timer sets off is finished, however many turns it takes, before the next one."""
    clock = VirtualClock()
    log: list[str] = []

    async def work() -> None:
        await clock.sleep(1.0)
        for _ in range(hops):
            await asyncio.sleep(0)
        log.append("worked")

    task = asyncio.ensure_future(work())
    clock.call_at(1.001, log.append, "next timer")
    await clock.advance(2.0)
    await task

    assert log == ["worked", "next timer"]


@pytest.mark.parametrize("hops", [1, 10])
async def test_callbacks_come_to_rest_between_timers(hops: int) -> None:
    """So are chains of plain callbacks."""
    clock = VirtualClock()
    log: list[str] = []
    loop = asyncio.get_running_loop()

    def hop(left: int) -> None:
        if left:
            loop.call_soon(hop, left - 1)
        else:
            log.append("arrived")

    clock.call_at(1.0, hop, hops)
    clock.call_at(1.001, log.append, "next timer")
    await clock.advance(2.0)

    assert log == ["arrived", "next timer"]


async def test_new_tasks_start_before_time_moves() -> None:
    """A task made just before advance sleeps from the old time."""
    clock = VirtualClock()
    sleeper = asyncio.ensure_future(clock.sleep(1.0))
    await clock.advance(1.0)

    assert sleeper.done()
    await sleeper


async def test_sleepers_wake_in_order() -> None:
    """Tasks wake at their times."""
    clock = VirtualClock()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(clock.now())

    async with asyncio.TaskGroup() as group:
        for seconds in (3.0, 1.0, 2.0, 0.0):
            group.create_task(sleep(seconds))
        await clock.advance(5.0)

    assert woken == [0.0, 1.0, 2.0, 3.0]


async def test_cancelled_timer_stays_silent() -> None:
    """A cancelled timer does not run; cancelling twice, or late, is harmless."""
    clock = VirtualClock()
    calls: list[int] = []
    timer = clock.call_at(1.0, pytest.fail)
    ran = clock.call_at(1.0, calls.append, 1)
    timer.cancel()
    timer.cancel()
    await clock.advance(1.0)
    ran.cancel()

    assert calls == [1]


async def test_timer_cancelled_by_one_of_the_same_time() -> None:
    """The first of two simultaneous timers can stop the second."""
    clock = VirtualClock()
    clock.call_at(1.0, lambda: second.cancel())  # noqa: PLW0108 -- not made yet
    second = clock.call_at(1.0, pytest.fail)
    await clock.advance(1.0)

    assert clock.now() == 1.0


async def test_cancelled_sleeper() -> None:
    """Cancelling a sleeper ends it without advance."""
    clock = VirtualClock()
    sleeper = asyncio.ensure_future(clock.sleep(1.0))
    await asyncio.sleep(0)
    sleeper.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sleeper


async def test_callback_runs_in_the_callers_context() -> None:
    """Context variables are those of call_at."""
    clock = VirtualClock()
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[str] = []
    token = variable.set("inside")
    clock.call_at(1.0, lambda: seen.append(variable.get()))
    variable.reset(token)
    await clock.advance(1.0)

    assert seen == ["inside"]


async def test_failing_callback_goes_to_the_loop() -> None:
    """A raising callback is reported by the loop and does not stop the clock."""
    clock = VirtualClock()
    reports: list[object] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reports.append(context["exception"]))
    error = ValueError("on purpose")

    def fail() -> None:
        raise error

    clock.call_at(1.0, fail)
    await clock.advance(2.0)
    loop.set_exception_handler(before)

    assert reports == [error]
    assert clock.now() == 2.0


@pytest.mark.parametrize("seconds", [-0.1, math.nan, math.inf, "1", None, True])
async def test_time_cannot_go_back_or_end(seconds: float) -> None:
    """Only finite steps forward are steps."""
    with pytest.raises(ValueError, match="seconds must be a finite number >= 0"):
        await VirtualClock().advance(seconds)


@pytest.mark.parametrize("start", [math.nan, math.inf, "1", None, True])
async def test_bad_start(start: float) -> None:
    """Time begins at a number."""
    with pytest.raises(ValueError, match="start must be a finite number of seconds, got"):
        VirtualClock(start)


async def test_next_timer() -> None:
    """It is the earliest one that was not cancelled."""
    clock = VirtualClock()
    nothing = clock.next_timer
    first = clock.call_at(1.0, int)
    clock.call_at(2.0, int)
    before = clock.next_timer
    first.cancel()

    assert (None, 1.0, 2.0) == (nothing, before, clock.next_timer)


async def test_held_while_a_thread_works() -> None:
    """Work elsewhere is awaited before time moves, however often it begins anew."""
    clock = VirtualClock()
    log: list[tuple[str, float]] = []
    working: set[asyncio.Future[bool]] = set()

    async def work() -> None:
        working.add(done := asyncio.ensure_future(asyncio.to_thread(threading.Event().wait, 0.02)))
        await done
        log.append(("worked", clock.now()))
        working.discard(done)

    for when in (1.0, 2.0):
        clock.call_at(when, lambda: tasks.append(asyncio.ensure_future(work())))
        clock.call_at(when + 0.5, lambda: log.append(("timer", clock.now())))
    tasks: list[asyncio.Task[None]] = []
    with clock.hold_while(lambda: bool(working)):
        await clock.advance(3)

    assert [("worked", 1.0), ("timer", 1.5), ("worked", 2.0), ("timer", 2.5)] == log


async def test_what_held_work_ends_with_is_seen_to() -> None:
    """When the work is done, what it sets off on the loop is done too before time moves."""
    clock = VirtualClock()
    loop = asyncio.get_running_loop()
    log: list[str] = []
    is_working = True

    def hop(left: int) -> None:
        if left:
            loop.call_soon(hop, left - 1)
        else:
            log.append("arrived")

    def end() -> None:
        nonlocal is_working
        is_working = False
        hop(10)

    worker = threading.Timer(0.01, loop.call_soon_threadsafe, args=(end,))
    worker.start()
    clock.call_at(1.0, log.append, "timer")
    with clock.hold_while(lambda: is_working):
        await clock.advance(1.0)
    worker.join()

    assert ["arrived", "timer"] == log


async def test_waiting_for_held_work_is_no_busy_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop sleeps between two looks at it, so that patience ends before the turns do."""
    monkeypatch.setattr(clock_module, "_PATIENCE", 0.05)
    monkeypatch.setattr(clock_module, "_MAX_TURNS", 500)
    clock = VirtualClock()
    with clock.hold_while(lambda: True):
        await clock.advance(1)

    assert clock.now() == 1


async def test_held_for_some_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still busy then is let be until it has ended once."""
    monkeypatch.setattr(clock_module, "_PATIENCE", 0.02)
    monkeypatch.setattr(clock_module, "turns_to_rest", lambda _: 1)
    clock = VirtualClock()
    is_busy = True
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        return is_busy

    with clock.hold_while(look):
        await clock.advance(1)
        looks = 0
        await clock.advance(1)
        while_busy = looks
        is_busy = False
        await clock.advance(1)
    await clock.advance(1)

    assert (1, 2, 4.0) == (while_busy, looks, clock.now())


async def test_two_cannot_advance_at_once() -> None:
    """The second one is told, the first one is not disturbed."""
    clock = VirtualClock()
    errors: list[Exception] = []

    async def also() -> None:
        try:
            await clock.advance(1.0)
        except RuntimeError as error:
            errors.append(error)

    clock.call_at(1.0, lambda: tasks.append(asyncio.ensure_future(also())))
    tasks: list[asyncio.Task[None]] = []
    await clock.advance(2.0)

    assert [str(error) for error in errors] == ["another task is advancing this clock"]
    assert clock.now() == 2.0


async def test_loop_that_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that polls for ever is an error, not a hang."""
    monkeypatch.setattr(clock_module, "_MAX_TURNS", 100)

    async def poll() -> None:
        while True:
            await asyncio.sleep(0)

    poller = asyncio.ensure_future(poll())

    with pytest.raises(RuntimeError, match="did not come to rest in 100 turns"):
        await VirtualClock().advance(1.0)
    poller.cancel()


async def test_cancelled_advance_keeps_its_place() -> None:
    """Cancelled half way, time stays where it was and can be advanced again."""
    clock = VirtualClock()
    clock.call_at(1.0, lambda: task.cancel())  # noqa: PLW0108 -- not made yet
    task = asyncio.ensure_future(clock.advance(5.0))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.now() == 1.0
    await clock.advance(1.0)

    assert clock.now() == 2.0


@settings(max_examples=30)
@given(st.lists(st.floats(0, 100), max_size=20), st.lists(st.floats(0, 30), min_size=1, max_size=6))
async def test_any_steps_give_the_same_order(times: list[float], steps: list[float]) -> None:
    """How an interval is cut into steps does not change what runs when."""
    clock = VirtualClock()
    seen: list[tuple[float, float]] = []
    for when in times:
        clock.call_at(when, lambda when=when: seen.append((when, clock.now())))
    for step in steps:
        await clock.advance(step)

    assert seen == [(when, when) for when in sorted(times) if when <= clock.now()]
