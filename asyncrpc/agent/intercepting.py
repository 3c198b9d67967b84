"""The caller's interceptors: a chain around each call that is made.

Stands in the place of `Caller.call`, `Caller.notify` and `Streams.open` where there are
interceptors. Errors about destination, function and timeout are raised by the call as ever; those
about arguments come through the future of its `Chain`, since interceptors may change them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.ambient import ambient
from asyncrpc.agent.chain import Chain, is_inside_interceptor
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.streaming import RpcStream
from asyncrpc.agent.traces import current_traceparent
from asyncrpc.identity import WorkerInfo
from asyncrpc.interception import Interceptor, Kind, OutgoingCall
from asyncrpc.options import check_timeout
from asyncrpc.retry import RetryPolicy

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer

__all__ = ("Interception",)

_log = logging.getLogger("asyncrpc.caller")


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
        if is_inside_interceptor():
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
        if is_inside_interceptor():
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
        if is_inside_interceptor():
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
        chain = Chain(self._agent, call, deadline, site)
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
