"""How long to wait before trying again, and how often: pure values, no clock and no I/O."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from random import Random
from typing import Any, Literal, cast

from asyncrpc.errors import (
    Delivery,
    InjectedFaultError,
    PeerLostError,
    RemoteError,
    RemoteProtocolError,
    ResourceExhaustedError,
    RpcError,
    RpcTimeoutError,
)

__all__ = ("RetryPolicy", "TokenBucket", "check_again", "check_policy", "full_jitter")

_TRANSIENT = (
    InjectedFaultError,
    PeerLostError,
    RemoteProtocolError,
    ResourceExhaustedError,
    RpcTimeoutError,
)
"""What may go well the next time; an unknown function or a value that cannot travel never does."""


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a call that failed is sent again.

    Args:
        max_retries: sends after the first one, at least 0.
        initial: seconds before the first retry, at least 0.
        multiplier: growth of the delay from one retry to the next, at least 1.
        max_delay: seconds, where the delay stops growing; ``None`` for never.
        jitter: ``"full"`` draws each delay from 0 to what it would be, ``"equal"`` from half of it,
            so that callers that failed together do not come back together; ``None`` draws nothing.
        retry_on: classes of errors that are retried. ``None``, or exceptions of the function alone,
            leave it at failures of the way to the callee that do not say that the function ran: a
            lost link, a time-out of the attempt, an injected fault, a callee that is full. Classes
            of such failures, `RpcError` and below, stand in their place. An exception of the
            function itself is retried only if it is listed, and runs the function anew, unless
            there are remote references among the arguments; after all other failures the same run
            is asked for again.
        per_attempt_timeout: seconds after which an attempt without an answer counts as failed,
            above 0; ``None`` for none. The callee goes on with it, and the next attempt joins it.
        seed: makes the jitter the same in every run; ``None`` draws afresh.

    Raises:
        ValueError: a value breaks its rule; the message names field, value and rule.
    """

    max_retries: int = 5
    initial: float = 1.0
    multiplier: float = 1.5
    max_delay: float | None = None
    jitter: Literal["full", "equal"] | None = None
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | None = None
    per_attempt_timeout: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if type(self.max_retries) is not int:
            raise ValueError(f"max_retries must be an int, got {self.max_retries!r}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries cannot be negative, got {self.max_retries}")
        _check_seconds("initial", self.initial)
        _check_number("multiplier", self.multiplier)
        if self.multiplier < 1:
            raise ValueError(
                "multiplier must be at least 1: retries cannot be exponentially decaying, "
                f"got {self.multiplier!r}"
            )
        if self.max_delay is not None:
            _check_seconds("max_delay", self.max_delay)
        if self.jitter not in (None, "full", "equal"):
            raise ValueError(f"jitter must be None, 'full' or 'equal', got {self.jitter!r}")
        if self.per_attempt_timeout is not None:
            _check_seconds("per_attempt_timeout", self.per_attempt_timeout)
            if self.per_attempt_timeout == 0:
                raise ValueError("per_attempt_timeout must be above 0 seconds or None, got 0")
        if self.seed is not None and type(self.seed) is not int:
            raise ValueError(f"seed must be an int or None, got {self.seed!r}")
        self._check_classes()

    def _check_classes(self) -> None:
        if self.retry_on is None:
            return
        given: Any = self.retry_on
        classes = (given,) if isinstance(given, type) else given
        if not isinstance(classes, (tuple, list)):
            raise ValueError(f"retry_on must be exception classes or None, got {given!r}")
        for cls in classes:
            if not isinstance(cls, type) or not issubclass(cls, BaseException):
                raise ValueError(f"retry_on must list exception classes, got {cls!r}")
        object.__setattr__(self, "retry_on", tuple(classes))

    def delay(self, k: int) -> float:
        """Return the seconds between a failure and the retry after it.

        Args:
            k: number of the retry, from 0.

        Returns:
            ``min(max_delay, initial * multiplier**k)``, less where there is jitter.
        """
        try:
            delay = self.initial * float(self.multiplier) ** k
        except OverflowError:
            delay = math.inf if self.initial else 0.0
        if self.max_delay is not None:
            delay = min(self.max_delay, delay)
        if self.jitter is None or math.isinf(delay):
            return delay
        # one generator per retry, so that a delay does not depend on those asked for before
        drawn = (Random() if self.seed is None else Random(f"{self.seed} {k}")).random()  # noqa: S311 -- no secret
        return delay * (drawn if self.jitter == "full" else (1 + drawn) / 2)

    def is_for(self, error: BaseException) -> bool:
        """Whether a failure is worth a retry."""
        listed: tuple[type[BaseException], ...] = cast("Any", self.retry_on) or ()
        if isinstance(error, listed):
            return True
        if any(issubclass(cls, RpcError) and cls is not RemoteError for cls in listed):
            return False
        return isinstance(error, _TRANSIENT) and error.delivery is not Delivery.EXECUTED


def check_again(retry: object, idempotent: object) -> bool | RetryPolicy:
    """Return when a call may be sent again, by what was given for it.

    Args:
        retry: a policy, or ``None``.
        idempotent: whether the function may run twice; a policy is more.

    Raises:
        ValueError: ``retry`` is no policy, or ``idempotent`` no bool.
    """
    if not isinstance(idempotent, bool):
        raise ValueError(f"idempotent must be a bool, got {idempotent!r}")
    return idempotent if retry is None else check_policy("retry", retry)


def check_policy(field: str, value: object) -> RetryPolicy:
    """Return a policy that was given.

    Args:
        field: name of the argument, for the message.
        value: what was given for it.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, RetryPolicy):
        or_none = "" if value is None else " or None"  # where None will do nobody asks
        raise ValueError(f"{field} must be a RetryPolicy{or_none}, got {value!r}")
    return value


class TokenBucket:
    """Lets so many things happen per second on average, and as many at once after a rest.

    Args:
        rate: tokens per second, above 0; the bucket holds as many, and at least one.
        now: the time in seconds.
    """

    __slots__ = ("_most", "_rate", "_since", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._most = self._tokens = max(1.0, rate)
        self._since = now

    def take(self, now: float) -> bool:
        """Take a token; false if there is none."""
        self._tokens = min(self._most, self._tokens + (now - self._since) * self._rate)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def full_jitter(
    attempt: int,
    initial: float,
    multiplier: float,
    max_delay: float,
    random: Callable[[], float],
) -> float:
    """Return a random delay up to the exponential one, so that many waiters spread out.

    Args:
        attempt: how many attempts failed before this one, from 0.
        initial: seconds, the first upper bound.
        multiplier: growth of the bound, at least 1.
        max_delay: seconds, where the bound stops growing.
        random: gives numbers from 0 to 1.

    Returns:
        Seconds from 0 to ``min(max_delay, initial * multiplier**attempt)``.

    Source:
        AWS Architecture Blog, "Exponential Backoff And Jitter": full jitter.
    """
    return random() * min(max_delay, initial * multiplier ** min(attempt, 64))


def _check_number(field: str, value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):  # type: ignore[arg-type]  # checked before
        raise ValueError(f"{field} must be a finite number, got {value!r}")


def _check_seconds(field: str, value: object) -> None:
    _check_number(field, value)
    if value < 0:  # type: ignore[operator]  # checked above
        raise ValueError(f"{field} cannot be negative, got {value!r}")
