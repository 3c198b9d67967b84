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
call can see another one's context variables.
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


class Executor:
    """Runs the functions of one agent's served calls.

    Args:
        threads: runs plain ``def`` functions; its owner closes it.
    """

    def __init__(self, threads: ThreadPool) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: deque[_Ready] = deque()
        self._is_runner_due = False
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
                self._start_runner()
        elif kind is TargetKind.SYNC:
            self._start_thread(call, target, args, kwargs)
        elif kind is TargetKind.INLINE:
            contextvars.copy_context().run(_run_inline, call, target.function, args, kwargs)
        elif kind is TargetKind.ASYNC_EXECUTION:
            self._ready.append((call, _await_returned, (target.function, args, kwargs), {}))
            if not self._is_runner_due:
                self._start_runner()
        else:
            error = TypeError(f"{target.name} is an async generator: call it with rpc_stream")
            _finish(call, None, error)

    def _start_runner(self) -> None:
        self._is_runner_due = True
        task = self._loop.create_task(self._run_ready(), context=contextvars.Context())
        self._runners.add(task)
        task.add_done_callback(self._runners.discard)

    async def _run_ready(self) -> None:
        """Start what is ready, as the task of each until one has to wait."""
        self._is_runner_due = False
        ready = self._ready
        runner = asyncio.current_task()
        assert runner is not None
        clean: contextvars.Context | None = None
        while ready:
            call, function, args, kwargs = ready.popleft()
            call.task = runner
            current_call.set(call)
            clean = contextvars.copy_context()
            try:
                if call.is_cancelled:
                    raise asyncio.CancelledError
                coroutine: Coroutine[Any, Any, Any] = function(*args, **kwargs)
                first = coroutine.send(None)
            except StopIteration as stop:
                call.is_done = True
                call.replier.succeed(call, stop.value)
            except BaseException as error:  # noqa: BLE001 -- user code; the outcome carries it
                _finish(call, None, error)
            else:
                if ready and not self._is_runner_due:
                    self._start_runner()
                await _finish_later(call, coroutine, first)
                return
            if contextvars.copy_context() != clean or runner.cancelling():
                if ready and not self._is_runner_due:
                    self._start_runner()
                return

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
