"""`RpcAgent`: what `init_rpc` gives, the parts put together.

Its start is `agent.starting`, its end `ending`, its questions and settings `inspection`; calls go
straight to the agent underneath. Several agents can live in one process.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from types import FrameType, TracebackType
from typing import Any, Self

from asyncrpc.agent import (
    Blocked,
    CallContext,
    Collectives,
    ContextScope,
    RpcFuture,
    RpcStream,
    Started,
    Starter,
    WaitAll,
    call_any,
    call_hedged,
)
from asyncrpc.backend_registry import BackendType, resolve
from asyncrpc.execution import caller, detached, remaining
from asyncrpc.identity import WorkerInfo
from asyncrpc.observe import Clock, LoopClock
from asyncrpc.options import UNSET, RpcOptions, Unset, check_timeout
from asyncrpc.retry import RetryPolicy, check_again
from asyncrpc.rref import RRef, RRefContext
from asyncrpc.runtime.ending import Ending, warn_if_forgotten
from asyncrpc.runtime.inspection import Inspection
from asyncrpc.runtime.messages import Message, make_message, send
from asyncrpc.runtime.persisting import finished
from asyncrpc.store import Store
from asyncrpc.transport import Network
from asyncrpc.wire import MessageType

__all__ = ("RpcAgent",)


class RpcAgent(Inspection):
    """One worker of a group; made by `start` or `init_rpc`, never directly."""

    def __init__(self, started: Started) -> None:
        agent = started.agent
        super().__init__(agent)
        self._started = started
        self._ending = Ending(started)
        self._collectives = Collectives(agent)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._was_shut_down: Callable[[], object] = lambda: None
        self.call = agent.caller.call if agent.options.retry is None else self._call_with_default
        """`rpc_async` with all arguments given; for the module-level function."""
        self.open_stream = agent.streams.open
        """`rpc_stream` likewise."""
        self.call_hedged = partial(call_hedged, agent)
        """`rpc_hedged` likewise."""
        self.call_any = partial(call_any, agent)
        """`rpc_any` likewise."""
        self.create = self.references.create
        """`remote` with all arguments given; likewise."""

    # -- life

    @classmethod
    async def start(
        cls,
        name: str | None = None,
        backend: BackendType | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        options: RpcOptions | None = None,
        *,
        store: Store | None = None,
        network: Network | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a worker and find the others, without touching `asyncrpc.current_agent`.

        Args:
            name: the worker's name; ``None`` takes ``$ASYNCRPC_NAME``, else ``worker{rank}``.
            backend: the kind of agent; ``None`` takes the one whose options these are.
            rank: the worker's id, 0 to ``world_size - 1``; ``None`` takes ``$RANK``, or in a
                dynamic group the next id that is free.
            world_size: number of workers; ``None`` takes ``$WORLD_SIZE``, and without that the
                group is dynamic: workers join and leave at any time.
            options: settings; ``None`` takes the defaults of ``backend``.
            store: where workers find each other; ``None`` takes ``options.init_method``.
            network: opens links; ``None`` takes sockets.
            clock: the time; ``None`` takes the loop's.
            environ: environment variables; ``None`` takes the process's.

        Returns:
            The agent, once all ``world_size`` workers know each other; in a dynamic group at once.

        Raises:
            ValueError: an argument or variable breaks its rule; the message names it.
            TypeError: ``backend`` is none, or has other options.
            DuplicateNameError: another worker that lives has the name or rank.
            RpcTimeoutError: not all workers came within ``options.init_timeout``.
            StoreConnectionError: the store was not reached within ``options.init_timeout``.
            AuthenticationError: the store has another secret or run id.
        """
        chosen, settings = resolve(backend, options)
        if chosen.init is not None:
            started: Self = await chosen.init(
                name=name, rank=rank, world_size=world_size, options=settings, store=store
            )
            return started
        starter = Starter(
            settings,
            os.environ if environ is None else environ,
            network,
            clock if clock is not None else LoopClock(),
            RRefContext,
        )
        made: list[Self] = []  # one for each store that was tried; the last one is in use

        def make(started: Started) -> object:
            made.append(cls(started))
            return made[-1]

        start = asyncio.ensure_future(starter.start(make, name, rank, world_size, store))
        try:
            await asyncio.wait([start])
        except asyncio.CancelledError:
            start.cancel()
            await finished(start)
            if not start.cancelled() and start.exception() is None:
                await finished(asyncio.ensure_future(made[-1].shutdown(graceful=False)))
            raise
        start.result()
        agent = made[-1]
        if not agent.is_closed:  # by a call that it served already
            agent._was_shut_down = warn_if_forgotten(agent, agent._started)
        return agent

    @property
    def is_over(self) -> bool:
        """Whether its shutdown is over, or its loop was closed without one: nothing is left."""
        return self._ending.is_over or self.is_orphaned

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shutdown(graceful=error is None)

    async def shutdown(self, graceful: bool = True, timeout: float | None = None) -> None:
        """Leave the group; see `asyncrpc.shutdown`.

        Cancelling it, or calling it again with ``graceful=False``, ends the wait for the others;
        everything is closed all the same.

        Raises:
            RuntimeError: graceful, and awaited by a call that this worker serves.
            ShutdownTimeoutError: it took longer than ``timeout`` seconds.
            ValueError: ``timeout`` is negative or no number.
        """
        try:
            await self._ending.run(graceful, check_timeout("timeout", timeout))
        finally:
            if self.is_closed:
                self._was_shut_down()

    # -- calls

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
    ) -> RpcFuture[Any]:
        """Call a function on another worker; see `asyncrpc.rpc_async`."""
        is_plain = retry is None and idempotent is False
        again = False if is_plain else check_again(retry, idempotent)
        return self.call(to, func, args, kwargs, timeout, again, sys._getframe(1))

    def _call_with_default(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: object,
        again: bool | RetryPolicy,
        site: FrameType,
    ) -> RpcFuture[Any]:
        """Call with the policy of the options, unless one is given."""
        policy = again if isinstance(again, RetryPolicy) else self.options.retry
        return self._agent.caller.call(to, func, args, kwargs, timeout, policy or again, site)

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
        """Call a function and block this thread until it answers; see `asyncrpc.rpc_sync`."""
        if threading.get_ident() == self._thread:
            raise RuntimeError(
                "rpc_sync would block the loop it waits for: await rpc_async instead, or call it "
                "from another thread"
            )
        return Blocked(self._loop).run(
            lambda: self.rpc_async(
                to, func, args, kwargs, timeout, retry=retry, idempotent=idempotent
            )
        )

    def rpc_notify(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Call a function without waiting for anything; see `asyncrpc.rpc_notify`."""
        self._agent.caller.notify(to, func, args, kwargs)

    def rpc_stream(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        timeout: float | None | Unset = UNSET,
        *,
        window: int = 64,
    ) -> RpcStream[Any]:
        """Iterate over an async generator on another worker; see `asyncrpc.rpc_stream`."""
        seconds = self.get_rpc_timeout() if timeout is UNSET else check_timeout("timeout", timeout)
        site = sys._getframe(1)
        return self.open_stream(to, func, args, kwargs, seconds, window, site)

    def make_message(self, type: MessageType | str, payload: object) -> Message:  # noqa: A002 -- a word of the public interface
        """Return a message for `send_with_retries`.

        Args:
            type: a request's type, or its name: ``PYTHON_CALL`` or ``SCRIPT_CALL``, or a control
                message of the reference protocol.
            payload: of a call ``(func, args, kwargs)``, where the last two may be left out, or a
                dict of these; of a control message what its handler takes.

        Raises:
            ValueError: there is no such type, it has no reply, or the payload is none of a call.
        """
        return make_message(type, payload)

    def send_with_retries(
        self, to: str | int | WorkerInfo, message: Message, policy: RetryPolicy
    ) -> RpcFuture[Any]:
        """Send a message again until it is answered, as the agents' own control messages are.

        A call runs once, as with ``retry=`` of `rpc_async`; the handler of a control message may
        run more than once, and no ``retry_budget`` limits it. All attempts together have the
        default timeout, `get_rpc_timeout`.

        Args:
            to: name, id or `WorkerInfo` of the destination.
            message: what `make_message` gave.
            policy: how often and when.

        Returns:
            A future of the reply's payload; of a call that is the function's result.

        Raises:
            ValueError: an argument is not of its kind; further errors are those of `rpc_async`.
        """
        return send(self._agent, to, message, policy, sys._getframe(1))

    def context(self) -> ContextScope:
        """Return a scope whose calls share a context; see `asyncrpc.context`."""
        return ContextScope(self._agent.contexts)

    def current_context(self) -> CallContext | None:
        """Return the context of what runs here; see `asyncrpc.current_context`."""
        return self._agent.contexts.current()

    # here as well for code that is handed an agent; the call being served knows its own agent
    remaining = staticmethod(remaining)
    caller = staticmethod(caller)
    detached = staticmethod(detached)

    def rpc_hedged(
        self,
        workers: Iterable[str | int | WorkerInfo],
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        timeout: float | None | Unset = UNSET,
        *,
        delay: float,
    ) -> RpcFuture[Any]:
        """Call several workers one after the other; see `asyncrpc.rpc_hedged`."""
        site = sys._getframe(1)
        return self.call_hedged(workers, func, args, kwargs, timeout, delay, site)

    def rpc_any(
        self,
        workers: Iterable[str | int | WorkerInfo],
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        timeout: float | None | Unset = UNSET,
        *,
        idempotent: bool = False,
        random: Random | None = None,
    ) -> RpcFuture[Any]:
        """Call the worker with the least to do; see `asyncrpc.rpc_any`."""
        site = sys._getframe(1)
        return self.call_any(workers, func, args, kwargs, timeout, idempotent, random, site)

    # -- references

    def remote(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        timeout: float | None | Unset = UNSET,
    ) -> RRef:
        """Have a function make a value on another worker; see `asyncrpc.remote`."""
        return self.create(to, func, args, kwargs, timeout, sys._getframe(1))

    def rref(self, value: object) -> RRef:
        """Return a reference to a value, which this worker keeps; see `asyncrpc.RRef`."""
        return self.references.refer_to(value)

    # -- many calls

    def wait_all(self) -> WaitAll:
        """Return a scope that waits for the calls started inside; see `asyncrpc.wait_all`."""
        return WaitAll()

    async def all_gather(
        self,
        obj: object,
        worker_names: Iterable[str] | None = None,
        timeout: float | None | Unset = UNSET,
    ) -> dict[str, Any]:
        """Exchange one object per worker; see `asyncrpc.all_gather`."""
        seconds = self.get_rpc_timeout() if timeout is UNSET else check_timeout("timeout", timeout)
        return await self._collectives.all_gather(obj, worker_names, seconds)

    async def barrier(
        self,
        worker_names: Iterable[str] | None = None,
        timeout: float | None | Unset = UNSET,
    ) -> None:
        """Wait until all workers are here; see `asyncrpc.barrier`."""
        seconds = self.get_rpc_timeout() if timeout is UNSET else check_timeout("timeout", timeout)
        await self._collectives.barrier(worker_names, seconds)

    def __repr__(self) -> str:
        return f"<RpcAgent {self.info.name} id {self.info.id}>"
