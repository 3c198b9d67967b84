"""Calls that are made of others: what their owners share, and what the end of the group waits for.

Such a call has a future of its own, which is not among the pending ones: its parts are, while they
are out. Between two parts nothing of it may be out, and still it is not over.
"""

from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.ambient import ambient
from asyncrpc.agent.nesting import capped, tie
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.errors import Delivery, RpcError
from asyncrpc.execution import current_call
from asyncrpc.options import UNSET, check_timeout

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("JointCalls",)


class JointCalls:
    """The calls of one agent that are made of others.

    Args:
        agent: whose calls.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.out: set[RpcFuture[Any]] = set()
        """Those that are not over."""

    def make(
        self, owner: Any, function: str, timeout: float, site: FrameType | None
    ) -> RpcFuture[Any]:
        """Return the future of a call.

        Args:
            owner: makes the parts; its ``withdraw`` ends them.
            function: name of the function.
            timeout: seconds that it was given, 0 for no limit.
            site: the frame in which the user called, ``None`` for unknown.
        """
        future: RpcFuture[Any] = RpcFuture(loop=self._agent.loop)
        future.call_id = 0
        future.owner = owner
        future.function = function
        future.timeout = timeout
        future.deadline = 0.0
        future.site = None if site is None else (site.f_code, site.f_lasti)
        # its parts are what users' calls are counted by
        future.is_user = future.is_timed = future.is_sent = future.counts = False
        self.out.add(future)
        future.add_done_callback(self.out.discard)
        return future

    def surround(self, future: RpcFuture[Any]) -> None:
        """Do to a call what surrounds it here: the call that is served, and a scope."""
        served = current_call.get()
        if served is not None and served.task is None:
            tie(served, future)
        around = ambient.get()
        if around is not None and around.scope is not None:
            around.scope.add(future)

    def limits(self, timeout: object) -> tuple[float, float]:
        """Return the seconds that a call made here has, 0 for no limit, and its deadline."""
        caller = self._agent.caller
        seconds = caller.timeout if timeout is UNSET else check_timeout("timeout", timeout)
        now = self._agent.clock.time()
        deadline = now + seconds if seconds else 0.0
        served = current_call.get()
        return seconds, deadline if served is None else capped(deadline, served, now)

    def unfinished(self) -> list[RpcFuture[Any]]:
        """Return all calls of users that somebody waits for, joint and plain ones."""
        return [*self.out, *self._agent.caller.user_calls()]

    def close(self, error: RpcError) -> None:
        """Fail every call with a copy of ``error``."""
        for future in tuple(self.out):
            if not future.done():
                future.fail(type(error)(str(error), delivery=Delivery.UNKNOWN))
                future.owner.withdraw(future)
