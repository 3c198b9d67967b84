"""Runs the function of a served call: on the loop, in the thread pool, or at once.

Called by the agent's links with a decoded request; gives the outcome to the call's replier. User
code can raise anything: what it raises becomes the call's outcome and never escapes into the loop,
so BaseException is caught here, in the task or thread that runs the function.

Theory of operation. Making a task costs more than the rest of a small call, and so does waking one.
So calls share a task, the *runner*, which waits for them: the first step of a call's coroutine is
taken at once, from the read that brought it, in the name and the context of the runner, so that
`asyncio.current_task` is a real task, and timeouts, task groups and anyio's scopes work as ever. A
call that ends in its first step leaves the runner waiting for the next one. A call that has to wait
takes the runner, which drives it to its end, and the next calls get a new one. A runner whose
context or cancellation a call has changed is not used again, so no call can see another one's
context variables. Calls that come while no runner waits are queued for a new one.

Source: "Extending", Python documentation of asyncio: `_enter_task` and `_leave_task` are there for
task implementations of third parties.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import types
from asyncio.tasks import _enter_task, _leave_task
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from asyncrpc.execution.context import ServedCall, current_call
from asyncrpc.execution.functions import Target, TargetKind
from asyncrpc.execution.threads import ThreadPool

__all__ = ("Executor", "await_returned", "is_unawaited", "no_stream", "unawaited")

_ASYNC = TargetKind.ASYNC
set_served = current_call.set  # bound once: a method of what is imported is looked up slowly

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
        self._is_runner_due = False  # one was made or released, and has not had its turn yet
        self._runner: asyncio.Task[Any] | None = None  # the one that waits for calls
        self._context = contextvars.Context()  # its context
        self._idle: asyncio.Future[_Waiting | None] | None = None  # what it waits for
        self._spoiled: set[asyncio.Task[Any]] = set()  # runners not to be used again
        self._is_closed = False
        self._runners: set[asyncio.Task[None]] = set()  # the loop refers to tasks weakly
        self.threads = threads
        self.direct: TargetKind | None = _ASYNC
        """Kind of functions that `start_async` may be given at once: what `start` would do."""
        self.run_inline: Callable[..., None] = _run_inline
        """Runs a function at once, in a context of its own; replaced by who measures."""

    def start(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """Run ``target``; its outcome goes to ``call.replier``, now or later."""
        kind = target.kind
        if kind is _ASYNC:
            self.start_async(call, target.function, args, kwargs)
        elif kind is TargetKind.SYNC:
            self._start_thread(call, target, args, kwargs)
        elif kind is TargetKind.INLINE:
            contextvars.Context().run(self.run_inline, call, target.function, args, kwargs)
        elif kind is TargetKind.DEFERRED:
            target.function(call, args, kwargs)
        elif kind is TargetKind.ASYNC_EXECUTION:
            self.start_async(call, await_returned, (target.function, args, kwargs), {})
        elif call.outlet is not None:
            self.start_async(call, call.outlet.run, (target.function, args, kwargs), {})
        else:
            _finish(call, None, no_stream(target))

    def close(self) -> None:
        """End the runner that waits for work; those that serve calls end with them."""
        self._is_closed = True
        self._release(None)

    def start_async(
        self,
        call: ServedCall,
        function: Callable[..., Any],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> None:
        """Take the first step of a call now if a runner waits, else queue it for one."""
        runner = self._runner
        if runner is None or self._ready or self._is_runner_due:
            self._ready.append((call, function, args, kwargs))
            self._run_soon()
            return
        loop = self._loop
        try:
            _enter_task(loop, runner)
        except RuntimeError:  # a task is running: what it read is handled within its own step
            self._ready.append((call, function, args, kwargs))
            self._run_soon()
            return
        context = self._context
        try:
            waiting = context.run(
                _step, self._spoiled, runner, context, call, function, args, kwargs
            )
        finally:
            _leave_task(loop, runner)
        if waiting is not None or (self._spoiled and runner in self._spoiled):
            self._release(waiting)

    def _run_soon(self) -> None:
        """Have what is queued run by the runner that waits, or by a new one."""
        if self._is_runner_due:
            return
        self._is_runner_due = True
        if self._runner is not None:
            self._release(None)
            return
        context = contextvars.Context()
        task = self._loop.create_task(self._run(context), context=context)
        self._runners.add(task)
        task.add_done_callback(self._runners.discard)

    def _release(self, waiting: _Waiting | None) -> None:
        """Let the runner go that waits: on with a call, or to look at the queue and at its end."""
        idle, self._idle = self._idle, None
        self._runner = None
        if idle is not None:
            idle.set_result(waiting)

    async def _run(self, context: contextvars.Context) -> None:
        """Run what is queued, time and again, until a call takes this task or spoils it."""
        runner = asyncio.current_task()
        assert runner is not None
        waiting: _Waiting | None = None
        thrown: BaseException | None = None
        while waiting is None:
            self._is_runner_due = False
            while self._ready and waiting is None and runner not in self._spoiled:
                waiting = _step(self._spoiled, runner, context, *self._ready.popleft())
            if self._ready:
                self._run_soon()
            if waiting is not None:
                break
            if self._runner or self._is_runner_due or self._is_closed or runner in self._spoiled:
                self._spoiled.discard(runner)
                return
            self._runner, self._context = runner, context
            self._idle = idle = self._loop.create_future()
            try:
                waiting = await idle
            except asyncio.CancelledError as error:  # after a call took this task, and is for it
                waiting, thrown = idle.result(), error
                if waiting is None:
                    raise
        self._spoiled.discard(runner)
        await _finish_later(*waiting, thrown)

    def _start_thread(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        def finish(value: object, error: BaseException | None) -> None:
            if error is None and is_unawaited(value):
                error = unawaited(target.name, value)
            _finish(call, value, error)

        call.is_in_thread = True
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


def _step(
    spoiled: set[asyncio.Task[Any]],
    runner: asyncio.Task[Any],
    context: contextvars.Context,
    call: ServedCall,
    function: Callable[..., Any],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> _Waiting | None:
    """Take the first step of a call as ``runner``, in its ``context``.

    No method: one would be bound for each call.

    Args:
        spoiled: takes the runner if it is not to be used again.
        runner: the current task.
        context: what this runs in.
        call: what is served.
        function: what to call, for a coroutine.
        args: positional arguments.
        kwargs: keyword arguments.

    Returns:
        The call if it has to wait.
    """
    call.task = runner
    set_served(call)
    clean = context.copy()
    try:
        if call.is_cancelled:
            raise asyncio.CancelledError
        coroutine = function(*args, **kwargs) if kwargs else function(*args)
        first = coroutine.send(None)
    except StopIteration as stop:
        value = stop.value
    except BaseException as error:  # noqa: BLE001 -- user code; the outcome carries it
        _finish(call, None, error)
    else:
        return call, coroutine, first
    if not call.is_done:  # not while the end is handled: errors of the reply would show it
        call.is_done = True
        call.replier.succeed(call, value)
    if context != clean or runner.cancelling():
        spoiled.add(runner)  # by context variables, or a cancel that is still due
    return None


async def _finish_later(
    call: ServedCall,
    coroutine: Coroutine[Any, Any, Any],
    first: object,
    thrown: BaseException | None,
) -> None:
    try:
        value = await _rest(coroutine, first, thrown)
    except BaseException as error:  # noqa: BLE001 -- user code; the outcome carries it
        _finish(call, None, error)
    else:
        _finish(call, value, None)


@types.coroutine
def _rest(
    coroutine: Coroutine[Any, Any, Any], first: object, thrown: BaseException | None
) -> Generator[Any, Any, Any]:
    """Go on with a coroutine whose first step yielded ``first``: the task waits for that.

    Args:
        coroutine: what to drive.
        first: what it waits for.
        thrown: a cancel that came before the task could wait for it.
    """
    if thrown is not None and isinstance(first, asyncio.Future) and first.cancel(*thrown.args):
        thrown = None  # as a cancelled task does: what it waits for is cancelled, and tells it
    while True:
        try:
            if thrown is not None:
                raise thrown
            yield first
        except BaseException as error:  # noqa: BLE001 -- a cancel thrown in by the task, passed on
            thrown = None
            try:
                first = coroutine.throw(error)
            except StopIteration as stop:
                return stop.value
        else:
            return (yield from coroutine)


async def await_returned(
    function: Callable[..., Any], args: tuple[object, ...], kwargs: dict[str, object]
) -> object:
    """Call a function and await what it returns.

    Raises:
        TypeError: that is no awaitable.
    """
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


def no_stream(target: Target) -> TypeError:
    """Return the error of an async generator function that is called as a function."""
    return TypeError(f"{target.name} is an async generator: call it with rpc_stream")


def is_unawaited(value: object) -> bool:
    """Whether a plain ``def`` forgot to await; other awaitables, as references, are values."""
    return inspect.iscoroutine(value) or asyncio.isfuture(value)


def unawaited(name: str, value: object) -> TypeError:
    """Return the error of a ``def`` that returned an awaitable, which is closed."""
    close = getattr(value, "close", None)
    if callable(close):
        close()  # a coroutine that never ran would warn
    return TypeError(
        f"{name} returned an awaitable ({type(value).__name__}) from a plain def: make it an "
        "async def, or mark it with @rpc.functions.async_execution"
    )
