"""Calls that any of several workers may answer: hedged ones, and any-of routing.

Made of plain calls, so that deadlines, cancellation and interceptors mean for each what they mean
for one made by hand. The outcome is a future of its own; whoever holds it never sees the parts.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from types import FrameType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.ambient import Surrounding
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.errors import (
    Delivery,
    EncodingError,
    MessageTooLargeError,
    NotInitializedError,
    PeerLostError,
    RpcError,
    UnknownWorkerError,
)
from asyncrpc.identity import WorkerInfo
from asyncrpc.retry import check_again

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.observe import Timer

__all__ = ("call_any", "call_hedged")

_LEAST = 1e-6  # seconds; 0 would mean no deadline
_EVERYWHERE = (EncodingError, MessageTooLargeError, NotInitializedError)
"""Errors that no other worker would mend."""


def call_hedged(
    agent: Agent,
    workers: object,
    func: object,
    args: Sequence[object] | None,
    kwargs: Mapping[str, object] | None,
    timeout: object,
    delay: object,
    site: FrameType,
) -> RpcFuture[Any]:
    """Call one worker after the other; see `asyncrpc.rpc_hedged`."""
    queue = _checked_workers(agent, workers)
    if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not delay >= 0:
        raise ValueError(f"delay must be a number of seconds, 0 or more, got {delay!r}")

    def start(to: object, seconds: float) -> RpcFuture[Any]:
        return agent.caller.call(to, func, args, kwargs, seconds, False, site)

    return _Race(
        agent,
        start,
        choose=lambda: queue.pop(0) if queue else None,
        goes_on=lambda error: error.delivery is not Delivery.EXECUTED,
        delay=float(delay),
        timeout=timeout,
    ).begin(site)


def call_any(
    agent: Agent,
    workers: object,
    func: object,
    args: Sequence[object] | None,
    kwargs: Mapping[str, object] | None,
    timeout: object,
    idempotent: bool,
    random: Random | None,
    site: FrameType,
) -> RpcFuture[Any]:
    """Call the worker with the least to do; see `asyncrpc.rpc_any`."""
    check_again(None, idempotent)
    left = list(dict.fromkeys(_checked_workers(agent, workers)))
    pick = Random() if random is None else random  # noqa: S311 -- spreads load, hides nothing

    def load(to: object) -> float:
        peer = agent.members.routes.get(to)
        if peer is None:
            return math.inf
        held = 0 if agent.interception is None else agent.interception.held[peer.info]
        return peer.inflight + peer.waiting + held

    def choose() -> object | None:
        if not left:
            return None
        loads = {to: load(to) for to in left}
        least = min(loads.values())
        chosen: object = pick.choice([to for to in left if loads[to] == least])
        left.remove(chosen)
        return chosen

    def start(to: object, seconds: float) -> RpcFuture[Any]:
        return agent.caller.call(to, func, args, kwargs, seconds, idempotent, site)

    harmless = (Delivery.NOT_SENT, Delivery.UNKNOWN) if idempotent else (Delivery.NOT_SENT,)
    return _Race(
        agent,
        start,
        choose=choose,
        goes_on=lambda error: error.delivery in harmless,
        delay=math.inf,
        timeout=timeout,
    ).begin(site)


class _Race:
    """One call with several possible callees; the owner of its future.

    Args:
        agent: who calls.
        start: calls a worker; takes the seconds it has, 0 for no limit.
        choose: gives the next worker, ``None`` once all were asked.
        goes_on: whether another worker may be asked after a failure.
        delay: seconds without an answer after which the next one is asked too.
        timeout: as for `asyncrpc.rpc_async`, for all of it.
    """

    def __init__(
        self,
        agent: Agent,
        start: Callable[[object, float], RpcFuture[Any]],
        *,
        choose: Callable[[], object | None],
        goes_on: Callable[[RpcError], bool],
        delay: float,
        timeout: object,
    ) -> None:
        self._joint = agent.joint
        self._clock = agent.clock
        self._start = start
        self._choose = choose
        self._goes_on = goes_on
        self._delay = delay
        self._timeout, deadline = agent.joint.limits(timeout)
        self._deadline = deadline or math.inf
        self._context = contextvars.copy_context()
        # a scope waits for the outcome, not for the parts
        self._context.run(Surrounding().enter, scope=None)
        self._asked: list[str] = []
        self._out: list[RpcFuture[Any]] = []
        self._failures: list[RpcError] = []
        self._timer: Timer | None = None
        self._future: RpcFuture[Any] | None = None  # no more once it is done: see `_settle`

    def __repr__(self) -> str:
        return ", ".join(self._asked)

    def begin(self, site: FrameType) -> RpcFuture[Any]:
        """Ask the first worker that can be asked; raises what its call raises."""
        if not self._ask_next():
            raise self._last_failure()
        first = self._out[0]
        future = self._future = self._joint.make(self, first.function, self._timeout, site)
        self._joint.surround(future)
        return future

    def withdraw(self, future: RpcFuture[Any]) -> None:  # noqa: ARG002 -- an owner of calls
        """Cancel the calls that are out: the outcome is known, or nobody wants it."""
        self._future = None
        if self._timer is not None:
            self._timer.cancel()
        out, self._out = self._out, []
        for call in out:
            call.cancel()

    def _ask_next(self) -> bool:
        """Call the next worker; false if there is none, or no time."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock.time()
        while (now < self._deadline or not self._asked) and (to := self._choose()) is not None:
            self._asked.append(str(to.name if isinstance(to, WorkerInfo) else to))
            seconds = max(self._deadline - now, _LEAST) if self._deadline < math.inf else 0.0
            try:
                call = self._context.run(self._start, to, seconds)
            except RpcError as error:
                if isinstance(error, _EVERYWHERE) or not self._goes_on(error):
                    raise
                self._failures.append(error)
                continue
            self._out.append(call)
            call.add_done_callback(self._ended)
            if self._delay < math.inf:
                self._timer = self._clock.call_at(now + self._delay, self._on_silence)
            return True
        return False

    def _on_silence(self) -> None:
        self._go_on()

    def _go_on(self) -> None:
        """Ask the next one; fail if there is nobody left to ask, and nobody left to answer."""
        try:
            if not self._ask_next() and not self._out:
                self._settle(None, self._last_failure())
        except Exception as error:  # noqa: BLE001 -- as at the call, but the caller is gone
            self._settle(None, error)

    def _ended(self, call: asyncio.Future[Any]) -> None:
        error = None if call.cancelled() else call.exception()  # seen, whatever becomes of it
        if self._future is None or self._future.done():
            return
        self._out = [other for other in self._out if other is not call]
        if call.cancelled():  # with the served call that made it
            self._future.cancel()
        elif error is None:
            self._settle(call.result(), None)
        elif isinstance(error, RpcError) and self._goes_on(error):
            self._failures.append(error)
            self._go_on()
        else:
            self._settle(None, error)

    def _settle(self, value: object, error: BaseException | None) -> None:
        future = self._future
        assert future is not None, "there is one outcome"
        if error is None:
            future.succeed(value)
        else:
            future.fail(error)
        # lets go of it: in a cycle, nobody would hear at once of a failure that nobody looked at
        self.withdraw(future)

    def _last_failure(self) -> RpcError:
        """Return the last failure, with what happened before it."""
        *earlier, last = self._failures
        for error in earlier:
            last.add_note(f"before that: {type(error).__name__}: {error}")
        return last


def _checked_workers(agent: Agent, workers: object) -> list[Any]:
    """Return the destinations; those that are gone are left to fail when their turn comes."""
    if isinstance(workers, (str, WorkerInfo)) or not isinstance(workers, Iterable):
        raise ValueError(f"workers must be a list of destinations, got {workers!r}")
    found = list(workers)
    if not found:
        raise ValueError("workers must name at least one worker, got none")
    for to in found:
        try:
            agent.members.destination(to)
        except PeerLostError:
            pass
        except UnknownWorkerError:
            if agent.members.known(to) is None:
                raise
    return found
