"""The module-level functions: one agent per process, found by `current_agent`.

The only place with process-wide state: the agent that `init_rpc` made.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from asyncrpc.agent import NOT_INITIALIZED, RpcFuture, WaitAll
from asyncrpc.errors import AlreadyInitializedError, NotInitializedError
from asyncrpc.execution import current_call
from asyncrpc.identity import WorkerInfo
from asyncrpc.options import UNSET, RpcOptions, Unset
from asyncrpc.runtime import RpcAgent
from asyncrpc.store import Store

__all__ = (
    "all_gather",
    "barrier",
    "current_agent",
    "debug_info",
    "get_rpc_timeout",
    "get_worker_info",
    "get_worker_infos",
    "init_rpc",
    "rpc_async",
    "rpc_notify",
    "rpc_sync",
    "run",
    "set_rpc_timeout",
    "shutdown",
    "wait_all",
)

T = TypeVar("T")


class _Process:
    """The agent of this process."""

    __slots__ = ("agent", "is_starting")

    def __init__(self) -> None:
        self.agent: RpcAgent | None = None
        self.is_starting = False


_process = _Process()


class _Init:
    """What `init_rpc` returns: awaited it starts the agent, entered it also ends it."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, RpcAgent]]) -> None:
        self._start = start

    def __await__(self) -> Generator[Any, None, RpcAgent]:
        return _begin(self._start).__await__()

    async def __aenter__(self) -> RpcAgent:
        return await _begin(self._start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await shutdown(graceful=error is None)


async def _begin(start: Callable[[], Coroutine[Any, Any, RpcAgent]]) -> RpcAgent:
    if _process.agent is not None and _process.agent.is_orphaned:
        _process.agent = None
    if _process.agent is not None or _process.is_starting:
        raise AlreadyInitializedError("RPC is already initialized")
    _process.is_starting = True
    try:
        _process.agent = await start()
    finally:
        _process.is_starting = False
    return _process.agent


def init_rpc(
    name: str | None = None,
    backend: None = None,
    rank: int | None = None,
    world_size: int | None = None,
    options: RpcOptions | None = None,
    *,
    store: Store | None = None,
) -> _Init:
    """Join the group of workers, for the length of an ``async with`` or until `shutdown`.

    Leaving the context shuts down gracefully, or not gracefully if its body raised.

    Args:
        name: 1 to 127 characters of ``[A-Za-z0-9-_:]``, unique in the group; ``None`` takes
            ``$ASYNCRPC_NAME``, else ``worker{rank}``.
        backend: ``None``.
        rank: the worker's id, 0 to ``world_size - 1``; ``None`` takes ``$RANK``.
        world_size: number of workers; ``None`` takes ``$WORLD_SIZE``.
        options: settings; ``None`` takes the defaults.
        store: where workers find each other; ``None`` takes ``options.init_method``.

    Returns:
        An awaitable and async context manager that gives the `RpcAgent`, once all workers of the
        group know each other.

    Raises:
        AlreadyInitializedError: an agent runs in this process.
        ValueError: an argument or variable breaks its rule; the message names it.
        DuplicateNameError: two workers have one name or rank.
        RpcTimeoutError: not all workers came within ``options.init_timeout`` seconds.
        StoreConnectionError: the store was not reached within ``options.init_timeout`` seconds.
        AuthenticationError: the store has another secret or run id.
    """
    return _Init(lambda: RpcAgent.start(name, backend, rank, world_size, options, store=store))


async def shutdown(graceful: bool = True, timeout: float | None = None) -> None:
    """Leave the group. Does nothing when no agent runs.

    Args:
        graceful: wait until every live worker has called this and no call runs anywhere, nested
            and one-way ones included. Otherwise say so to the peers, who see a lost worker, and
            close at once.
        timeout: seconds for the whole of it; 0 or ``None`` for no limit.

    Raises:
        ShutdownTimeoutError: it took longer; names the phase and the workers waited for. All that
            this process holds is closed all the same.
        ValueError: ``timeout`` is negative or no number.
    """
    agent = _process.agent
    if agent is None:
        return
    try:
        await agent.shutdown(graceful, timeout)
    finally:
        if _process.agent is agent:
            _process.agent = None


def current_agent() -> RpcAgent:
    """Return the agent: inside a served call the one that serves it, else this process's.

    Raises:
        NotInitializedError: there is none.
    """
    call = current_call.get()
    if call is not None:
        agent: RpcAgent = call.replier.agent
        return agent
    if _process.agent is None:
        raise NotInitializedError(NOT_INITIALIZED)
    return _process.agent


def rpc_async(
    to: str | int | WorkerInfo,
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    timeout: float | None | Unset = UNSET,
    *,
    idempotent: bool = False,
) -> RpcFuture[Any]:
    """Call a function on another worker; it starts at once, await the result when needed.

    Args:
        to: name, id or `WorkerInfo` of the destination.
        func: a module-level function, class, bound method (the instance travels by value), class or
            static method, builtin, `functools.partial`, or a name ``module:qualname``. ``async
            def`` runs on the callee's loop, ``def`` in its threads.
        args: positional arguments.
        kwargs: keyword arguments.
        timeout: seconds from now to the reply, above 0; 0 or ``None`` for no limit; left out: the
            default, `get_rpc_timeout`. Never longer than the deadline of the call being served.
        idempotent: the function may run twice: if the link breaks, the call is sent again.

    Returns:
        A future of the result; cancelling it, or the task that awaits it, cancels the callee.

    Raises:
        NotInitializedError: no agent runs.
        ValueError: ``to`` is no destination, or ``timeout`` is negative, nan or no number.
        UnknownWorkerError: the group has no such worker, or it left.
        PeerLostError: the worker was lost.
        EncodingError: the function or an argument cannot travel; names the argument.
        MessageTooLargeError: the arguments exceed ``limits.max_message_size``.
        ResourceExhaustedError: too many calls wait, or are out with ``on_full="error"``.

        All of these are NOT_SENT. Other errors come through the future: what the function raised
        (EXECUTED), `RpcTimeoutError`, `PeerLostError` and others that say whether it may have run.
    """
    served = current_call.get()
    agent: Any = _process.agent if served is None else served.replier.agent
    if agent is None:
        raise NotInitializedError(NOT_INITIALIZED)
    site = sys._getframe(1)
    return agent.call(to, func, args, kwargs, timeout, idempotent, site)  # type: ignore[no-any-return]  # an RpcAgent


def rpc_sync(
    to: str | int | WorkerInfo,
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
    timeout: float | None | Unset = UNSET,
) -> Any:
    """Call a function on another worker and block this thread until it answers.

    Args and errors are those of `rpc_async`; the result or error is that of the call.

    Raises:
        RuntimeError: called on the loop's own thread, which it would block for ever.
    """
    return current_agent().rpc_sync(to, func, args, kwargs, timeout)


def rpc_notify(
    to: str | int | WorkerInfo,
    func: Callable[..., Any] | str,
    args: Sequence[object] | None = None,
    kwargs: Mapping[str, object] | None = None,
) -> None:
    """Call a function on another worker without waiting: an error is logged there.

    Args and errors at the call are those of `rpc_async`.
    """
    current_agent().rpc_notify(to, func, args, kwargs)


def wait_all() -> WaitAll:
    """Return a scope that waits, on exit, for the calls that this task starts inside.

    The first failure is raised at once; an error of the body is raised in its place.
    """
    return WaitAll()


async def all_gather(
    obj: object,
    worker_names: Iterable[str] | None = None,
    timeout: float | None | Unset = UNSET,
) -> dict[str, Any]:
    """Exchange one object per worker; every worker of the set must call it.

    Args:
        obj: this worker's object.
        worker_names: the set, this worker included; ``None`` for all live members.
        timeout: seconds, 0 or ``None`` for no limit; left out: the default.

    Returns:
        Every worker's object by name, the same on all of them.

    Raises:
        RpcTimeoutError: not all took part in time; names who is missing where it is known.
        PeerLostError: a worker of the set was lost.
        UnknownWorkerError: the set names a worker that is not in the group.
    """
    return await current_agent().all_gather(obj, worker_names, timeout)


async def barrier(
    worker_names: Iterable[str] | None = None, timeout: float | None | Unset = UNSET
) -> None:
    """Wait until every worker of the set has come here; args and errors as `all_gather`."""
    await current_agent().barrier(worker_names, timeout)


def get_worker_info(name: str | int | WorkerInfo | None = None) -> WorkerInfo:
    """Return who a worker is.

    Args:
        name: name or id of a worker; ``None`` for this one.

    Raises:
        UnknownWorkerError: there is no such worker.
    """
    return current_agent().get_worker_info(name)


def get_worker_infos() -> list[WorkerInfo]:
    """Return all live members, by id."""
    return current_agent().get_worker_infos()


def get_rpc_timeout() -> float:
    """Return the default timeout of calls in seconds, 0 for none."""
    return current_agent().get_rpc_timeout()


def set_rpc_timeout(timeout: float | None) -> None:
    """Set the default timeout of later calls; calls in flight keep theirs.

    Args:
        timeout: seconds, at least 0; 0 or ``None`` for none.

    Raises:
        ValueError: negative, nan or no number.
    """
    current_agent().set_rpc_timeout(timeout)


def debug_info() -> dict[str, str]:
    """Return the agent's counters by name; torch's keys where they make sense."""
    return current_agent().debug_info()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end: `asyncio.run`, on uvloop where it is installed.

    Args:
        main: the program.

    Returns:
        Its result.
    """
    try:
        import uvloop  # noqa: PLC0415 -- optional on some systems, and not cheap to import
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
