"""Runs the function of a served call: on the loop, in the thread pool, or at once.

Called by the agent's connections with a decoded request; gives the outcome to the call's replier.
User code can raise anything: what it raises becomes the call's outcome and never escapes into the
loop, so BaseException is caught here, in the task or thread that runs the function.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable

from asyncrpc.errors import RpcError
from asyncrpc.execution.context import ServedCall, current_call
from asyncrpc.execution.functions import Target, TargetKind
from asyncrpc.execution.threads import ThreadPool

__all__ = ("Executor",)


class Executor:
    """Runs the functions of one agent's served calls.

    Args:
        threads: runs plain ``def`` functions; the executor closes it.
    """

    def __init__(self, threads: ThreadPool) -> None:
        self._loop = asyncio.get_running_loop()
        self.threads = threads

    def start(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """Run ``target``; its outcome goes to ``call.replier``, now or later."""
        kind = target.kind
        current_call.set(call)  # inherited by the task, or by the context copied below
        if kind is TargetKind.ASYNC:
            call.task = asyncio.Task(
                _run_async(call, target.function, args, kwargs), loop=self._loop
            )
        elif kind is TargetKind.SYNC:
            self._start_thread(call, target, args, kwargs)
        elif kind is TargetKind.INLINE:
            _run_inline(call, target.function, args, kwargs)
        elif kind is TargetKind.ASYNC_EXECUTION:
            call.task = asyncio.Task(
                _run_async_execution(call, target.function, args, kwargs), loop=self._loop
            )
        else:
            call.is_done = True
            call.replier.fail(
                call, TypeError(f"{target.name} is an async generator: call it with rpc_stream")
            )
        current_call.set(None)

    def _start_thread(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        def finish(value: object, error: BaseException | None) -> None:
            if error is None and inspect.isawaitable(value):
                error = _unawaited(target.name, value)
            _finish(call, value, error)

        self.threads.submit(
            self._loop, contextvars.copy_context(), target.function, args, kwargs, finish
        )


async def _run_async(
    call: ServedCall,
    function: Callable[..., Awaitable[object]],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    try:
        value = await function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 -- user code; the outcome carries it
        _finish(call, None, error)
    else:
        call.is_done = True
        call.replier.succeed(call, value)


async def _run_async_execution(
    call: ServedCall,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    try:
        awaitable = function(*args, **kwargs)
        if not inspect.isawaitable(awaitable):
            kind = type(awaitable)
            raise TypeError(
                "Functions decorated with @rpc.functions.async_execution must return an "
                f"awaitable, but got {kind.__module__}.{kind.__qualname__}"
            )
        value = await awaitable
    except BaseException as error:  # noqa: BLE001 -- user code; the outcome carries it
        _finish(call, None, error)
    else:
        _finish(call, value, None)


def _run_inline(
    call: ServedCall,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
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
        return
    call.replier.fail(call, error)


def _unawaited(name: str, value: object) -> RpcError | TypeError:
    close = getattr(value, "close", None)
    if callable(close):
        close()  # a coroutine that never ran would warn
    return TypeError(
        f"{name} returned an awaitable ({type(value).__name__}) from a plain def: make it an "
        "async def, or mark it with @rpc.functions.async_execution"
    )
