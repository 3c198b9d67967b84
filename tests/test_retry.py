"""A policy says exactly when, repeats itself for a seed, and refuses what makes no sense."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.retry import RetryPolicy, TokenBucket, full_jitter


def test_delays_of_the_defaults() -> None:
    """The first is the initial one; each is 1.5 times the one before."""
    policy = RetryPolicy()

    assert [1, 1.5, 2.25, 3.375, 5.0625] == [policy.delay(k) for k in range(5)]
    assert rpc.RetryPolicy is RetryPolicy


def test_delays_stop_growing() -> None:
    """No delay is above the longest one, whatever the exponent."""
    policy = RetryPolicy(initial=2, multiplier=10, max_delay=7)

    assert [2, 7, 7, 7] == [policy.delay(k) for k in (0, 1, 2, 100_000)]
    assert math.inf == RetryPolicy().delay(100_000)
    assert 0 == RetryPolicy(initial=0).delay(100_000)


@pytest.mark.parametrize(("jitter", "least"), [("full", 0.0), ("equal", 0.5)])
def test_jitter(jitter: Any, least: float) -> None:
    """A seed gives the same delays in any order, another seed others; all are within bounds."""
    policy = RetryPolicy(jitter=jitter, seed=7)
    delays = [policy.delay(k) for k in range(200)]
    again = [policy.delay(k) for k in reversed(range(200))][::-1]
    other = [RetryPolicy(jitter=jitter, seed=8).delay(k) for k in range(200)]
    shares = [delay / 1.5**k for k, delay in enumerate(delays)]

    assert delays == again
    assert delays != other
    assert least <= min(shares) < least + 0.1
    assert 0.9 < max(shares) <= 1


def test_jitter_without_a_seed() -> None:
    """Without a seed nobody waits as long as another."""
    policy = RetryPolicy(jitter="full")

    assert len({policy.delay(0) for _ in range(20)}) > 1


def test_policies_are_values() -> None:
    """Equal fields, equal policies; they can be kept in sets and travel."""
    policy = RetryPolicy(3, 0.5, retry_on=ValueError)

    assert {policy} == {RetryPolicy(max_retries=3, initial=0.5, retry_on=(ValueError,))}
    assert policy == pickle.loads(pickle.dumps(policy))
    with pytest.raises(AttributeError):
        policy.initial = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"max_retries": -1}, "max_retries cannot be negative"),
        ({"max_retries": 1.5}, "max_retries must be an int"),
        ({"max_retries": True}, "max_retries must be an int"),
        ({"initial": -0.1}, "initial cannot be negative"),
        ({"initial": math.nan}, "initial must be a finite number"),
        ({"initial": "1"}, "initial must be a finite number"),
        (
            {"multiplier": 0.9},
            "multiplier must be at least 1: retries cannot be exponentially decaying",
        ),
        ({"multiplier": math.inf}, "multiplier must be a finite number"),
        ({"max_delay": -1}, "max_delay cannot be negative"),
        ({"jitter": "half"}, "jitter must be None, 'full' or 'equal', got 'half'"),
        ({"retry_on": "ValueError"}, "retry_on must be exception classes"),
        ({"retry_on": (int,)}, "retry_on must list exception classes, got <class 'int'>"),
        ({"per_attempt_timeout": 0}, "per_attempt_timeout must be above 0"),
        ({"per_attempt_timeout": -1}, "per_attempt_timeout cannot be negative"),
        ({"seed": "x"}, "seed must be an int"),
    ],
)
def test_bad_policies(bad: Any, text: str) -> None:
    """A value that makes no sense is named with its field and the rule."""
    with pytest.raises(ValueError, match=text):
        RetryPolicy(**bad)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (rpc.PeerLostError("x"), True),
        (rpc.PeerLostError("x", delivery=rpc.Delivery.NOT_SENT), True),
        (rpc.RpcTimeoutError("x"), True),
        (rpc.InjectedFaultError("x"), True),
        (rpc.InjectedFaultError("x", delivery=rpc.Delivery.EXECUTED), False),
        (rpc.ResourceExhaustedError("x"), True),
        (rpc.FunctionNotFoundError("x"), False),
        (rpc.EncodingError("x"), False),
        (rpc.PermissionDeniedError("x"), False),
        (rpc.RemoteError("x"), False),
        (ValueError("x"), False),
    ],
)
def test_what_is_retried(error: BaseException, expected: bool) -> None:
    """Without a list: what the way to the callee did, unless the function ran."""
    assert expected is RetryPolicy().is_for(error)


def test_listed_exceptions() -> None:
    """Listed exceptions of the function are retried beside the failures of the way to it."""
    policy = RetryPolicy(retry_on=(KeyError, rpc.RemoteError))

    assert policy.is_for(KeyError("x"))
    assert policy.is_for(rpc.RemoteError("x"))
    assert policy.is_for(rpc.PeerLostError("x"))
    assert not policy.is_for(ValueError("x"))
    assert not policy.is_for(rpc.FunctionNotFoundError("x"))


def test_listed_failures() -> None:
    """Listed failures of the way are the only ones of their kind that are retried."""
    policy = RetryPolicy(retry_on=(KeyError, rpc.PeerLostError))

    assert policy.is_for(KeyError("x"))
    assert policy.is_for(rpc.PeerLostError("x"))
    assert not policy.is_for(rpc.RpcTimeoutError("x"))
    assert not policy.is_for(rpc.InjectedFaultError("x"))


@pytest.mark.parametrize("bad", [0, -1, "3", True, math.nan, math.inf])
def test_bad_budgets(bad: Any) -> None:
    """A budget is a rate."""
    with pytest.raises(ValueError, match="retry_budget must be a number above 0"):
        rpc.RpcOptions(retry_budget=bad)


@pytest.mark.parametrize("bad", [3, "twice", True])
def test_bad_default_policies(bad: Any) -> None:
    """The default policy is a policy."""
    with pytest.raises(ValueError, match="retry must be a RetryPolicy or None"):
        rpc.RpcOptions(retry=bad)


def test_token_bucket() -> None:
    """A full bucket gives its tokens at once, then as many per second as its rate."""
    bucket = TokenBucket(2, now=0)
    at_once = [bucket.take(0) for _ in range(3)]
    later = [bucket.take(0.5), bucket.take(0.5), bucket.take(100), bucket.take(100)]
    slow = TokenBucket(0.1, now=0)

    assert [True, True, False] == at_once
    assert [True, False, True, True] == later
    assert [True, False, True] == [slow.take(now) for now in (0, 9.9, 10)]
    assert not bucket.take(100)


def test_full_jitter() -> None:
    """The bound grows with the attempts up to the longest delay."""
    assert [0.5, 1, 1.5] == [full_jitter(n, 1, 2, 3, lambda: 0.5) for n in range(3)]
    assert 3 == full_jitter(100_000, 1, 2, 3, lambda: 1)
