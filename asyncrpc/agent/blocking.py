"""`Blocked`: a thread that waits for a call on the loop; what `rpc_sync` is made of.

The one place where a thread other than the loop's touches a call, and it does so by
``call_soon_threadsafe`` only, or by what stands in for it in a test: see `Crossing`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from asyncrpc.agent.pending import RpcFuture
from asyncrpc.errors import NotInitializedError, RpcError, StatusCode

__all__ = ("Blocked", "Crossing", "crossing", "run_there")

T = TypeVar("T")


class Crossing(Protocol):
    """The way from a thread to the loop and back."""

    def enter(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[], object],
        context: contextvars.Context,
    ) -> None:
        """Have ``callback`` run on the loop; called in the thread, which waits for it then."""
        ...

    def leave(self) -> None:
        """Learn that the thread is about to go on; called on the loop."""
        ...


class _Open:
    """A way that nothing stands in."""

    def enter(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[], object],
        context: contextvars.Context,
    ) -> None:
        loop.call_soon_threadsafe(callback, context=context)

    def leave(self) -> None:
        pass


_OPEN: Final = _Open()
crossing: contextvars.ContextVar[Crossing] = contextvars.ContextVar(
    "asyncrpc.crossing", default=_OPEN
)
"""The way that a plain function's thread takes; tests put an order into it."""


def run_there(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> T:
    """Return what ``function`` does on another thread's loop, in this thread's context.

    Raises:
        NotInitializedError: the loop is closed.
        BaseException: what the function raised.
    """
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    way = crossing.get()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 -- raised in the waiting thread
            way.leave()
            done.set_exception(error)
        else:
            way.leave()
            done.set_result(result)

    try:
        way.enter(loop, run, contextvars.copy_context())
    except RuntimeError as error:
        raise NotInitializedError("the loop that ran init_rpc is closed") from error
    return done.result()


_LOOK = 1.0  # seconds; a loop that is closed without a shutdown tells nobody
_LOOP_IS_CLOSED = "the loop that ran init_rpc is closed"


class Blocked:
    """One call made by a thread that blocks until it is over.

    Args:
        loop: where the call runs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._way = crossing.get()
        self._done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._call: RpcFuture[Any] | None = None

    def run(self, start: Callable[[], RpcFuture[Any]]) -> Any:
        """Start the call on the loop, in this thread's context, and wait for its outcome.

        Raises:
            NotInitializedError: the loop is closed.
            BaseException: what the call failed with, or what interrupted this thread; the call is
                cancelled then.
        """
        context = contextvars.copy_context()
        try:
            try:
                self._way.enter(self._loop, partial(self._start, start), context)
            except RuntimeError as error:
                raise NotInitializedError(_LOOP_IS_CLOSED) from error
            return self._outcome()
        except BaseException:
            if not self._done.done():  # this thread was interrupted, not the call
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._stop)
            raise
        finally:
            del self  # a raised error refers to this frame, and this to the error

    def _outcome(self) -> Any:
        """Wait, and look from time to time whether there still is a loop to wait for."""
        while True:
            try:
                self._done.exception(_LOOK)
            except TimeoutError:  # of this wait: the call's own is returned
                if self._loop.is_closed():
                    raise NotInitializedError(_LOOP_IS_CLOSED) from None
            else:
                return self._done.result()

    def _start(self, start: Callable[[], RpcFuture[Any]]) -> None:
        try:
            self._call = start()
        except BaseException as error:  # noqa: BLE001 -- raised in the waiting thread
            self._way.leave()
            self._done.set_exception(error)
        else:
            self._call.add_done_callback(self._finish)

    def _finish(self, call: asyncio.Future[Any]) -> None:
        self._way.leave()
        if call.cancelled():
            self._done.set_exception(
                RpcError(
                    "the call was cancelled: so was the one it served", code=StatusCode.CANCELLED
                )
            )
        elif (error := call.exception()) is not None:
            self._done.set_exception(error)
        else:
            self._done.set_result(call.result())

    def _stop(self) -> None:
        if self._call is not None:
            self._call.cancel()
