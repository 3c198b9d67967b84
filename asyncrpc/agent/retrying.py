"""Calls that are sent again: attempts, back-off, budget, and what each failure means.

A call with a policy is one future; its attempts are sends of one request under one call id, which
the callee recognises (`keeping`), so the function runs once however often it is sent. There is no
task per call: the future itself takes each failure in, and either waits for its next attempt or
fails with it. Control messages go the same way, without budget; their handlers may run twice.

Theory of operation. An attempt fails when an error comes for it: from the callee, from a link that
broke, from the fault plan, or because ``per_attempt_timeout`` is over. In the last case the request
is still out and its answer still welcome: the next attempt is the same frame once more. After the
others the call *rests*: it is pending, but neither sent nor queued. What the function itself raised
ends the run; a retry then is a new run under a new call id.

Idempotent calls without a policy are here too: they are sent again at once when their link breaks,
and never for another reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.references import look_back
from asyncrpc.agent.request import Request
from asyncrpc.errors import (
    Delivery,
    RemoteError,
    RetriesExhaustedError,
    RpcError,
    RpcTimeoutError,
)
from asyncrpc.retry import RetryPolicy, TokenBucket
from asyncrpc.wire import CALLS, DEDUP, MessageType, encode_frame

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer
    from asyncrpc.observe import Timer

__all__ = ("RetriedFuture", "Retrier")

_REPLY_ACK = int(MessageType.REPLY_ACK)

T = TypeVar("T")


class RetriedFuture(RpcFuture[T]):
    """The outcome of a call that may be sent more than once.

    Attributes:
        retrier: decides what a failure means; ``None`` for a call that was refused unsent.
        policy: how often and when; ``None`` for an idempotent call without one.
        message: what is sent.
        attempts: sends so far, over all runs.
        doubts: sends of the present run that may have reached the callee.
        has_run: whether a run before the present one came to its end.
        kept: what holds the references in its arguments for further runs.
        failure: what the last attempt failed with.
        next: timer of the next attempt, ``None`` unless one is due.
        limit: timer of the present attempt's end, ``None`` for none.
    """

    __slots__ = (
        "attempts",
        "doubts",
        "failure",
        "has_run",
        "is_resting",
        "kept",
        "limit",
        "message",
        "next",
        "policy",
        "retrier",
    )

    retrier: Retrier | None
    policy: RetryPolicy | None
    message: Request
    attempts: int
    doubts: int
    has_run: bool
    is_resting: bool
    kept: Sequence[Any]
    failure: BaseException | None
    next: Timer | None
    limit: Timer | None

    def __init__(self, *, loop: Any) -> None:
        super().__init__(loop=loop)
        self.retrier = self.policy = self.failure = self.next = self.limit = None
        self.attempts = 1
        self.doubts = 0
        self.has_run = self.is_resting = False
        self.kept = ()

    @property
    def may_have_run(self) -> bool:  # type: ignore[override]  # constant for other calls
        """Whether an attempt of this run before the present one may have reached the callee."""
        return self.doubts > 0

    def succeed(self, result: T) -> None:
        """Take the reply; the callee need not keep it any longer."""
        super().succeed(result)
        if self.retrier is not None:
            self.retrier.answered(self)

    def fail(self, exception: Any) -> None:
        """Take a failure: it may be the last one, or only that of an attempt."""
        if self.retrier is not None:
            exception = self.retrier.failed(self, exception)
        if exception is not None:
            super().fail(exception)

    def replied(self) -> None:
        """Make no further attempt: see `RpcFuture.replied`."""
        if self.retrier is not None:
            self.retrier.replied(self)

    def give_up(self, error: BaseException) -> None:
        """Fail with ``error``, whatever could still come."""
        self.owner.withdraw(self)
        super().fail(error)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the call with all its attempts."""
        if not super().cancel(msg):
            return False
        if self.retrier is not None:
            self.retrier.stop_timers(self)
        return True

    def send_again(self) -> Request | None:
        """Return the request of an idempotent call without a policy."""
        if self.policy is not None or self.retrier is None:
            return None
        self.doubt()
        return self.message

    def doubt(self) -> None:
        """Note that the present send may have reached the callee."""
        self.doubts += 1
        if self.message.flags & DEDUP:
            self.message.count_attempt(self.doubts)


class Retrier:
    """Sends one agent's calls again.

    Args:
        agent: whose calls.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._clock = agent.clock
        rate = agent.options.retry_budget
        self._budget = None if rate is None else TokenBucket(rate, self._clock.time())
        self._due: dict[RetriedFuture[Any], None] = {}  # those that wait for their next attempt
        self._is_stopped = False
        self.count = 0
        """Attempts after the first ones, of all calls."""

    def begin(
        self, future: RetriedFuture[Any], request: Request, policy: RetryPolicy | None
    ) -> None:
        """Take charge of a call that is about to be sent."""
        future.retrier = self
        future.message = request
        future.policy = policy
        self._limit_attempt(future)

    def entrust(self, future: RetriedFuture[Any], enclosed: Sequence[Any]) -> None:
        """See to the references in a call with a policy: each run, and each worker, needs its own.

        Args:
            future: the call.
            enclosed: what its request encloses.
        """
        future.kept = self._agent.references.keep(enclosed)
        future.add_done_callback(self._look_back)

    def _look_back(self, done: asyncio.Future[Any]) -> None:
        """Hold the references no longer, and see to those of the last run."""
        assert isinstance(done, RetriedFuture)
        references, peer = self._agent.references, cast("Peer", done.owner)
        if done.has_run and (done.cancelled() or done._exception is not None):
            references.doubt(done.message.enclosed, peer)  # the error may tell of runs before it
        else:
            look_back(references, done.message.enclosed, peer, done)
        references.let_go(done.kept)
        done.kept = ()

    def stop(self) -> None:
        """End the back-off of all calls made outside of served ones, and retry no more of them.

        Functions that are served here and the agents' own messages go on: others wait for them.
        """
        self._is_stopped = True
        for future in tuple(self._due):
            if _is_own(future):
                assert future.failure is not None  # it waits because of one
                self._give_up(future, future.failure)

    def answered(self, future: RetriedFuture[Any]) -> None:
        """Have done with a call that was answered; the callee need not keep the reply."""
        self.stop_timers(future)
        self._acknowledge(future)

    def replied(self, future: RetriedFuture[Any]) -> None:
        """Let no attempt follow on one whose reply is here, by whichever way."""
        self.stop_timers(future)
        self._unqueue(future)
        future.is_resting = False

    def failed(self, future: RetriedFuture[Any], error: BaseException) -> BaseException | None:
        """Take in a failure of a call that was taken out of the pending ones for it.

        Returns:
            What the call fails with, ``None`` if it goes on.
        """
        if _is_ours(error) and error.delivery is Delivery.UNKNOWN:
            future.doubt()
        if future.next is not None and self._is_same_attempt(future, error):
            self._rest(future)
            return None
        self.stop_timers(future)
        final = self._verdict(future, error)
        if final is None and not _is_ours(error):
            final = self._begin_new_run(future, error)
        if final is None:
            self._rest(future)
            self._wait(future, error)
        elif not _is_ours(error) or error.delivery is Delivery.EXECUTED:
            self._acknowledge(future)
        elif future.may_have_run and self._may_go_on(future):
            peer: Any = future.owner
            peer.stop(future.call_id)  # nobody waits for it any more
        return final

    def stop_timers(self, future: RetriedFuture[Any]) -> None:
        """Let nothing happen to a call from here any more."""
        self._due.pop(future, None)
        for timer in (future.next, future.limit):
            if timer is not None:
                timer.cancel()
        future.next = future.limit = None

    # -- what a failure means

    def _is_same_attempt(self, future: RetriedFuture[Any], error: BaseException) -> bool:
        """Whether this is only more bad news of an attempt that has failed already."""
        policy = future.policy
        is_known = policy is not None and policy.is_for(error) and _is_ours(error)
        return is_known and self._may_go_on(future)

    def _may_go_on(self, future: RetriedFuture[Any]) -> bool:
        """Whether another attempt is possible, and cannot be a second run."""
        if self._agent.is_closed or 0 < future.deadline <= self._clock.time():
            return False
        peer: Any = future.owner
        return peer.is_present or not future.may_have_run

    def _verdict(self, future: RetriedFuture[Any], error: BaseException) -> BaseException | None:
        """Return what a call fails with because of an attempt's failure, ``None`` to try again."""
        policy = future.policy
        if (
            policy is None
            or not self._may_go_on(future)
            or not policy.is_for(error)
            or (self._is_stopped and _is_own(future))
        ):
            return _with_history(future, error)
        if future.attempts > policy.max_retries:
            exhausted = RetriesExhaustedError(
                "The RPC has not succeeded after the specified number of max retries "
                f"({policy.max_retries}).",
                attempts=future.attempts,
                delivery=error.delivery if _is_ours(error) else Delivery.EXECUTED,
            )
            exhausted.__cause__ = error
            return _with_history(future, exhausted)
        is_limited = future.is_user and self._budget is not None
        if is_limited and not cast("TokenBucket", self._budget).take(self._clock.time()):
            error.add_note("it was not tried again: the retry_budget of this worker is used up")
            return _with_history(future, error)
        return None

    # -- attempts

    def _rest(self, future: RetriedFuture[Any]) -> None:
        """Keep a call that is neither sent nor queued pending."""
        self._unqueue(future)
        future.is_sent = future.counts = False
        future.is_resting = True
        self._agent.caller.put_back(future)

    def _unqueue(self, future: RetriedFuture[Any]) -> None:
        peer: Any = future.owner
        if not (future.is_sent or future.is_resting):
            peer.unqueue(future)  # its reply came by another way

    def _wait(self, future: RetriedFuture[Any], error: BaseException) -> None:
        """Wait for the time of the next attempt."""
        assert future.policy is not None  # there is no next one without
        future.failure = error
        when = self._clock.time() + future.policy.delay(future.attempts - 1)
        future.next = self._clock.call_at(when, self._try_again, future)
        self._due[future] = None

    def _begin_new_run(
        self, future: RetriedFuture[Any], error: BaseException
    ) -> BaseException | None:
        """Give a call whose function came to its end another id, so that it runs once more.

        Returns:
            The error if it cannot: what a reference among its arguments refers to is gone.
        """
        if future.kept:
            peer: Any = future.owner
            try:
                self._agent.references.enclose_again(future.message, future.kept, peer)
            except RpcError as problem:
                error.add_note(f"it was not run again: {problem}")
                return error
        self._acknowledge(future)
        future.has_run = True
        future.doubts = 0
        future.call_id = future.message.call_id = self._agent.tally.other_id()
        if future.message.meta:
            future.message.count_attempt(0)
        return None

    def _try_again(self, future: RetriedFuture[Any]) -> None:
        future.next = None
        del self._due[future]
        self.count += 1
        future.attempts += 1
        self._limit_attempt(future)
        peer: Any = future.owner
        if future.is_sent:
            peer.repeat(future.message)
        elif future.is_resting:
            self._submit(future, peer)

    def _submit(self, future: RetriedFuture[Any], peer: Peer) -> None:
        if not peer.is_present:
            try:  # nothing can have reached it: its successor will do
                successor = self._agent.members.route(peer.info.name)
                if future.kept:
                    self._agent.references.take_back(future.message.enclosed, peer)
                    self._agent.references.enclose_again(future.message, future.kept, successor)
                future.owner = peer = successor
            except RpcError as error:
                del self._agent.pending[future.call_id]
                future.fail(error)
                return
        future.is_resting = False
        peer.submit(future.message, future, counts=future.message.kind in CALLS)

    def _limit_attempt(self, future: RetriedFuture[Any]) -> None:
        policy = future.policy
        if policy is not None and policy.per_attempt_timeout is not None:
            when = self._clock.time() + policy.per_attempt_timeout
            future.limit = self._clock.call_at(when, self._attempt_over, future)

    def _attempt_over(self, future: RetriedFuture[Any]) -> None:
        """Count an attempt as failed; what is out stays out, since its answer may come yet."""
        future.limit = None
        if future.is_sent:
            future.doubt()
        error = RpcTimeoutError(
            f"attempt {future.attempts} of {future.function} on {future.owner} had no answer in "
            "its per_attempt_timeout",
            delivery=Delivery.UNKNOWN if future.may_have_run else Delivery.NOT_SENT,
            phase="execute" if future.is_sent else "send",
        )
        final = self._verdict(future, error)
        if final is None:
            self._wait(future, error)
        else:
            self._give_up(future, final)

    def _give_up(self, future: RetriedFuture[Any], error: BaseException) -> None:
        self.stop_timers(future)
        future.give_up(error)

    def _acknowledge(self, future: RetriedFuture[Any]) -> None:
        peer: Any = future.owner
        if future.message.flags & DEDUP and peer.connection is not None:
            peer.connection.send(encode_frame(_REPLY_ACK, future.call_id))


def _is_ours(error: BaseException) -> TypeGuard[RpcError]:
    """Whether the way to the callee failed, not the function."""
    return isinstance(error, RpcError) and not isinstance(error, RemoteError)


def _is_own(future: RetriedFuture[Any]) -> bool:
    """Whether a call was made by this worker's own program, not by a function it serves."""
    return future.is_user and not future.message.depth


def _with_history(future: RetriedFuture[Any], error: BaseException) -> BaseException:
    """Make a last error tell what the attempts before it did."""
    if _is_ours(error) and error.delivery is not Delivery.EXECUTED:
        if future.has_run:
            error.delivery = Delivery.EXECUTED
        elif future.may_have_run:
            error.delivery = Delivery.UNKNOWN
    if error.__cause__ is None and future.failure not in (None, error):
        error.__cause__ = future.failure
    return error
