"""`blocking_portal`: this process's agent for code without a loop, as of scripts and notebooks.

The agent runs on a loop in a thread of its own, by anyio's blocking portal; any other thread may
call it, also one whose own loop is running.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import inspect
import os
import threading
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from asyncrpc.agent import NOT_INITIALIZED
from asyncrpc.api.process import init_rpc, shutdown
from asyncrpc.backend_registry import BackendType
from asyncrpc.errors import NotInitializedError
from asyncrpc.identity import WorkerInfo
from asyncrpc.options import UNSET, RpcOptions, Unset, check_timeout
from asyncrpc.retry import RetryPolicy
from asyncrpc.runtime import RpcAgent
from asyncrpc.store import Store

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

__all__ = ("BlockingAgent", "blocking_portal")

T = TypeVar("T")

_CLEANING = 5.0  # seconds, for a start that was interrupted to close what it had opened
_BEGINNING = 0.5  # seconds, for a thread of which an interrupt left open whether it was started


def blocking_portal(
    name: str | None = None,
    backend: BackendType | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    options: RpcOptions | None = None,
    *,
    store: Store | None = None,
) -> BlockingAgent:
    """Join the group from code without a loop: `init_rpc` in a thread that runs one.

    It returns once all workers of the group know each other. Use the agent in a ``with`` statement,
    which ends it as `init_rpc`'s does, or call its `shutdown`. Functions that others call run as
    ever, while this thread does what it likes. The agent is the process's: `rpc_sync` and what else
    blocks or only looks works on it from every thread.

    Args:
        name: as for `init_rpc`, and so on.
        backend: likewise.
        rank: likewise.
        world_size: likewise.
        options: likewise.
        store: likewise; used on the portal's loop only.

    Returns:
        The agent, as other threads may use it.

    Raises:
        AlreadyInitializedError: an agent runs in this process.
        RpcError: and whatever else `init_rpc` raises.

    Example:
        ```python
        with rpc.blocking_portal("worker0", rank=0, world_size=1) as agent:
            assert agent.rpc_sync("worker0", divmod, args=(7, 2)) == (3, 1)
            future = agent.rpc_async("worker0", sorted, args=([2, 1],))
            assert future.result() == [1, 2]
            agent.call(rpc.barrier)
        ```
    """
    init = init_rpc(name, backend, rank, world_size, options, store=store)

    async def start() -> RpcAgent:
        return await init

    return BlockingAgent(start)


class BlockingAgent:
    """This process's agent, for all threads but its loop's; made by `blocking_portal`."""

    def __init__(self, start: Callable[[], Awaitable[RpcAgent]]) -> None:
        # not cheap to import, and few need it
        from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 -- anyio is loaded when it is used

        self._is_open = True
        self._process = os.getpid()
        running = start_blocking_portal("asyncio", {"use_uvloop": _has_uvloop()})
        self._portal: BlockingPortal = _entered(running)
        with contextlib.ExitStack() as stack:
            stack.push(running)
            self.agent: RpcAgent = self._begin(start)
            """The agent itself, for functions that run on its loop."""
            self._stack = stack.pop_all()
        atexit.register(self._end_with_the_process)

    def _begin(self, start: Callable[[], Awaitable[RpcAgent]]) -> RpcAgent:
        """Start the agent; end it again if this thread is interrupted as it comes up."""
        made: list[RpcAgent] = []
        is_over = threading.Event()

        async def begin() -> RpcAgent:
            try:
                made.append(await start())
            finally:
                is_over.set()
            return made[0]

        try:
            return self.call(begin)
        except BaseException:
            is_over.wait(_CLEANING)
            if made:
                self._portal.call(shutdown, False)
            raise

    @property
    def info(self) -> WorkerInfo:
        """This worker's name and id."""
        return self.agent.info

    def rpc_sync(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        timeout: float | None | Unset = UNSET,
        *,
        retry: RetryPolicy | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Call a function and block this thread until it answers; see `asyncrpc.rpc_sync`.

        Ctrl-C ends the wait and cancels the call.
        """
        return self.agent.rpc_sync(
            to, func, args, kwargs, timeout, retry=retry, idempotent=idempotent
        )

    def rpc_async(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        timeout: float | None | Unset = UNSET,
        *,
        retry: RetryPolicy | None = None,
        idempotent: bool = False,
    ) -> concurrent.futures.Future[Any]:
        """Call a function on another worker; see `asyncrpc.rpc_async` for the arguments.

        Returns:
            A future for threads, of the result or of any error; cancelling it cancels the callee.

        Raises:
            NotInitializedError: the agent was shut down.
        """
        call = functools.partial(
            self.agent.rpc_async,
            to,
            func,
            args,
            kwargs,
            timeout,
            retry=retry,
            idempotent=idempotent,
        )
        return self._start(call, ())

    @overload
    def call(self, func: Callable[..., Awaitable[T]], /, *args: object) -> T: ...

    @overload
    def call(self, func: Callable[..., T], /, *args: object) -> T: ...

    def call(self, func: Callable[..., Any], /, *args: object) -> Any:
        """Run a function on the agent's loop and block this thread until it is done.

        If it returns a coroutine or a future, that is awaited. So ``agent.call(rpc.barrier)`` waits
        for the other workers. Ctrl-C ends the wait and cancels what it waits for.

        Args:
            func: a function or coroutine function.
            args: its positional arguments.

        Returns:
            Its result.

        Raises:
            NotInitializedError: the agent was shut down.
            RuntimeError: called on the agent's own loop, which it would block for ever.
            concurrent.futures.CancelledError: what it waited for was cancelled.
        """
        return _result(self._start(func, args))

    def _start(
        self, func: Callable[..., Any], args: tuple[object, ...]
    ) -> concurrent.futures.Future[Any]:
        if not self._is_open:
            raise NotInitializedError(NOT_INITIALIZED)
        return self._portal.start_task_soon(_run, func, args)

    def shutdown(self, graceful: bool = True, timeout: float | None = None) -> None:
        """Leave the group and end the loop's thread; see `asyncrpc.shutdown`. Idempotent.

        Ctrl-C ends the wait for others; everything is closed all the same.
        """
        if not self._is_open:
            return
        check_timeout("timeout", timeout)
        ended = self._start(shutdown, (graceful, timeout))
        self._is_open = False
        atexit.unregister(self._end_with_the_process)
        with self._stack:  # an error on its way out cancels what still runs there
            _result(ended)
            self._portal.call(self._portal.stop, True)  # so does this

    def _end_with_the_process(self) -> None:
        """Say goodbye while the loop's thread still runs: soon after, it is stopped for good."""
        if os.getpid() != self._process:
            return  # a fork has no such thread
        self.shutdown(graceful=False)
        warnings.warn(f"{self!r} was not shut down before the end", ResourceWarning, stacklevel=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown(graceful=error is None)

    def __repr__(self) -> str:
        return f"<BlockingAgent {self.info.name} id {self.info.id}>"


def _entered(context: contextlib.AbstractContextManager[T]) -> T:
    """Enter a context in a thread, for anyio waits for ever if Ctrl-C interrupts it half way."""
    has_begun = threading.Event()
    entered: concurrent.futures.Future[T] = concurrent.futures.Future()

    def enter() -> None:
        has_begun.set()
        try:
            entered.set_result(context.__enter__())
        except BaseException as error:  # noqa: BLE001 -- raised in the waiting thread
            entered.set_exception(error)

    try:
        threading.Thread(target=enter, daemon=True).start()
        return entered.result()
    except BaseException as error:  # an interrupt, or that of the thread
        if has_begun.wait(_BEGINNING) and entered.exception() is None:
            context.__exit__(type(error), error, error.__traceback__)
        raise


def _result(future: concurrent.futures.Future[Any]) -> Any:
    """Wait for a future; cancel it if this thread is interrupted."""
    try:
        return future.result()
    finally:
        future.cancel()  # without effect if it is done


async def _run(func: Callable[..., Any], args: tuple[object, ...]) -> Any:
    """Run a function, and await what it returns unless that is a value, as an `RRef` is."""
    result = func(*args)
    if inspect.iscoroutine(result) or isinstance(result, asyncio.Future):
        return await result
    return result


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401, PLC0415 -- optional on some systems, and not cheap to import
    except ImportError:
        return False
    return True
