"""Interceptors: what users put around calls, and what those see of a call.

Values and a base class only; the agent runs the chains. `Interceptor` objects are given to an agent
in `RpcOptions.interceptors`; without any nothing of this is in the way of a call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from asyncrpc.identity import WorkerInfo

__all__ = ("IncomingCall", "Interceptor", "OutgoingCall", "chained")

Kind = Literal["call", "notify", "remote", "stream"]

C = TypeVar("C")


@dataclass(slots=True, kw_only=True)
class OutgoingCall:
    """A call that is about to be made; interceptors may change it before they go on.

    Args:
        kind: ``"call"``, also of a method by a proxy; ``"notify"`` for a one-way call; ``"remote"``
            for one that makes a value for an `RRef`; ``"stream"`` for `rpc_stream`.
        to: destination.
        function: name of the function, ``.name`` for a method called by a proxy.
        args: positional arguments.
        kwargs: keyword arguments.
        timeout: seconds that it has, of a stream each item, 0 for no limit. All attempts and all
            that interceptors do have that time together; an interceptor can only shorten it.
        metadata: strings that travel with the call; its callee's interceptors see them.
        traceparent: W3C ``traceparent`` that travels with it, empty for none.
    """

    kind: Kind
    to: WorkerInfo
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout: float
    metadata: dict[str, str] = field(default_factory=dict)
    traceparent: str = ""


@dataclass(slots=True, kw_only=True)
class IncomingCall:
    """A call that is about to be served; interceptors may change its arguments before they go on.

    Args:
        kind: as in `OutgoingCall`.
        caller: who calls.
        function: name of the function.
        args: positional arguments.
        kwargs: keyword arguments.
        metadata: strings that came with the call.
        traceparent: W3C ``traceparent`` that came with it, as it came; empty for none.
        left: gives the seconds left of its deadline, ``None`` for no limit.
    """

    kind: Kind
    caller: WorkerInfo
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    metadata: dict[str, str]
    traceparent: str
    left: Callable[[], float | None] = field(repr=False)

    @property
    def remaining(self) -> float | None:
        """Seconds left of the call's deadline; ``None`` without one, 0 once its caller gave up."""
        return self.left()


class Interceptor:
    """Something around calls: subclass it, and override one side or both.

    The first interceptor of the options is the outermost one. ``await proceed(call)`` goes on to
    the next one, and at last to the call itself; its result is the call's result, of a stream the
    number of items, ``None`` of a one-way call and, on its caller, of a remote one. An interceptor
    can change the call before it, the result after it, refuse the call by raising, or proceed again
    to repeat it, but no stream and no remote call. `RRef.to_here` is no call of its own.
    Cancelling the call is seen as a `CancelledError`, on both sides.

    Example:
        ```python
        class Slow(asyncrpc.Interceptor):
            async def incoming(self, call, proceed):
                begun = time.monotonic()
                try:
                    return await proceed(call)
                finally:
                    if time.monotonic() - begun > 1:
                        print(f"{call.function} was slow for {call.caller.name}")
        ```
    """

    async def outgoing(
        self, call: OutgoingCall, proceed: Callable[[OutgoingCall], Awaitable[Any]]
    ) -> Any:
        """Surround a call that this worker makes. Calls made in here are not intercepted."""
        return await proceed(call)

    async def incoming(
        self, call: IncomingCall, proceed: Callable[[IncomingCall], Awaitable[Any]]
    ) -> Any:
        """Surround a call that this worker serves, on the loop; `asyncrpc.caller` works here.

        What it raises arrives as what a function raises: an `RpcError` as a `RemoteError` with its
        code. Calls that are refused before, as those of functions that are not exposed, are not
        seen here.
        """
        return await proceed(call)


def chained(
    steps: Iterable[Callable[[C, Callable[[C], Awaitable[Any]]], Awaitable[Any]]],
    innermost: Callable[[C], Awaitable[Any]],
) -> Callable[[C], Awaitable[Any]]:
    """Return what runs ``steps`` around ``innermost``, the first one outermost."""
    proceed = innermost
    for step in reversed(tuple(steps)):
        proceed = _linked(step, proceed)
    return proceed


def _linked(
    step: Callable[[C, Callable[[C], Awaitable[Any]]], Awaitable[Any]],
    proceed: Callable[[C], Awaitable[Any]],
) -> Callable[[C], Awaitable[Any]]:
    return lambda call: step(call, proceed)
