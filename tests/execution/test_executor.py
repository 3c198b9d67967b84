"""Calls are run as asyncio's own tasks would run them, though several may share one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from asyncrpc.execution import Executor, ServedCall, Target, TargetKind, ThreadPool
from asyncrpc.identity import WorkerInfo

pytestmark = pytest.mark.asyncio

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")


class Outcomes:
    """A replier that keeps what it is given."""

    def __init__(self) -> None:
        self.agent = self
        self.caller = WorkerInfo("caller", 0)
        self.outcomes: dict[int, object] = {}

    def now(self) -> float:
        """Return a time that stands still."""
        return 0.0

    def succeed(self, call: ServedCall, value: object) -> None:
        """Keep a result."""
        self.outcomes[call.ident] = value

    def fail(self, call: ServedCall, error: BaseException) -> None:
        """Keep an error's type."""
        self.outcomes[call.ident] = type(error)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Executor, Outcomes]]:
    """Give an executor with its replier."""
    executor = Executor(ThreadPool(2, "test"))
    yield executor, Outcomes()
    executor.close()
    await executor.threads.close(5.0)
    await asyncio.sleep(0)


def start(executor: Executor, to: Outcomes, function: Any, count: int = 1) -> list[ServedCall]:
    """Start some calls of one function in one turn of the loop."""
    target = Target(TargetKind.ASYNC, function, "test:function")
    calls = [ServedCall(to, ident, target, 0.0, 1, reply=1) for ident in range(count)]
    for call in calls:
        executor.start(call, target, (call.ident,), {})
    return calls


async def turns(count: int = 3) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def finish(to: Outcomes, count: int) -> None:
    """Let the loop turn until there are as many outcomes."""
    while len(to.outcomes) < count:
        await asyncio.sleep(0)


async def test_calls_that_do_not_wait() -> None:
    """Calls that end in their first step all run in the next turn, in order."""
    order: list[int] = []

    async def function(ident: int) -> int:
        order.append(ident)
        return ident * 2

    async with running() as (executor, to):
        start(executor, to, function, 100)
        await finish(to, 100)
        start(executor, to, function, 2)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert {i: i * 2 for i in range(100)} == to.outcomes
    assert [*range(100), 0, 1] == order


async def test_calls_that_wait() -> None:
    """Calls that wait do so side by side, each in a task of its own."""
    gate = asyncio.Event()
    tasks: dict[int, set[asyncio.Task[Any] | None]] = {}

    async def function(ident: int) -> int:
        before = asyncio.current_task()
        await gate.wait()
        tasks[ident] = {before, asyncio.current_task()}
        await asyncio.sleep(0)
        return ident

    async with running() as (executor, to):
        start(executor, to, function, 10)
        for _ in range(30):
            await asyncio.sleep(0)
        waiting = len(to.outcomes)
        gate.set()
        await finish(to, 10)

    assert 0 == waiting
    assert {i: i for i in range(10)} == to.outcomes
    assert [1] * 10 == [len(seen) for seen in tasks.values()]
    assert 10 == len(set.union(*tasks.values()))


async def test_context_variables_stay_apart() -> None:
    """What a call sets in its context no other call sees, whether it waited or not."""
    seen: list[str] = []

    async def function(ident: int) -> None:
        seen.append(variable.get())
        variable.set(f"of call {ident}")
        if ident % 2:
            await asyncio.sleep(0)
        seen.append(variable.get())

    async with running() as (executor, to):
        start(executor, to, function, 8)
        await finish(to, 8)

    assert ["clean"] * 8 == [text for text in seen if not text.startswith("of call")]
    assert {f"of call {i}" for i in range(8)} == set(seen) - {"clean"}


async def test_scopes_before_the_first_wait() -> None:
    """Timeouts, task groups and anyio's scopes work before, around and after the first wait."""

    async def child() -> int:
        await asyncio.sleep(0)
        return 1

    async def function(ident: int) -> int:
        async with asyncio.timeout(60):
            if ident % 3 == 0:
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(child())
                return task.result()
        if ident % 3 == 1:
            with anyio.move_on_after(60):
                await asyncio.sleep(0)
            return 1
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        except TimeoutError:
            return 1
        return 0

    async with running() as (executor, to):
        start(executor, to, function, 30)
        await finish(to, 30)

    assert dict.fromkeys(range(30), 1) == to.outcomes


async def test_a_cancel_ends_one_call_only() -> None:
    """A cancel reaches the call it is for: before its start, while it waits, or itself."""
    started: list[int] = []

    async def function(ident: int) -> str:
        started.append(ident)
        if ident == 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            return "cancelled itself and ended"
        if ident == 3:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
        return "ran"

    async with running() as (executor, to):
        calls = start(executor, to, function, 6)
        calls[1].cancel()
        await finish(to, 5)
        calls[3].cancel()
        await finish(to, 6)
        start(executor, to, function, 1)
        await finish(to, 6)

    ends = {0: "ran", 1: asyncio.CancelledError, 2: "cancelled itself and ended"}
    assert {**ends, 3: asyncio.CancelledError, 4: "ran", 5: "ran"} == to.outcomes
    assert [0, 2, 3, 4, 5, 0] == started


async def test_errors_stay_with_their_call() -> None:
    """Whatever a function raises, before or after it waits, is its outcome and nothing else's."""
    raised = [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError]

    async def function(ident: int) -> str:
        if ident % 2:
            await asyncio.sleep(0)
        if ident < 10:
            raise raised[ident // 2]
        return "ran"

    async with running() as (executor, to):
        start(executor, to, function, 12)
        await finish(to, 12)

    assert raised == [to.outcomes[i] for i in range(0, 10, 2)]
    assert raised == [to.outcomes[i] for i in range(1, 10, 2)]
    assert ["ran", "ran"] == [to.outcomes[10], to.outcomes[11]]


async def test_arguments_are_let_go() -> None:
    """The runner that waits for work keeps nothing of the call before."""
    import gc
    import weakref

    class Large:
        pass

    async def function(value: object) -> None:
        del value

    async with running() as (executor, to):
        value = Large()
        watch = weakref.ref(value)
        target = Target(TargetKind.ASYNC, function, "test:function")
        call = ServedCall(to, 0, target, 0.0, 1, reply=1)
        executor.start(call, target, (value,), {})
        await finish(to, 1)
        del value
        gc.collect()

        assert watch() is None
