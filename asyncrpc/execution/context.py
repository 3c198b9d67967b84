"""What a served function can know of its call: who called, how long is left.

A `ServedCall` rides in one context variable, so nested calls, tasks and pool threads inherit it.
Set by the executor; read by `remaining`, `caller`, `detached` and by the agent for nested calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from asyncrpc.errors import RpcError
from asyncrpc.identity import WorkerInfo

__all__ = ("Replier", "ServedCall", "caller", "current_call", "detached", "remaining")


class Replier(Protocol):
    """Where the outcome of a served call goes: the connection it came on."""

    def now(self) -> float:
        """Return the time on the agent's clock, in seconds."""
        ...

    def succeed(self, call: ServedCall, value: object) -> None:
        """Send the function's result."""
        ...

    def fail(self, call: ServedCall, error: BaseException) -> None:
        """Send the error that the function, or the way to it, raised."""
        ...


class ServedCall:
    """One call being served: who called, until when, how deep.

    Attributes:
        replier: takes the outcome.
        agent: the agent that serves it, whatever type runs on top of this folder.
        caller: who called.
        ident: call id, unique among the caller's.
        function: name of the function, ``module:qualname``.
        deadline: when it must be over on the agent's clock, 0 for never.
        depth: how many served calls lie below it, itself included; 1 for a direct call.
        wants_reply: whether the caller waits for an outcome.
        is_cancelled: whether its caller gave up on it.
        is_done: whether its function has ended.
        task: runs an ``async def``.
        nested: blocking calls made by the ``def`` that serves it; they end when it is cancelled.
    """

    __slots__ = (
        "agent",
        "caller",
        "deadline",
        "depth",
        "function",
        "ident",
        "is_cancelled",
        "is_done",
        "nested",
        "replier",
        "task",
        "wants_reply",
    )

    def __init__(
        self,
        replier: Replier,
        agent: object,
        caller: WorkerInfo,
        ident: int,
        function: str,
        deadline: float,
        depth: int,
        wants_reply: bool,
    ) -> None:
        self.replier = replier
        self.agent = agent
        self.caller = caller
        self.ident = ident
        self.function = function
        self.deadline = deadline
        self.depth = depth
        self.wants_reply = wants_reply
        self.is_cancelled = False
        self.is_done = False
        self.task: asyncio.Task[None] | None = None
        self.nested: set[asyncio.Future[object]] | None = None

    def remaining(self) -> float | None:
        """Return the seconds left, 0 once cancelled or over, ``None`` without a deadline."""
        if self.is_cancelled:
            return 0.0
        if not self.deadline:
            return None
        return max(0.0, self.deadline - self.replier.now())

    def cancel(self) -> None:
        """Stop serving: cancel the task, end blocking nested calls of a running ``def``."""
        if self.is_cancelled or self.is_done:
            return
        self.is_cancelled = True
        if self.task is not None:
            self.task.add_done_callback(self._task_done)
            self.task.cancel()
        for future in tuple(self.nested or ()):
            future.cancel()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        """End a call whose task was cancelled before its first step, so that nothing in it ran."""
        if not self.is_done:
            self.is_done = True
            self.replier.fail(self, asyncio.CancelledError())


current_call: ContextVar[ServedCall | None] = ContextVar("asyncrpc_current_call", default=None)
"""The call being served here, ``None`` outside of one."""


def remaining() -> float | None:
    """Return the seconds left of the deadline of the call being served.

    Returns:
        Seconds, at least 0; ``None`` outside a served call or where it has no deadline. 0 once the
        caller gave up.
    """
    call = current_call.get()
    return None if call is None else call.remaining()


def caller() -> WorkerInfo:
    """Return the worker whose call is being served.

    Raises:
        RpcError: no call is being served here.
    """
    call = current_call.get()
    if call is None:
        raise RpcError("caller() has a meaning only inside a served call")
    return call.caller


@contextlib.contextmanager
def detached() -> Iterator[None]:
    """Free the calls made inside from the deadline of the call being served."""
    call = current_call.get()
    if call is None:
        yield
        return
    free = ServedCall(
        call.replier, call.agent, call.caller, call.ident, call.function, 0.0, call.depth, False
    )
    token = current_call.set(free)
    try:
        yield
    finally:
        current_call.reset(token)
