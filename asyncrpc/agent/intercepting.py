"""The caller's interceptors: a chain around each call that is made.

Stands in the place of `Caller.call`, `Caller.notify` and `Streams.open` where there are
interceptors. A chain is a task; what the user holds is a future of its outcome, there at once, with
the call's deadline and the wish to cancel it. Errors about destination, function and timeout are
raised by the call as ever; those about arguments come through the future, since interceptors may
change them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.ambient import Surrounding, ambient
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.streaming import RpcStream
from asyncrpc.agent.traces import check_traceparent, current_traceparent
from asyncrpc.errors import Delivery, RpcTimeoutError
from asyncrpc.identity import WorkerInfo
from asyncrpc.interception import Interceptor, Kind, OutgoingCall, chained
from asyncrpc.options import check_timeout
from asyncrpc.retry import RetryPolicy
from asyncrpc.wire import check_metadata

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer
    from asyncrpc.observe import Timer

__all__ = ("Interception", "is_inside_interceptor")

_log = logging.getLogger("asyncrpc.caller")

_GRACE = 1.0  # seconds for interceptors to have done with a call whose time is over
_NOTHING = 0.001  # seconds that a call may be late, so that its error tells the time it was given

_is_inside: ContextVar[bool] = ContextVar("asyncrpc_is_inside_interceptor", default=False)


def is_inside_interceptor() -> bool:
    """Whether this is the code of an interceptor, whose own calls go past the chain."""
    return _is_inside.get()


class Interception:
    """Puts interceptors around all calls that an agent makes.

    Args:
        agent: whose calls; its ways to call are replaced, so that without interceptors they are
            what they were.
        interceptors: the first one is the outermost.
    """

    def __init__(self, agent: Agent, interceptors: Sequence[Interceptor]) -> None:
        self._agent = agent
        self._caller = agent.caller
        self._joint = agent.joint
        self._steps = [interceptor.outgoing for interceptor in interceptors]
        self.held: Counter[WorkerInfo] = Counter()
        """Calls that interceptors have not let go out yet, by destination."""
        self._call = agent.caller.call
        self._notify = agent.caller.notify
        self._open = agent.streams.open
        agent.caller.call = self._intercepted_call  # type: ignore[method-assign]  # that is the point: off, nothing is in the way
        agent.caller.notify = self._intercepted_notify  # type: ignore[method-assign]  # that is the point: off, nothing is in the way
        agent.streams.open = self._intercepted_open  # type: ignore[method-assign]  # that is the point: off, nothing is in the way

    def _intercepted_call(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: object,
        again: bool | RetryPolicy,
        site: FrameType,
    ) -> RpcFuture[Any]:
        """Start a call: `Caller.call`."""
        if _is_inside.get():
            return self._call(to, func, args, kwargs, timeout, again, site)
        call, deadline = self.call("call", to, func, args, kwargs, timeout)
        info = call.to

        def start(changed: OutgoingCall, limit: float) -> Awaitable[Any]:
            args, kwargs = changed.args, changed.kwargs
            where = _destination(changed, to, info)
            return self._call(where, func, args, kwargs, limit, again, site)

        future = self.begin(call, deadline, site, start)
        self._joint.surround(future)
        return future

    def _intercepted_notify(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
    ) -> None:
        """Send a one-way call: `Caller.notify`."""
        if _is_inside.get():
            self._notify(to, func, args, kwargs)
            return
        call, _ = self.call("notify", to, func, args, kwargs, 0)
        info = call.to

        def start(changed: OutgoingCall, limit: float) -> None:  # noqa: ARG001 -- it has none
            where = _destination(changed, to, info)
            self._notify(where, func, changed.args, changed.kwargs)

        self.begin(call, 0.0, None, start).add_done_callback(_report)

    def _intercepted_open(
        self,
        to: object,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: float,
        window: object,
        site: FrameType,
    ) -> RpcStream[Any]:
        """Open a stream: `Streams.open`."""
        if _is_inside.get():
            return self._open(to, func, args, kwargs, timeout, window, site)
        opened: asyncio.Future[RpcStream[Any] | None] = self._agent.loop.create_future()

        def start(changed: OutgoingCall, limit: float) -> Awaitable[Any]:  # noqa: ARG001 -- items have
            if opened.done():
                raise RuntimeError("an interceptor can proceed with a stream once only")
            seconds = check_timeout("timeout", changed.timeout)
            where = _destination(changed, to, info)
            stream = self._open(where, func, changed.args, changed.kwargs, seconds, window, site)
            opened.set_result(stream)
            return stream.ended

        call, _ = self.call("stream", to, func, args, kwargs, timeout)
        info = call.to
        return _InterceptedStream(self.begin(call, 0.0, site, start), opened)

    # -- for those who make calls in ways of their own

    def call(
        self,
        kind: Kind,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: object,
    ) -> tuple[OutgoingCall, float]:
        """Return what interceptors see of a call, and its deadline, 0 for never.

        Raises what a call raises for a wrong destination, function or timeout.
        """
        peer: Peer = self._caller.destination(to)
        function = self._caller.report_name(func, args, kwargs)
        return self._described(kind, peer, function, args or (), kwargs or {}, timeout)

    def method_call(
        self,
        kind: Kind,
        peer: Peer,
        name: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        timeout: object,
    ) -> tuple[OutgoingCall, float]:
        """Do the same for a method of a value that is referred to."""
        return self._described(kind, peer, f".{name}", args, kwargs, timeout)

    def begin(
        self,
        call: OutgoingCall,
        deadline: float,
        site: FrameType | None,
        start: Callable[[OutgoingCall, float], Awaitable[Any] | None],
    ) -> RpcFuture[Any]:
        """Start the chain around a call.

        Args:
            call: what `call` gave.
            deadline: likewise.
            site: the frame in which the user called.
            start: makes the call, and returns its outcome, if there will be one; takes what
                interceptors made of it, and the seconds left, 0 for no limit.

        Returns:
            The future of the chain's outcome.
        """
        chain = _Chain(self._agent, call, deadline, site)
        self.held[call.to] += 1
        return chain.begin(self._steps, start, partial(self._let_go, call.to))

    def _let_go(self, to: WorkerInfo) -> None:
        self.held[to] -= 1
        if not self.held[to]:
            del self.held[to]

    def _described(
        self,
        kind: Kind,
        peer: Peer,
        function: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        timeout: object,
    ) -> tuple[OutgoingCall, float]:
        seconds, deadline = self._joint.limits(timeout)
        around = ambient.get()
        call = OutgoingCall(
            kind=kind,
            to=peer.info,
            function=function,
            args=tuple(args),
            kwargs=dict(kwargs),
            timeout=seconds,
            metadata={} if around is None else dict(around.metadata),
            traceparent=current_traceparent() or "",
        )
        return call, deadline


class _Chain:
    """The chain around one call; the owner of its future.

    Args:
        agent: who calls.
        call: what interceptors see.
        deadline: when it is over on the agent's clock, 0 for never.
        site: the frame in which the user called.
    """

    def __init__(
        self, agent: Agent, call: OutgoingCall, deadline: float, site: FrameType | None
    ) -> None:
        self._agent = agent
        self._call = call
        self._deadline = deadline
        self._given = call.timeout
        # Both are let go of at the end. In a cycle, nobody would hear at once of a failure that
        # nobody looked at.
        self._future: RpcFuture[Any] | None = agent.joint.make(
            self, call.function, call.timeout, site
        )
        self._task: asyncio.Task[Any] | None = None
        self._timer: Timer | None = None
        self._out = 0  # calls that the chain waits for
        self._is_late = False
        self._has_proceeded = False
        self._let_go: Callable[[], None]

    def __repr__(self) -> str:
        return self._call.to.name

    def begin(
        self,
        steps: Sequence[Callable[..., Awaitable[Any]]],
        start: Callable[[OutgoingCall, float], Awaitable[Any] | None],
        let_go: Callable[[], None],
    ) -> RpcFuture[Any]:
        """Start the chain.

        Args:
            steps: what surrounds the call.
            start: makes it; takes the seconds that are left, 0 for no limit.
            let_go: called once, when the call goes out or will not.

        Returns:
            The future of its outcome.
        """
        self._let_go = let_go
        proceed = chained(steps, lambda call: self._proceed(start, call))
        name = f"asyncrpc {self._agent.info.name}: interceptors of {self._call.function}"
        task = self._task = self._agent.loop.create_task(self._run(proceed), name=name)
        self._agent.chains.add(task)
        task.add_done_callback(self._ended)
        if self._deadline:
            self._timer = self._agent.clock.call_at(self._deadline, self._expire)
        assert self._future is not None  # the task has not begun
        return self._future

    def withdraw(self, future: RpcFuture[Any]) -> None:  # noqa: ARG002 -- an owner of calls
        """Cancel the chain, and with it the call that it waits for."""
        self._future = None
        if self._task is not None:
            self._task.cancel()

    async def _run(self, proceed: Callable[[OutgoingCall], Awaitable[Any]]) -> Any:
        _is_inside.set(True)
        return await proceed(self._call)

    async def _proceed(
        self, start: Callable[[OutgoingCall, float], Awaitable[Any] | None], call: OutgoingCall
    ) -> Any:
        """Make the call: the innermost step."""
        limit = check_timeout("timeout", call.timeout)
        if self._deadline:
            left = self._deadline - self._agent.clock.time()
            if left <= 0:
                raise self._timeout_error(Delivery.NOT_SENT)
            limit = limit if 0 < limit <= left + _NOTHING else left
        # here, not where they are sent: nothing is encoded yet, so there are no references to undo
        trace = check_traceparent(call.traceparent) if call.traceparent else ""
        metadata = dict(check_metadata(call.metadata))
        surrounding = Surrounding()
        surrounding.enter(scope=None, trace=trace, metadata=metadata)
        try:
            outcome = start(call, limit)
        finally:
            surrounding.leave()
        self._proceeded()
        if outcome is None:
            return None  # nothing comes of a one-way call
        self._out += 1
        try:
            return await outcome
        finally:
            self._out -= 1
            del outcome  # a failure of it refers to this frame

    def _proceeded(self) -> None:
        if not self._has_proceeded:
            self._has_proceeded = True
            self._let_go()

    def _expire(self) -> None:
        """End a chain whose time is over; a call of it that is out ends by itself, before it."""
        if self._out and not self._is_late:
            self._is_late = True
            when = self._agent.clock.time() + _GRACE
            self._timer = self._agent.clock.call_at(when, self._expire)
        elif self._future is not None:
            delivery = Delivery.UNKNOWN if self._has_proceeded else Delivery.NOT_SENT
            self._future.fail(self._timeout_error(delivery))
            self.withdraw(self._future)

    def _timeout_error(self, delivery: Delivery) -> RpcTimeoutError:
        given = f"{self._given:g} s" if self._given else "the deadline of the call it serves"
        return RpcTimeoutError(
            f"RPC ran for more than set timeout ({given}) and will now be marked with an error: "
            f"{self._call.function} on {self}, in its interceptors",
            delivery=delivery,
            phase="send",
        )

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._agent.chains.discard(task)
        if self._timer is not None:
            self._timer.cancel()
        self._proceeded()
        future, self._future, self._task = self._future, None, None
        error = None if task.cancelled() else task.exception()  # seen, whatever becomes of it
        if future is None or future.done():
            return
        if task.cancelled():
            future.cancel()
        elif error is None:
            future.succeed(task.result())
        else:
            future.fail(error)


class _InterceptedStream(RpcStream[Any]):
    """A stream within a chain: its items are those of the stream that the chain opens.

    Args:
        outcome: of the chain.
        opened: gets the stream.
    """

    def __init__(
        self, outcome: RpcFuture[Any], opened: asyncio.Future[RpcStream[Any] | None]
    ) -> None:
        self.ended = outcome
        self._opened = opened
        self._is_over = False
        outcome.add_done_callback(partial(_open_none, opened))

    async def __anext__(self) -> Any:
        if self._is_over:
            raise StopAsyncIteration
        error: Exception = StopAsyncIteration()
        try:
            stream = await asyncio.shield(self._opened)
            if stream is not None:
                return await anext(stream)
        except asyncio.CancelledError:
            self.ended.cancel()
            raise
        except Exception as problem:
            if stream is not None and not stream.ended.done():
                raise  # only to whom did it wrong
            error = problem
        self._is_over = True
        await self._verdict()
        raise error

    async def _verdict(self) -> None:
        """Raise what the interceptors made of the end, if it is an error."""
        try:
            await asyncio.wait([self.ended])
        except asyncio.CancelledError:
            self.ended.cancel()
            raise
        if not self.ended.cancelled():
            self.ended.result()

    async def aclose(self) -> None:
        self._is_over = True
        self.ended.cancel()

    def _drop_unread(self) -> None:
        """Have none of its own."""


def _open_none(opened: asyncio.Future[RpcStream[Any] | None], _: object) -> None:
    """Have nobody wait for a stream that will not be opened."""
    if not opened.done():
        opened.set_result(None)


def _destination(changed: OutgoingCall, to: object, info: WorkerInfo) -> object:
    """Return where a call goes: as the user named it, unless an interceptor said otherwise.

    In a dynamic group the worker may be one that is still looked up under that name.
    """
    return to if changed.to == info else changed.to


def _report(future: asyncio.Future[Any]) -> None:
    """Tell of a one-way call that its interceptors refused, or failed to send."""
    if not future.cancelled() and (error := future.exception()) is not None:
        _log.error("%r was not sent", future, exc_info=error)
