"""Calls that are out: their futures, and the deadlines of everything that has one.

`RpcFuture` is what a caller awaits. `Deadlines` times calls by one timer, set to the earliest of
their deadlines, so that most calls cost no more than a comparison with that: when the timer fires
it finds those that are still out, and from then on they are in a heap. Its entries stay when their
calls end, until their time or until half of the heap is dead; then it is rebuilt.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from types import CodeType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from asyncrpc.errors import Delivery
from asyncrpc.observe import Clock

if TYPE_CHECKING:
    from asyncrpc.agent.request import Request

__all__ = ("Deadlines", "RpcFuture", "delivery_of", "may_have_run")

T = TypeVar("T")

_SPARE = 1024  # dead entries below this are not worth a rebuild


class _Owner(Protocol):
    def count(self, error: BaseException | None) -> None:
        """Count a call of a user that failed, or was cancelled if there is no error."""
        ...

    def withdraw(self, future: RpcFuture[Any]) -> None:
        """Forget a call that its caller gave up, and tell the callee."""
        ...


class RpcFuture(asyncio.Future[T], Generic[T]):
    """The outcome of one call; an `asyncio.Future` whose cancelling cancels the callee.

    Attributes:
        call_id: unique among this agent's calls.
        owner: the peer it went to.
        function: name of the function.
        timeout: seconds it was given, 0 for no limit.
        deadline: when it is over on the agent's clock, 0 for never.
        site: code object and instruction of the call, for reports.
        is_sent: whether it was handed to a link, so that its function may have run.
        is_timed: see `Deadlines`.
        is_user: whether it is a user's call, not one of the agents' own messages.
        counts: whether it holds one of its peer's places in flight.
        is_resting: whether it waits for its next attempt, neither sent nor queued.
        may_have_run: whether an attempt before the present one may have reached the callee.
    """

    __slots__ = (
        "call_id",
        "counts",
        "deadline",
        "function",
        "is_sent",
        "is_timed",
        "is_user",
        "owner",
        "site",
        "timeout",
    )

    call_id: int
    owner: _Owner
    function: str
    timeout: float
    deadline: float
    site: tuple[CodeType, int] | None
    counts: bool
    is_sent: bool
    is_timed: bool
    is_user: bool
    # of calls that are sent again only, see `retrying`: here constants
    is_resting = False
    may_have_run = False

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the call: the future at once, the callee's function as soon as it hears."""
        if not super().cancel(msg):
            return False
        owner = self.owner
        owner.withdraw(self)
        if self.is_user:
            owner.count(None)
        return True

    succeed = asyncio.Future.set_result
    """Take the result: for the agent, as `fail`."""

    def fail(self, exception: Any) -> None:
        """Fail; the one place where failures of calls are counted."""
        super().set_exception(exception)
        if self.is_user:
            self.owner.count(exception)

    def set_result(self, result: Any) -> NoReturn:  # noqa: ARG002 -- the signature is asyncio's
        """Refuse: the outcome is the callee's, and others may rely on it.

        Raises:
            RuntimeError: the call is out; `cancel` ends it.
            asyncio.InvalidStateError: it is done.
        """
        raise self._no_outcome("set_result")

    def set_exception(self, exception: Any) -> NoReturn:  # noqa: ARG002 -- likewise
        """Refuse, as `set_result` does."""
        raise self._no_outcome("set_exception")

    def _no_outcome(self, what: str) -> Exception:
        if self.done():
            return asyncio.InvalidStateError(f"{what}() is not for {self!r}: it has its outcome")
        return RuntimeError(
            f"{what}() is not for {self!r}: the outcome of a call is what its callee answers; "
            "cancel() ends it"
        )

    def accepted(self) -> None:
        """Learn that the callee took the request in, and that the outcome follows."""

    def replied(self) -> None:
        """Learn that the result is here, and given once the references in it are confirmed."""

    def send_again(self) -> Request | None:
        """Return what is to be sent at once in place of a request that a broken link may have lost.

        ``None``: nothing, since it might run twice, or since its policy will say when.
        """
        return None

    def __repr__(self) -> str:
        where = ""
        if self.site is not None:
            code, instruction = self.site
            line = _line(code, instruction)
            where = f" called at {code.co_filename}:{line} in {code.co_name}"
        return f"<RpcFuture {self._state.lower()} {self.function} on {self.owner}{where}>"


def _line(code: CodeType, instruction: int) -> int:
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end and number is not None:
            line = number
    return line


class Deadlines:
    """Fires ``expire(key)`` when the deadline of a call that is still live has come.

    Whoever adds a call to ``live`` compares its deadline with `armed`, and calls `arm` if it is
    earlier.

    Args:
        clock: gives the time and the one timer.
        live: the calls that matter, in the order in which they came, by keys that can be sorted.
            Each has a ``deadline``, 0 for never, and ``is_timed``, which is false at first and set
            here.
        expire: called on the loop with the key of a live call whose time has come.
    """

    def __init__(self, clock: Clock, live: dict[Any, Any], expire: Callable[[Any], None]) -> None:
        self._clock = clock
        self._live = live
        self._expire = expire
        self._heap: list[tuple[float, Any]] = []
        self.armed = math.inf
        """When the timer fires; no live call is over before."""
        self._timer: Any = None
        self._limit = _SPARE  # heap length at which to look for dead entries

    def arm(self, when: float) -> None:
        """Look at the calls at ``when``, which is earlier than `armed`."""
        if self._timer is not None:
            self._timer.cancel()
        self.armed = when
        self._timer = self._clock.call_at(when, self._fire)

    def close(self) -> None:
        """Forget everything; nothing fires afterwards."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self.armed = math.inf

    def __len__(self) -> int:
        return len(self._heap)

    def _fire(self) -> None:
        self._timer = None
        self.armed = math.inf
        self._collect()
        now = self._clock.time()
        heap = self._heap
        live = self._live
        while heap and (heap[0][0] <= now or heap[0][1] not in live):
            _, key = heappop(heap)
            call = live.get(key)
            if call is not None and 0 < call.deadline <= now:
                self._expire(key)
        if heap and heap[0][0] < self.armed:
            self.arm(heap[0][0])

    def _collect(self) -> None:
        """Put the calls that came since the timer fired last into the heap."""
        heap = self._heap
        found = []
        for key, call in reversed(self._live.items()):
            if call.is_timed:
                break  # as all are that came before it
            call.is_timed = True
            if call.deadline:
                found.append((call.deadline, key))
        if len(found) > len(heap):
            heap += found
            heapify(heap)
        else:
            for entry in found:
                heappush(heap, entry)
        if len(heap) > self._limit:
            heap[:] = [entry for entry in heap if entry[1] in self._live]
            heapify(heap)
            self._limit = 2 * len(heap) + _SPARE


def delivery_of(future: RpcFuture[Any]) -> Delivery:
    """Return what a failure here and now says of a call's delivery."""
    return Delivery.UNKNOWN if may_have_run(future) else Delivery.NOT_SENT


def may_have_run(future: RpcFuture[Any]) -> bool:
    """Whether a call may have run already."""
    return future.is_sent or future.may_have_run
