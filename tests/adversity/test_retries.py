"""Calls with a policy under every loss: each function runs once, and each error is true.

What really ran is written down by the functions themselves; whatever a caller is told is compared
with that. `make soak` runs many more seeds.
"""

from __future__ import annotations

import asyncio
import collections
import os
import random
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.adversity import handlers
from tests.agent.groups import at_rest

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(120)]

CALLS = 60
SEEDS = int(os.environ.get("RETRY_SEEDS", "4"))
"""Schedules for each rate and kind of trouble: one takes some 0.2 s; `make soak` runs 200."""
PATIENT = rpc.RpcOptions(heartbeat_misses=1_000_000)
LOSSES = ("request lost", "request refused", "reply lost", "executed but error")
DISORDER = ("duplicate", "delay", "reorder", "disconnect")


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
async def test_three_ways_to_lose(rate: float, seed: int) -> None:
    """Lost requests, lost replies and errors after the run, alone and together."""
    rules = {
        "request lost": rpc.Fault("drop", "PYTHON_CALL", probability=rate),
        "request refused": rpc.Fault("fail", "PYTHON_CALL", probability=rate, direction="in"),
        "reply lost": rpc.Fault("drop", "PYTHON_RET", probability=rate),
        "executed but error": rpc.Fault("fail", "PYTHON_RET", probability=rate),
    }
    chosen = random.Random(seed).choice([*[(loss,) for loss in LOSSES], *[LOSSES] * 4])
    await check([rules[loss] for loss in chosen], seed)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("rate", [0.01, 0.1])
async def test_disorder(rate: float, seed: int) -> None:
    """Copies, delays, overtaking and links that break, together with losses."""
    rules = [
        rpc.Fault(kind, message, probability=rate, direction=direction, delay=0.7)  # type: ignore[arg-type]
        for kind in ("drop", *DISORDER)
        for message in ("PYTHON_CALL", "PYTHON_RET", "CANCEL", "REPLY_ACK")
        for direction in ("out", "in")
    ]
    await check(rules, seed)


async def check(rules: list[rpc.Fault], seed: int) -> None:
    """Let two workers call each other, and compare what each call was told with what ran."""
    handlers.RUNS.clear()
    clock = VirtualClock()
    plan = rpc.FaultPlan(rules, seed=seed)
    choose = random.Random(seed)
    async with cluster(2, clock=clock, options=PATIENT, faults=plan) as agents:
        calls = [start(choose, agents, number) for number in range(CALLS)]
        for call in calls:
            if choose.random() < 0.1:
                clock.call_at(choose.random() * 8, call.cancel)
        for _ in range(400):
            await clock.advance(0.5)
            await asyncio.sleep(0)
            if all(call.done() for call in calls):
                break
        told = await asyncio.gather(*calls, return_exceptions=True)
        left = await at_rest_on(clock, agents)

    wrong = [(n, what, handlers.RUNS[n]) for n, what in enumerate(told) if not is_true(n, what)]
    assert [] == wrong[:5]
    assert {} == left


def start(choose: random.Random, agents: list[Any], number: int) -> Any:
    """Start a call of some kind with some policy."""
    policy = rpc.RetryPolicy(
        max_retries=choose.choice([0, 2, 5, 10]),
        initial=choose.choice([0, 0.1, 1]),
        max_delay=4,
        jitter=choose.choice([None, "full", "equal"]),
        per_attempt_timeout=choose.choice([0.4, 1.1, 3]),
        seed=number,
    )
    caller = number % 2
    to = f"worker{choose.choice([1 - caller, 1 - caller, caller])}"
    func = choose.choice([handlers.small, handlers.threaded, handlers.failing])
    timeout = choose.choice([None, None, 2.5, 20])
    return agents[caller].rpc_async(to, func, args=(number,), retry=policy, timeout=timeout)


def is_true(number: int, what: object) -> bool:
    """Whether a caller was told what happened."""
    runs = handlers.RUNS[number]
    if not isinstance(what, BaseException):
        return (runs, what) == (1, handlers.expected(number))
    if isinstance(what, asyncio.CancelledError):
        return runs <= 1
    if isinstance(what, KeyError):
        return (runs, what.args) == (1, (number,))
    if not isinstance(what, rpc.RpcError):
        return False
    least, most = {
        rpc.Delivery.NOT_SENT: (0, 0),
        rpc.Delivery.UNKNOWN: (0, 1),
        rpc.Delivery.EXECUTED: (1, 1),
    }[what.delivery]
    return least <= runs <= most


async def at_rest_on(clock: VirtualClock, agents: list[Any]) -> dict[str, int]:
    """Let what is delayed come, and return what is left in the tables."""
    for agent in agents:
        agent._agent.fault_hook._plans = ()
    for _ in range(10):
        await clock.advance(5)
        left = await at_rest(agents, 0.5)
        if not left:
            break
    return left


async def test_the_check_sees_lies() -> None:
    """A run too many, one too few, and a wrong result are found."""
    handlers.RUNS.clear()
    handlers.RUNS.update({1: 1, 2: 2})
    never, unknown, ran = (
        rpc.RpcError("x", delivery=getattr(rpc.Delivery, name))
        for name in ("NOT_SENT", "UNKNOWN", "EXECUTED")
    )
    cases = collections.OrderedDict(
        {
            (1, handlers.expected(1)): True,
            (1, "wrong"): False,
            (2, handlers.expected(2)): False,
            (1, never): False,
            (3, never): True,
            (1, unknown): True,
            (2, unknown): False,
            (3, ran): False,
            (1, ran): True,
        }
    )

    assert [*cases.values()] == [is_true(number, what) for number, what in cases]
