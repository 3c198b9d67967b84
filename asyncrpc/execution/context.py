"""What a served function can know of its call: who called, how long is left.

A `ServedCall` rides in one context variable, so nested calls, tasks and pool threads inherit it.
Set by the executor; read by `remaining`, `caller`, `detached` and by the agent for nested calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Protocol

from asyncrpc.errors import RpcError
from asyncrpc.execution.functions import Target
from asyncrpc.execution.streams import Outlet
from asyncrpc.identity import WorkerInfo
from asyncrpc.wire import HeaderMap

__all__ = ("Replier", "ServedCall", "caller", "current_call", "detached", "remaining")


class Replier(Protocol):
    """Where the outcome of a served call goes: the callee's side of the link it came on."""

    agent: Any
    """The agent that serves, as `current_agent` gives it."""
    caller: WorkerInfo
    """Who calls over this link."""

    def now(self) -> float:
        """Return the time on the agent's clock, in seconds."""
        ...

    def succeed(self, call: ServedCall, value: object) -> None:
        """Send the function's result."""
        ...

    def fail(self, call: ServedCall, error: BaseException) -> None:
        """Send the error that the function, or the way to it, raised."""
        ...


class Hold(Protocol):
    """Keeps a call from user code until something is known, or takes what it makes."""

    def withdraw(self) -> None:
        """Learn that the call is cancelled: it ends here, or makes nothing any more."""
        ...


class ServedCall:
    """One call being served: who called, until when, how deep.

    Attributes:
        replier: takes the outcome; knows agent and caller.
        ident: call id, unique among the caller's.
        target: what runs; its ``name`` is that of the function.
        deadline: when it must be over on the agent's clock, 0 for never.
        depth: how many served calls lie below it, itself included; 1 for a direct call.
        reply: type of the message that takes the outcome to the caller, 0 if nobody waits for it.
        is_cancelled: whether its caller gave up on it.
        is_done: whether its function has ended.
        is_in_thread: whether its function was given to the thread pool.
        is_timed: whether the timer of deadlines knows it, for whoever times it.
        task: runs it, if it runs on the loop.
        nested: blocking calls made by the ``def`` that serves it; they end when it is cancelled.
        outlet: where its items go, if it is a stream.
        headers: what its caller sent beside function and arguments, ``None`` for nothing but a
            reference.
        reference: ids of the remote references that it is about, empty for none.
        held: told of a cancel besides the task, ``None`` for nothing.
    """

    # no __slots__: with defaults in the class fewer attributes are set per call
    is_in_thread = False
    is_timed = False
    nested: set[asyncio.Future[object]] | None = None
    headers: HeaderMap | None = None
    reference = b""
    outlet: Outlet | None = None
    held: Hold | None = None

    def __init__(
        self,
        replier: Replier,
        ident: int,
        target: Target,
        deadline: float,
        depth: int,
        reply: int,
    ) -> None:
        self.replier = replier
        self.ident = ident
        self.target = target
        self.deadline = deadline
        self.depth = depth
        self.reply = reply
        # Set early: an attribute that comes late, after many calls were made, has no place of its
        # own in them, and costs each call a dict. Those of the class are looked up slowly.
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = self.is_done = False

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
            self.task.cancel()
        for future in tuple(self.nested or ()):
            future.cancel()
        if self.held is not None:
            self.held.withdraw()


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
    return call.replier.caller


@contextlib.contextmanager
def detached() -> Iterator[None]:
    """Free the calls made inside from the deadline of the call being served."""
    call = current_call.get()
    if call is None:
        yield
        return
    free = ServedCall(call.replier, call.ident, call.target, 0.0, call.depth, reply=0)
    free.task = call.task
    free.headers = call.headers
    token = current_call.set(free)
    try:
        yield
    finally:
        current_call.reset(token)
