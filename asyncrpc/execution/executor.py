"""Runs the function of a served call: on the loop, in the thread pool, or at once.

Called by the agent's links with a decoded request; gives the outcome to the call's replier. User
code can raise anything: what it raises becomes the call's outcome and never escapes into the loop,
so BaseException is caught here, in the task or thread that runs the function.

Theory of operation. Making a task costs more than the rest of a small call. So the calls that came
in one read are started by one task, the *runner*: it takes the first step of each coroutine itself,
within its own step, where `asyncio.current_task` is a real task and timeouts, task groups and
anyio's scopes work as ever. A call that ends in its first step leaves the runner free for the next
one. A call that has to wait keeps the runner to itself until it ends, and a new runner goes on with
those behind it. A runner whose context or cancellation a call has changed is not used again, so no
call can see another one's context variables. One runner that has nothing to do waits for the next
read.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from asyncrpc.execution.context import ServedCall, current_call
from asyncrpc.execution.functions import Target, TargetKind
from asyncrpc.execution.threads import ThreadPool

__all__ = ("Executor",)

_Ready = tuple[ServedCall, Callable[..., Any], tuple[object, ...], dict[str, object]]
_Waiting = tuple[ServedCall, Coroutine[Any, Any, Any], object]
"""A call, its coroutine, and what that waits for."""


class Executor:
    """Runs the functions of one agent's served calls.

    Args:
        threads: runs plain ``def`` functions; its owner closes it.
    """

    def __init__(self, threads: ThreadPool) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: deque[_Ready] = deque()
        self._is_runner_due = False  # one was made or woken, and has not had its turn yet
        self._idle: asyncio.Future[None] | None = None  # wakes the runner that waits
        self._is_closed = False
        self._spoiled: asyncio.Task[Any] | None = None
        self._runners: set[asyncio.Task[None]] = set()  # the loop refers to tasks weakly
        self.threads = threads

    def start(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """Run ``target``; its outcome goes to ``call.replier``, now or later."""
        kind = target.kind
        if kind is TargetKind.ASYNC:
            self._ready.append((call, target.function, args, kwargs))
            if not self._is_runner_due:
                self._run_soon()
        elif kind is TargetKind.SYNC:
            self._start_thread(call, target, args, kwargs)
        elif kind is TargetKind.INLINE:
            contextvars.copy_context().run(_run_inline, call, target.function, args, kwargs)
        elif kind is TargetKind.ASYNC_EXECUTION:
            self._ready.append((call, _await_returned, (target.function, args, kwargs), {}))
            if not self._is_runner_due:
                self._run_soon()
        else:
            error = TypeError(f"{target.name} is an async generator: call it with rpc_stream")
            _finish(call, None, error)

    def close(self) -> None:
        """End the runner that waits for work; those that serve calls end with them."""
        self._is_closed = True
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.set_result(None)

    def _run_soon(self) -> None:
        """Give the runner that waits, or a new one, its turn."""
        self._is_runner_due = True
        idle, self._idle = self._idle, None
        if idle is not None:
            idle.set_result(None)
            return
        task = self._loop.create_task(self._run(), context=contextvars.Context())
        self._runners.add(task)
        task.add_done_callback(self._runners.discard)

    async def _run(self) -> None:
        """Run what is ready, time and again, until a call takes this task or spoils it."""
        runner = asyncio.current_task()
        assert runner is not None
        while True:
            self._is_runner_due = False
            waiting = self._run_ready(runner)
            if self._ready and not self._is_runner_due:
                self._run_soon()
            if waiting is not None:
                await _finish_later(*waiting)
                return
            spoiled, self._spoiled = self._spoiled, None
            if spoiled is runner or self._idle or self._is_runner_due or self._is_closed:
                return
            self._idle = self._loop.create_future()
            await self._idle

    def _run_ready(self, runner: asyncio.Task[Any]) -> _Waiting | None:
        """Start calls as ``runner``; return the first that has to wait, if one does."""
        ready = self._ready
        copy_context = contextvars.copy_context
        while ready:
            call, function, args, kwargs = ready.popleft()
            call.task = runner
            current_call.set(call)
            clean = copy_context()
            try:
                if call.is_cancelled:
                    raise asyncio.CancelledError
                coroutine = function(*args, **kwargs)
                first = coroutine.send(None)
            except StopIteration as stop:
                call.is_done = True
                call.replier.succeed(call, stop.value)
            except BaseException as error:  # noqa: BLE001 -- user code; the outcome carries it
                _finish(call, None, error)
            else:
                return call, coroutine, first
            if copy_context() != clean or runner.cancelling():
                self._spoiled = runner  # by context variables, or a cancel that is still due
                return None
        return None

    def _start_thread(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        def finish(value: object, error: BaseException | None) -> None:
            if error is None and inspect.isawaitable(value):
                error = _unawaited(target.name, value)
            _finish(call, value, error)

        context = contextvars.Context()
        context.run(current_call.set, call)
        try:
            self.threads.submit(
                self._loop,
                context,
                target.function,
                args,
                kwargs,
                finish,
                lambda: call.is_cancelled,
            )
        except RuntimeError as error:  # no thread can be started, or the agent is closing
            _finish(call, None, error)


async def _finish_later(
    call: ServedCall, coroutine: Coroutine[Any, Any, Any], first: object
) -> None:
    try:
        value = await _rest(coroutine, first)
    except BaseException as error:  # noqa: BLE001 -- user code; the outcome carries it
        _finish(call, None, error)
    else:
        _finish(call, value, None)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, Any], first: object) -> Generator[Any, Any, Any]:
    """Go on with a coroutine whose first step yielded ``first``: the task waits for that."""
    while True:
        try:
            yield first
        except BaseException as error:  # noqa: BLE001 -- a cancel thrown in by the task, passed on
            try:
                first = coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
        else:
            return (yield from coroutine)


async def _await_returned(
    function: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    awaitable = function(*args, **kwargs)
    if not inspect.isawaitable(awaitable):
        kind = type(awaitable)
        raise TypeError(
            "Functions decorated with @rpc.functions.async_execution must return an "
            f"awaitable, but got {kind.__module__}.{kind.__qualname__}"
        )
    return await awaitable


def _run_inline(
    call: ServedCall,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    current_call.set(call)
    try:
        value = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 -- user code; the outcome carries it
        _finish(call, None, error)
    else:
        _finish(call, value, None)


def _finish(call: ServedCall, value: object, error: BaseException | None) -> None:
    call.is_done = True
    if error is None:
        call.replier.succeed(call, value)
    else:
        call.replier.fail(call, error)


def _unawaited(name: str, value: object) -> TypeError:
    close = getattr(value, "close", None)
    if callable(close):
        close()  # a coroutine that never ran would warn
    return TypeError(
        f"{name} returned an awaitable ({type(value).__name__}) from a plain def: make it an "
        "async def, or mark it with @rpc.functions.async_execution"
    )
