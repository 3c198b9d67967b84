"""Times of served functions: what `enable_profiling` switches on and off.

While it is on, three bound functions of the executor and its pool are replaced by ones that measure
and call them; off, they are what they were, so nothing is in the way of a call. Time is that from
the first step of a function to its outcome, waits for other calls included; with interceptors the
time of a function that runs on the loop includes theirs.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from asyncrpc.execution.context import ServedCall, current_call
from asyncrpc.execution.executor import Executor
from asyncrpc.execution.functions import TargetKind
from asyncrpc.execution.threads import OnDone

__all__ = ("FunctionTimes", "Profiler")


class FunctionTimes:
    """What was measured of one function; times in seconds."""

    __slots__ = ("calls", "errors", "max_time", "max_wait", "total_time", "total_wait")

    def __init__(self) -> None:
        self.calls = 0
        """Calls that ended."""
        self.errors = 0
        """Those that raised; not those that their caller gave up."""
        self.total_time = 0.0
        self.max_time = 0.0
        self.total_wait = 0.0
        """How long its calls waited for a thread, all together; 0 for what runs on the loop."""
        self.max_wait = 0.0


class Profiler:
    """Measures all functions that an executor runs, from `start` to `stop`.

    Args:
        executor: of the agent.
        now: the agent's clock, in seconds; called in any thread.
    """

    def __init__(self, executor: Executor, now: Callable[[], float]) -> None:
        self._executor = executor
        self._now = now
        self._start_async = executor.start_async
        self._run_inline = executor.run_inline
        self._submit = executor.threads.submit
        self._lock = threading.Lock()  # plain functions end in threads
        self._times: dict[str, FunctionTimes] = {}

    def start(self) -> None:
        """Measure the calls that come from now on."""
        executor = self._executor
        executor.start_async = self._measured_async  # type: ignore[method-assign]  # that is the point: off, nothing is in the way
        executor.run_inline = self._measured_inline
        executor.threads.submit = self._measured_submit  # type: ignore[assignment,method-assign]

    def stop(self) -> None:
        """Put things back; calls that are measured end as they began."""
        executor = self._executor
        del executor.start_async, executor.threads.submit
        executor.run_inline = self._run_inline

    def times(self) -> dict[str, FunctionTimes]:
        """Return what was measured, by name of the function."""
        with self._lock:
            return dict(self._times)

    # -- stand-ins

    def _measured_async(
        self,
        call: ServedCall,
        function: Callable[..., Any],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> None:
        if call.target.kind is TargetKind.SYNC:  # the chain of interceptors around a thread
            self._start_async(call, function, args, kwargs)
        else:
            self._start_async(call, self._timed_async, (call, function, args, kwargs), {})

    async def _timed_async(
        self,
        call: ServedCall,
        function: Callable[..., Any],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        begun = self._now()
        try:
            result = await function(*args, **kwargs)
        except BaseException:
            self._note(call.target.name, self._now() - begun, is_error=not call.is_cancelled)
            raise
        self._note(call.target.name, self._now() - begun)
        return result

    def _measured_inline(
        self,
        call: ServedCall,
        function: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> None:
        self._run_inline(call, self._timed(function, call.target.name), args, kwargs)

    def _measured_submit(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        function: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Any,
        on_done: OnDone,
        is_dropped: Callable[[], bool],
    ) -> None:
        call = context[current_call]
        name = "" if call is None else call.target.name
        timed = self._timed(function, name, queued=self._now())
        self._submit(loop, context, timed, args, kwargs, on_done, is_dropped)

    def _timed(
        self, function: Callable[..., object], name: str, queued: float | None = None
    ) -> Callable[..., object]:
        """Return ``function`` with a clock around it, under its own name for reports."""

        @functools.wraps(function)
        def timed(*args: object, **kwargs: object) -> object:
            begun = self._now()
            waited = 0.0 if queued is None else begun - queued
            try:
                result = function(*args, **kwargs)
            except BaseException:
                self._note(name, self._now() - begun, waited, is_error=True)
                raise
            self._note(name, self._now() - begun, waited)
            return result

        return timed

    def _note(
        self, name: str, seconds: float, waited: float = 0.0, *, is_error: bool = False
    ) -> None:
        with self._lock:
            times = self._times.get(name)
            if times is None:
                times = self._times[name] = FunctionTimes()
            times.calls += 1
            times.errors += is_error
            times.total_time += seconds
            times.max_time = max(times.max_time, seconds)
            times.total_wait += waited
            times.max_wait = max(times.max_wait, waited)
