"""The thread pool: bounds, delivery on the loop, user code that raises anything, closing."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from asyncrpc.execution.threads import ThreadPool

NAME = "test-pool"


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[ThreadPool]:
    """A pool of at most two threads, closed afterwards."""
    pool = ThreadPool(2, NAME, now=lambda: 12.5)
    yield pool
    await pool.close(5)


def start(
    pool: ThreadPool, function: Callable[..., object], *args: object, **kwargs: object
) -> asyncio.Future[Any]:
    """Submit ``function``; the future holds its outcome."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def on_done(result: object, error: BaseException | None) -> None:
        if error is None:
            future.set_result(result)
        else:
            future.set_result(error)

    pool.submit(loop, contextvars.copy_context(), function, args, kwargs, on_done)
    return future


class Gate:
    """A function that says when it runs and returns when it is let."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self) -> str:
        """Wait for `opened`; return the thread's name."""
        self.entered.release()
        self.opened.wait(10)
        return threading.current_thread().name

    async def wait_entered(self, times: int = 1) -> None:
        """Wait until that many threads are inside."""
        for _ in range(times):
            while not self.entered.acquire(blocking=False):
                await asyncio.sleep(0)


def threads() -> list[threading.Thread]:
    """Return the live threads of the pool."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(NAME)]


@pytest.mark.asyncio
async def test_result_comes_on_the_loop(pool: ThreadPool) -> None:
    """A function runs in a daemon thread; its outcome is delivered in the loop's thread."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[tuple[object, object, int]] = loop.create_future()

    def function(a: int, *, b: int) -> tuple[int, str, bool]:
        thread = threading.current_thread()
        return a + b, thread.name, thread.daemon

    pool.submit(
        loop,
        contextvars.copy_context(),
        function,
        (1,),
        {"b": 2},
        lambda result, error: outcome.set_result((result, error, threading.get_ident())),
    )

    assert await outcome == ((3, f"{NAME}-0", True), None, threading.get_ident())


@pytest.mark.asyncio
async def test_function_runs_in_the_given_context(pool: ThreadPool) -> None:
    """Context variables of the caller are seen in the thread."""
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)

    assert await start(pool, variable.get) == 7


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error",
    [ValueError("x"), SystemExit(3), KeyboardInterrupt(), StopIteration(1), GeneratorExit()],
)
async def test_any_error_is_delivered_and_the_thread_lives(
    pool: ThreadPool, error: BaseException
) -> None:
    """Whatever a function raises is its outcome; the next one runs in the same thread."""

    def fail() -> None:
        raise error

    first = await start(pool, fail)
    second = await start(pool, threading.current_thread)

    assert first is error
    assert (second.name, pool.size, pool.idle) == (f"{NAME}-0", 1, 1)


@pytest.mark.asyncio
async def test_bad_arguments_are_the_functions_own_error(pool: ThreadPool) -> None:
    """A call that does not fit the signature fails like any other."""
    error = await start(pool, len)

    assert isinstance(error, TypeError)


@pytest.mark.asyncio
async def test_threads_are_started_as_needed_and_never_beyond_the_bound(pool: ThreadPool) -> None:
    """The pool grows with the load up to its bound; the rest waits and is run in order."""
    gate = Gate()
    assert (pool.size, pool.idle, pool.queued) == (0, 0, 0)

    outcomes = [start(pool, gate) for _ in range(5)]
    await gate.wait_entered(2)

    assert (pool.size, pool.idle, pool.queued, len(threads())) == (2, 0, 3, 2)
    gate.opened.set()
    names = set(await asyncio.gather(*outcomes))
    assert names <= {f"{NAME}-0", f"{NAME}-1"}
    assert (pool.size, pool.idle, pool.queued) == (2, 2, 0)


@pytest.mark.asyncio
async def test_an_idle_thread_is_reused(pool: ThreadPool) -> None:
    """Functions that come one after the other share one thread."""
    for _ in range(20):
        await start(pool, int)

    assert (pool.size, len(threads())) == (1, 1)


@pytest.mark.asyncio
async def test_running_names_function_thread_and_start(pool: ThreadPool) -> None:
    """What runs is listed for debug output, and no longer once it has ended."""
    gate = Gate()
    outcome = start(pool, gate)
    await gate.wait_entered()

    running = pool.running

    assert running == [(f"{__name__}:Gate", f"{NAME}-0", 12.5)]
    gate.opened.set()
    await outcome
    assert pool.running == []


@pytest.mark.asyncio
async def test_outcomes_share_a_wake_up_of_the_loop() -> None:
    """What ends while the loop is busy is delivered by one callback."""
    loop = asyncio.get_running_loop()
    pool = ThreadPool(8, NAME)
    gate = Gate()
    wake_ups: list[object] = []
    call_soon_threadsafe = loop.call_soon_threadsafe

    class CountingLoop:
        call_soon = loop.call_soon

        def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
            wake_ups.append(callback)
            call_soon_threadsafe(callback)

    counting: Any = CountingLoop()
    results: list[object] = []
    for _ in range(8):
        pool.submit(
            counting, contextvars.copy_context(), gate, (), {}, lambda r, _: results.append(r)
        )
    for _ in range(8):
        gate.entered.acquire()
    gate.opened.set()
    while pool.idle < 8:  # blocks the loop on purpose
        pass
    await pool.close(5)

    assert len(results) == 8
    assert len(wake_ups) == 1


@pytest.mark.asyncio
async def test_a_callback_that_fails_does_not_stop_the_others(pool: ThreadPool) -> None:
    """An error of `on_done` goes to the loop's handler, and later outcomes are delivered."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def fail(_result: object, _error: object) -> None:
        raise ValueError("bad callback")

    pool.submit(loop, contextvars.copy_context(), int, (), {}, fail)
    result = await start(pool, int)
    while not reported:
        await asyncio.sleep(0)

    assert result == 0
    assert str(reported[0]["exception"]) == "bad callback"


@pytest.mark.asyncio
async def test_a_waiting_thread_keeps_nothing_alive(pool: ThreadPool) -> None:
    """Arguments, results and errors are let go before the thread waits again."""

    class Thing:
        pass

    def fail(thing: Thing) -> None:
        raise ValueError(thing)

    thing = Thing()
    alive = weakref.ref(thing)
    await start(pool, fail, thing)
    del thing
    while alive() is not None:  # the outcome overtakes the thread's last instructions
        await asyncio.sleep(0)
        gc.collect()

    assert alive() is None


@pytest.mark.asyncio
async def test_close_ends_idle_threads(pool: ThreadPool) -> None:
    """Nothing is left of an idle pool after close, even without time to wait."""
    await asyncio.gather(start(pool, int), start(pool, int))

    left = await pool.close(0)

    assert (left, pool.size, pool.idle, threads()) == ([], 0, 0, [])


@pytest.mark.asyncio
async def test_close_waits_for_what_runs(pool: ThreadPool) -> None:
    """A function that ends in time is waited for, and its outcome is there after close."""
    gate = Gate()
    outcome = start(pool, gate)
    await gate.wait_entered()
    asyncio.get_running_loop().call_soon(gate.opened.set)

    left = await pool.close(5)

    assert (left, threads(), outcome.done()) == ([], [], True)


@pytest.mark.asyncio
async def test_close_names_and_leaves_what_does_not_end(pool: ThreadPool) -> None:
    """After the timeout the functions still running are returned; they end by themselves."""
    gate = Gate()
    outcome = start(pool, gate)
    await gate.wait_entered()

    left = await pool.close(0)

    assert [(entry.function, entry.thread) for entry in left] == [(f"{__name__}:Gate", f"{NAME}-0")]
    gate.opened.set()
    assert await outcome == f"{NAME}-0"
    assert await pool.close(5) == []
    assert threads() == []


@pytest.mark.asyncio
async def test_close_drops_what_has_not_begun() -> None:
    """A function that waits for a thread never runs after close; its caller is told."""
    pool = ThreadPool(1, NAME)
    gate = Gate()
    first = start(pool, gate)
    await gate.wait_entered()
    second = start(pool, gate)

    await pool.close(0)
    gate.opened.set()

    assert str(await second) == f"thread pool {NAME!r} is closed"
    assert await first == f"{NAME}-0"
    assert await pool.close(None) == []


@pytest.mark.asyncio
async def test_submit_after_close_is_refused(pool: ThreadPool) -> None:
    """A closed pool takes nothing."""
    await pool.close(0)

    with pytest.raises(RuntimeError, match="is closed"):
        start(pool, int)


@pytest.mark.asyncio
async def test_cancelled_close_can_be_repeated(pool: ThreadPool) -> None:
    """Cancelling close leaves the pool closed and lets another one wait."""
    gate = Gate()
    outcome = start(pool, gate)
    await gate.wait_entered()
    closing = asyncio.ensure_future(pool.close(None))
    await asyncio.sleep(0)

    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    gate.opened.set()

    assert await pool.close(5) == []
    assert outcome.done()


@pytest.mark.asyncio
async def test_first_thread_that_cannot_start_is_an_error(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any thread `submit` raises; with one, the function waits for it."""
    gate = Gate()

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            start(pool, int)
    first = start(pool, gate)
    await gate.wait_entered()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        second = start(pool, int)

    assert (pool.size, pool.queued) == (1, 1)
    gate.opened.set()
    assert (await first, await second) == (f"{NAME}-1", 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [0, -1])
async def test_a_pool_needs_a_thread(count: int) -> None:
    """The bound is at least one."""
    with pytest.raises(ValueError, match=f"max_workers must be at least 1, but got {count}"):
        ThreadPool(count)


def test_loop_that_closed_meanwhile_is_no_noise() -> None:
    """An outcome for a loop that is gone is dropped in silence, and the thread can end."""
    gate = Gate()
    pool = ThreadPool(1, NAME)

    async def main() -> None:
        start(pool, gate)
        await gate.wait_entered()

    asyncio.run(main())
    gate.opened.set()

    assert asyncio.run(pool.close(5)) == []
    assert threads() == []
