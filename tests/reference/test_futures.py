"""rpc_test.py, futures: callbacks, functions that answer later, and scopes that wait for calls."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import scripts, targets
from tests.reference import functions
from tests.reference.functions import MODES, AsyncExecutionClass, add, call, call_method

pytestmark = pytest.mark.asyncio

ONE_THREAD = rpc.RpcOptions(num_worker_threads=1)
"""What waits must not hold it."""

STEPS = [
    (functions.async_add, (1, 2), 3),
    (functions.async_add_nested, (1, 2), 3),
    (functions.async_add_chained, (1, 2, 3), 6),
    (functions.async_add_with_future_ctor, (1, 2, 3), 6),
    (functions.async_add_chained_multi, (1, 20, 2), 41),
    (functions.async_add_multi_fanout, (1, 20, 2), 60),
    (functions.double_by, (4,), 10),
]


# --- callbacks


async def test_callback_multi() -> None:
    """Twenty callbacks of one call come in the order in which they were added."""
    async with cluster(2) as (a, _):
        future = a.rpc_async("worker1", add, args=(1, 2))
        seen: list[tuple[int, int]] = []

        def note(number: int, done: asyncio.Future[int]) -> None:
            seen.append((number, done.result()))

        for number in range(20):
            future.add_done_callback(partial(note, number))
        await future
        await asyncio.sleep(0)

    assert [(number, 3) for number in range(20)] == seen


async def test_callback_chain() -> None:
    """Twenty calls, each made of the result of the one before."""
    async with cluster(2) as (a, _):

        async def one_more(before: Any) -> int:
            return int(await a.rpc_async("worker1", add, args=(await before, 1)))

        chain: Any = a.rpc_async("worker1", add, args=(0, 1))
        for _ in range(20):
            chain = asyncio.ensure_future(one_more(chain))

        assert 21 == await chain


async def test_callback_in_rpc() -> None:
    """A callback may call."""
    async with cluster(3) as (a, *_):
        calls: list[Any] = []
        first = a.rpc_async("worker1", add, args=(1, 2))
        first.add_done_callback(
            lambda done: calls.append(a.rpc_async("worker2", add, args=(done.result(), 1)))
        )
        await first
        await asyncio.sleep(0)

        assert 4 == await calls[0]


async def test_callback_with_error() -> None:
    """A callback that raises is told of; the call and the other callbacks are as they were."""
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    async with cluster(2) as (a, _):
        future = a.rpc_async("worker1", add, args=(1, 2))
        seen: list[int] = []
        future.add_done_callback(lambda _: 1 // 0)
        future.add_done_callback(lambda done: seen.append(done.result()))
        assert 3 == await future
        await asyncio.sleep(0)

    assert [3] == seen
    assert [ZeroDivisionError] == [type(report["exception"]) for report in reports]


async def test_callback_wrong_arg_num() -> None:
    """A callback that takes another number of arguments is told of, and nothing else suffers."""
    reports: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    async with cluster(2) as (a, _):
        future = a.rpc_async("worker1", add, args=(1, 2))
        future.add_done_callback(lambda: None)  # type: ignore[arg-type, misc]
        assert 3 == await future
        await asyncio.sleep(0)

    assert [TypeError] == [type(report["exception"]) for report in reports]


async def test_future_done_exception() -> None:
    """A call that failed is done; so is one that did not."""
    async with cluster(2) as (a, _):
        good = a.rpc_async("worker1", add, args=(1, 2))
        bad = a.rpc_async("worker1", targets.fail, args=("Expected error",))
        before = (good.done(), bad.done())
        await asyncio.wait([good, bad])

    assert (False, False) == before
    assert good.done()
    assert bad.done()
    assert 3 == good.result()
    assert "Expected error" == str(bad.exception())


async def test_mark_future_twice() -> None:
    """A call that has its result takes no other one."""
    async with cluster(2) as (a, _):
        future = a.rpc_async("worker1", add, args=(1, 2))
        await future
        with pytest.raises(asyncio.InvalidStateError):
            future.set_result(4)
        with pytest.raises(asyncio.InvalidStateError):
            future.set_exception(ValueError())

        assert 3 == await future


# --- functions that answer later


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("func", "args", "expected"), STEPS)
async def test_async_function(mode: str, func: Any, args: Any, expected: int) -> None:
    """Simple, nested, chained, with a future of its own, in 20 steps and 20 ways at once."""
    async with cluster(4, options=ONE_THREAD) as (a, *_):
        assert expected == await call(mode, a, "worker1", func, ("worker2", *args))


@pytest.mark.parametrize("mode", MODES)
async def test_async_functions_hold_no_thread(mode: str) -> None:
    """Twenty of them that wait for each other's worker do with one thread each."""
    async with cluster(4, options=ONE_THREAD) as (a, *_):
        args = [("worker2", number, 1) for number in range(20)]
        calls = [call(mode, a, "worker1", functions.async_add_nested, arg) for arg in args]

        assert [*range(1, 21)] == await asyncio.gather(*calls)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["static", "class", "bound"])
async def test_async_methods(mode: str, kind: str) -> None:
    """`async_static_method`, `async_class_method` and `async_class_rref_proxy`."""
    async with cluster(4, options=ONE_THREAD) as (a, *_):
        rref = a.remote("worker1", AsyncExecutionClass)
        args = ("worker2", 1, 2, 3)
        method = getattr(AsyncExecutionClass(), f"{kind}_async_add")

        assert 6 == await call(mode, a, "worker1", method, args)
        assert 6 == await call_method(mode, rref, f"{kind}_async_add", *args)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("func", [scripts.later, functions.marked_first])
async def test_async_decorator_order(mode: str, func: Any) -> None:
    """A script function may be marked before and after it is registered."""
    async with cluster(4, options=ONE_THREAD) as (a, *_):
        assert 3 == await call(mode, a, "worker1", func, (3,))


# --- scopes


async def test_wait_all_timeout() -> None:
    """The first time-out of twenty is raised at the end of the scope."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, _):
        with pytest.raises(rpc.RpcTimeoutError, match="RPC ran for more than set timeout"):
            async with rpc.wait_all():
                calls = [
                    a.rpc_async("worker1", targets.sleep, args=(1000,), timeout=0.01)
                    for _ in range(20)
                ]
                await clock.advance(0.02)

    assert all(isinstance(call.exception(), rpc.RpcTimeoutError) for call in calls)


async def test_wait_all_with_partial_exception() -> None:
    """One of twenty fails: it is raised; what is awaited inside is fine."""
    async with cluster(2) as (a, _):
        with pytest.raises(ValueError, match="Expected error"):
            async with rpc.wait_all():
                calls = [a.rpc_async("worker1", add, args=(n, 1)) for n in range(10)]
                assert 1 == await calls[0]
                a.rpc_async("worker1", targets.fail, args=("Expected error",))
                calls += [a.rpc_async("worker1", add, args=(n, 1)) for n in range(10, 20)]

        assert [*range(1, 21)] == await asyncio.gather(*calls)


@pytest.mark.parametrize(
    ("func", "args"),
    [
        pytest.param(targets.fail, ("Expected error",), id="python"),
        pytest.param(int, ("Expected error",), id="builtin"),
        pytest.param(scripts.fail, ("Expected error",), id="script"),
    ],
)
async def test_wait_all_exit_early(func: Any, args: Any) -> None:
    """One call hangs, one fails: the scope does not wait for the hanging one."""
    async with cluster(2) as (a, _):
        with pytest.raises(ValueError, match="Expected error"):
            async with rpc.wait_all():
                hanging = a.rpc_async("worker1", targets.sleep, args=(1000,))
                a.rpc_async("worker1", func, args=args)
        assert not hanging.done()
        hanging.cancel()


async def test_wait_all_leaves_no_state() -> None:
    """After an error of the body, of a call, or none, calls are nobody's to wait for."""
    async with cluster(2) as (a, _):
        for _ in range(2):
            with pytest.raises(KeyError, match="body"):
                async with rpc.wait_all():
                    raise KeyError("body")
            with pytest.raises(ValueError, match="Expected error"):
                async with rpc.wait_all():
                    a.rpc_async("worker1", targets.fail, args=("Expected error",))
            outside = a.rpc_async("worker1", targets.fail, args=("outside",))
            async with rpc.wait_all():
                a.rpc_async("worker1", add, args=(1, 2))
            with pytest.raises(ValueError, match="outside"):
                await outside
