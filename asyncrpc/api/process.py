"""The agent of this process: `init_rpc` makes it, `shutdown` ends it, `current_agent` finds it.

The only place with process-wide state: `this_process`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

from asyncrpc.agent import NOT_INITIALIZED
from asyncrpc.backend_registry import BackendType
from asyncrpc.errors import AlreadyInitializedError, NotInitializedError
from asyncrpc.execution import current_call
from asyncrpc.options import RpcOptions
from asyncrpc.rref import RRef
from asyncrpc.runtime import RpcAgent
from asyncrpc.store import Store

__all__ = ("current_agent", "init_rpc", "not_initialized", "run", "shutdown", "this_process")

_UNAWAITED = (
    "init_rpc was called, and not awaited: await it, or use async with; "
    "blocking_portal is for programs without a loop"
)

T = TypeVar("T")


class Process:
    """The agent of this process."""

    __slots__ = ("agent", "is_starting", "is_unawaited")

    def __init__(self) -> None:
        self.agent: RpcAgent | None = None
        self.is_starting = False
        self.is_unawaited = False
        """What the last `init_rpc` returned has not been awaited."""


this_process = Process()
"""What `init_rpc` made and `shutdown` has not ended yet."""


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
    if this_process.agent is not None and this_process.agent.is_over:  # by its own method
        this_process.agent = None
    if this_process.agent is not None or this_process.is_starting:
        raise AlreadyInitializedError("RPC is already initialized")
    this_process.is_starting = True
    this_process.is_unawaited = False
    RRef.find_agent = current_agent
    try:
        this_process.agent = await start()
    finally:
        this_process.is_starting = False
    return this_process.agent


def init_rpc(
    name: str | None = None,
    backend: BackendType | None = None,
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
        backend: the kind of agent; ``None`` takes the one whose options these are.
        rank: the worker's id, 0 to ``world_size - 1``; ``None`` takes ``$RANK``, or in a dynamic
            group the next id that is free.
        world_size: number of workers; ``None`` takes ``$WORLD_SIZE``, and without that the group
            is dynamic: workers join and leave at any time.
        options: settings; ``None`` takes the defaults of ``backend``.
        store: where workers find each other; ``None`` takes ``options.init_method``.

    Returns:
        An awaitable and async context manager that gives the `RpcAgent`, once all workers of the
        group know each other; in a dynamic group at once.

    Raises:
        AlreadyInitializedError: an agent runs in this process.
        ValueError: an argument or variable breaks its rule; the message names it.
        TypeError: ``backend`` is none, or has other options.
        DuplicateNameError: another worker that lives has the name or rank.
        RpcTimeoutError: not all workers came within ``options.init_timeout`` seconds.
        StoreConnectionError: the store was not reached within ``options.init_timeout`` seconds.
        AuthenticationError: the store has another secret or run id.
    """
    this_process.is_unawaited = True
    return _Init(lambda: RpcAgent.start(name, backend, rank, world_size, options, store=store))


async def shutdown(graceful: bool = True, timeout: float | None = None) -> None:
    """Leave the group. Does nothing when no agent runs.

    A call that is being served ends the worker that serves it, at once with ``graceful=False``: its
    caller sees that worker lost. A graceful end would wait for the call itself, so the call has to
    start it as a task of its own and return.

    Args:
        graceful: wait until every live worker has called this and no call runs anywhere, nested
            and one-way ones included; in a dynamic group only for the calls that this worker made
            or serves. Otherwise say so to the peers, who see a lost worker, and close at once.
        timeout: seconds for the whole of it; 0 or ``None`` for no limit.

    Raises:
        ShutdownTimeoutError: it took longer; names the phase and the workers waited for. All that
            this process holds is closed all the same.
        RuntimeError: graceful, and awaited by a call that this worker serves.
        ValueError: ``timeout`` is negative or no number.
    """
    served = current_call.get()
    agent: RpcAgent | None = this_process.agent if served is None else served.replier.agent
    if agent is None:
        return
    try:
        await agent.shutdown(graceful, timeout)
    finally:
        if this_process.agent is agent and agent.is_closed:
            this_process.agent = None


def current_agent() -> RpcAgent:
    """Return the agent: inside a served call the one that serves it, else this process's.

    Raises:
        NotInitializedError: there is none.
    """
    call = current_call.get()
    if call is not None:
        agent: RpcAgent = call.replier.agent
        return agent
    if this_process.agent is None or this_process.agent.is_over:
        raise not_initialized()
    return this_process.agent


def not_initialized() -> NotInitializedError:
    """Return the error of what needs an agent; torch's `init_rpc` is called without an await."""
    error = NotInitializedError(NOT_INITIALIZED)
    if this_process.is_unawaited:
        error.add_note(_UNAWAITED)
    return error


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
