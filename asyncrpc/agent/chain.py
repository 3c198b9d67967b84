"""The chain of interceptors around one call that is made.

A chain is a task; what the user holds is a future of its outcome, there at once, with the call's
deadline and the wish to cancel it. Made by `Interception`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.ambient import Surrounding
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.traces import check_traceparent
from asyncrpc.errors import Delivery, RpcTimeoutError
from asyncrpc.interception import OutgoingCall, chained
from asyncrpc.options import check_timeout
from asyncrpc.wire import check_metadata

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.observe import Timer

__all__ = ("Chain", "is_inside_interceptor")

_GRACE = 1.0  # seconds for interceptors to have done with a call whose time is over
_NOTHING = 0.001  # seconds that a call may be late, so that its error tells the time it was given

_is_inside: ContextVar[bool] = ContextVar("asyncrpc_is_inside_interceptor", default=False)


def is_inside_interceptor() -> bool:
    """Whether this is the code of an interceptor, whose own calls go past the chain."""
    return _is_inside.get()


class Chain:
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
