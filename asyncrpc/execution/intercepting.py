"""The callee's interceptors: a chain around the functions of served calls.

Stands in the place of `Executor.start` where there are interceptors. The chain is one coroutine on
the loop, so cancellation reaches all of it; its innermost step runs the function as its kind
demands, in the context that the interceptors made.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Any

from asyncrpc.execution.context import ServedCall, current_call
from asyncrpc.execution.executor import (
    Executor,
    await_returned,
    is_unawaited,
    no_stream,
    unawaited,
)
from asyncrpc.execution.functions import Target, TargetKind
from asyncrpc.execution.threads import ThreadPool
from asyncrpc.interception import IncomingCall, Interceptor, Kind, chained

__all__ = ("intercept_incoming",)


def intercept_incoming(executor: Executor, interceptors: Sequence[Interceptor]) -> None:
    """Put interceptors around all that an executor starts from now on."""
    chain = _Chain(executor, interceptors)
    executor.direct = None
    executor.start = chain.start  # type: ignore[method-assign]  # costs nothing where there is none


class _Chain:
    def __init__(self, executor: Executor, interceptors: Sequence[Interceptor]) -> None:
        self._start = executor.start
        self._threads = executor.threads
        self._steps = [interceptor.incoming for interceptor in interceptors]

    def start(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        """Run ``target`` within the chain: `Executor.start`."""
        if target.kind is TargetKind.DEFERRED:  # it starts another one for the call
            self._start(call, target, args, kwargs)
            return
        chain = Target(TargetKind.ASYNC, self._run, target.name)
        self._start(call, chain, (call, target, args, kwargs), {})

    async def _run(
        self, call: ServedCall, target: Target, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        headers = call.headers
        incoming = IncomingCall(
            kind=_kind_of(call),
            caller=call.replier.caller,
            function=target.name,
            args=args,
            kwargs=kwargs,
            metadata={} if headers is None else dict(headers.metadata),
            traceparent="" if headers is None else headers.trace,
            left=call.remaining,
        )

        async def serve(changed: IncomingCall) -> object:
            return await _served(self._threads, call, target, changed)

        return await chained(self._steps, serve)(incoming)


def _kind_of(call: ServedCall) -> Kind:
    if call.outlet is not None:
        return "stream"
    if call.reply:
        return "call"
    return "remote" if call.reference else "notify"


async def _served(
    threads: ThreadPool, call: ServedCall, target: Target, changed: IncomingCall
) -> object:
    """Run a target as its kind demands, within the task that serves the call."""
    args, kwargs = tuple(changed.args), changed.kwargs
    kind = target.kind
    if kind is TargetKind.SYNC:
        return await _in_thread(threads, call, target, args, kwargs)
    if kind is TargetKind.INLINE:
        return target.function(*args, **kwargs)
    if kind is TargetKind.STREAM:
        if call.outlet is None:
            raise no_stream(target)
        function: Any = target.function
        return await call.outlet.run(function, args, kwargs)
    return await await_returned(target.function, args, kwargs)


async def _in_thread(
    threads: ThreadPool,
    call: ServedCall,
    target: Target,
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> object:
    """Run a ``def`` in the pool; it sees a call without a task, as it would without a chain."""
    part = ServedCall(call.replier, call.ident, target, call.deadline, call.depth, call.reply)
    part.headers = call.headers
    part.nested = call.nested = set()
    context = contextvars.copy_context()
    context.run(current_call.set, part)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[object, BaseException | None]] = loop.create_future()

    def finish(value: object, error: BaseException | None) -> None:
        if not done.done():
            done.set_result((value, error))

    threads.submit(loop, context, target.function, args, kwargs, finish, lambda: part.is_cancelled)
    try:
        value, error = await done
    except asyncio.CancelledError:
        part.cancel()
        raise
    if error is not None:
        raise error
    if is_unawaited(value):
        raise unawaited(target.name, value)
    return value
