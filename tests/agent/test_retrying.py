"""A call with a policy runs once however often it is sent, in time, and tells the truth."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from typing import Any

import numpy as np
import pytest

import asyncrpc as rpc
from asyncrpc.store import MemoryStore
from asyncrpc.testing import VirtualClock, cluster
from asyncrpc.transport import MemoryNetwork
from tests.agent import targets
from tests.agent.groups import ProxiedNetwork, any_network, at_rest, link, until
from tests.agent.test_dynamic import OPTIONS, group
from tests.rref import workers

pytestmark = pytest.mark.asyncio

DELAYS = [1, 1.5, 2.25, 3.375, 5.0625]
PATIENT = rpc.RpcOptions(heartbeat_misses=1_000_000)


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    targets.log.clear()


def plans(*rules: rpc.Fault, worker: int = 0, n: int = 2) -> list[rpc.FaultPlan | None]:
    """Give one worker a plan."""
    return [rpc.FaultPlan(rules) if rank == worker else None for rank in range(n)]


def note(agent: Any, value: object, retry: rpc.RetryPolicy | None = None, **options: Any) -> Any:
    """Make a call that leaves a trace on the callee."""
    options.setdefault("timeout", None)
    return agent.rpc_async(
        "worker1",
        targets.note_and_wait,
        args=(value, 0),
        retry=retry or rpc.RetryPolicy(),
        **options,
    )


async def failure_of(call: Any) -> Any:
    """Return what a call fails with."""
    results: list[Any] = [*await asyncio.gather(call, return_exceptions=True)]
    assert isinstance(results[0], BaseException), results
    return results[0]


def kept(agent: Any, name: str) -> int:
    """Return how many replies an agent keeps for a worker."""
    return len(agent._agent.members.known(name).kept._window)


# -- when


async def test_exact_delays() -> None:
    """Each attempt is made exactly when its delay is over, counted from the failure."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("fail", "PYTHON_CALL")])
    async with cluster(2, faults=[plan, None], clock=clock) as (a, _):
        call = note(a, 1)
        await clock.advance(0)
        counts = [len(plan.events)]
        for delay in DELAYS:
            await clock.advance(delay - 0.0001)
            counts.append(len(plan.events))
            await clock.advance(0.0001)
            counts.append(len(plan.events))
        error = await failure_of(call)
        retries = a.debug_info()["agent.retries"]

    assert [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6] == counts
    assert isinstance(error, rpc.RetriesExhaustedError)
    text = "The RPC has not succeeded after the specified number of max retries (5)."
    assert (text, 6) == (str(error), error.attempts)
    assert isinstance(error.__cause__, rpc.InjectedFaultError)
    assert rpc.Delivery.NOT_SENT is error.delivery
    assert ("5", []) == (retries, targets.log)


async def test_failing_three_times() -> None:
    """The reference's faulty agent fails three sends of each message; the fourth passes."""
    clock = VirtualClock()
    options = rpc.FaultyRpcOptions(num_fail_sends=3, messages_to_fail=["PYTHON_CALL"])
    async with cluster(2, options=options, clock=clock) as (a, _):
        calls = [note(a, n) for n in range(3)]
        await clock.advance(1 + 1.5 + 2.2499)
        early = list(targets.log)
        await clock.advance(0.0001)
        values = await asyncio.gather(*calls)

    assert ([], [0, 1, 2]) == (early, targets.log)
    assert [0, 1, 2] == values


async def test_delay_counts_from_the_failure() -> None:
    """An attempt that fails late does not shorten the delay after it."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("drop", "PYTHON_CALL")])
    policy = rpc.RetryPolicy(max_retries=2, per_attempt_timeout=10)
    async with cluster(2, faults=[plan, None], clock=clock, options=PATIENT) as (a, _):
        call = note(a, 1, policy)
        counts = []
        for seconds in (10.9, 0.1, 11.4, 0.1, 9.9):
            await clock.advance(seconds)
            counts.append(len(plan.events))
        is_open = not call.done()
        await clock.advance(0.1)
        error = await failure_of(call)

    assert ([1, 2, 2, 3, 3], True) == (counts, is_open)
    assert isinstance(error, rpc.RetriesExhaustedError)
    assert isinstance(error.__cause__, rpc.RpcTimeoutError)
    assert rpc.Delivery.UNKNOWN is error.delivery


async def test_jitter_is_that_of_the_policy() -> None:
    """The delays are those that the policy's seed gives."""
    clock = VirtualClock()
    policy = rpc.RetryPolicy(max_retries=1, jitter="full", seed=3)
    plan = rpc.FaultPlan([rpc.Fault("fail", "PYTHON_CALL")])
    async with cluster(2, faults=[plan, None], clock=clock) as (a, _):
        call = note(a, 1, policy)
        await clock.advance(policy.delay(0) - 0.0001)
        before = len(plan.events)
        await clock.advance(0.0001)
        await failure_of(call)

    assert (1, 2) == (before, len(plan.events))


# -- once


@pytest.mark.parametrize(
    ("fault", "worker"),
    [
        (rpc.Fault("drop", "PYTHON_CALL", times=2), 0),
        (rpc.Fault("drop", "PYTHON_CALL", times=2, direction="in"), 1),
        (rpc.Fault("fail", "PYTHON_CALL", times=2, direction="in"), 1),
        (rpc.Fault("drop", "PYTHON_RET", times=2), 1),
        (rpc.Fault("drop", "PYTHON_RET", times=2, direction="in"), 0),
        (rpc.Fault("duplicate", "PYTHON_CALL"), 0),
        (rpc.Fault("delay", "PYTHON_CALL", delay=2.5), 0),
        (rpc.Fault("delay", "PYTHON_RET", delay=2.5), 1),
        (rpc.Fault("disconnect", "PYTHON_CALL", times=2), 0),
        (rpc.Fault("disconnect", "PYTHON_RET", times=2), 1),
        (rpc.Fault("corrupt", "PYTHON_CALL", times=2), 0),
    ],
)
async def test_runs_once(fault: rpc.Fault, worker: int) -> None:
    """Whatever is lost, late or doubled, the function runs once and the result comes."""
    clock = VirtualClock()
    policy = rpc.RetryPolicy(per_attempt_timeout=1)
    async with cluster(2, faults=plans(fault, worker=worker), clock=clock, options=PATIENT) as (
        a,
        b,
    ):
        call = note(a, 1, policy)
        await clock.advance(30)
        value = await call
        await clock.advance(30)
        left = await at_rest((a, b))
        replies = kept(b, "worker0")

    assert (1, [1]) == (value, targets.log)
    assert ({}, 0) == (left, replies)


async def test_executed_but_error() -> None:
    """An answer that says that the function ran is not asked for again."""
    faults = plans(rpc.Fault("fail", "PYTHON_RET"), worker=1)
    async with cluster(2, faults=faults) as (a, b):
        error = await failure_of(note(a, 1))
        await until(lambda: not kept(b, "worker0"))

    assert isinstance(error, rpc.InjectedFaultError)
    assert (rpc.Delivery.EXECUTED, [1]) == (error.delivery, targets.log)


@pytest.mark.parametrize("policy", [rpc.RetryPolicy(1), rpc.RetryPolicy(5)])
async def test_what_may_have_run_stays_in_doubt(policy: rpc.RetryPolicy) -> None:
    """An attempt that was surely not sent says nothing of the one before it."""
    clock = VirtualClock()
    lost = rpc.Fault("disconnect", "PYTHON_RET", direction="in", times=1)
    async with cluster(2, faults=plans(lost), clock=clock) as (a, _):
        call = note(a, 1, policy, timeout=20)
        await clock.advance(0)
        hook: Any = a._agent.fault_hook
        hook._plans = (rpc.FaultPlan([rpc.Fault("fail", "PYTHON_CALL")]),)
        await clock.advance(20)
        error = await failure_of(call)

    assert (rpc.RetriesExhaustedError, [1]) == (type(error), targets.log)
    assert rpc.Delivery.UNKNOWN is error.delivery
    assert rpc.Delivery.NOT_SENT is error.__cause__.delivery


async def test_executed_but_error_on_request() -> None:
    """Where such an error is listed, the reply of the one run is asked for again."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("fail", "PYTHON_RET", times=2), worker=1)
    policy = rpc.RetryPolicy(retry_on=rpc.InjectedFaultError)
    async with cluster(2, faults=faults, clock=clock) as (a, _):
        call = note(a, 1, policy)
        await clock.advance(2.5)
        value = await call

    assert (1, [1]) == (value, targets.log)


@pytest.mark.parametrize("kind", [targets.note_and_wait, targets.block])
async def test_joins_the_run_under_way(kind: Any) -> None:
    """An attempt that is made while the function runs waits for that run, in a thread too."""
    async with cluster(2) as (a, b):
        policy = rpc.RetryPolicy(initial=0.01, per_attempt_timeout=0.01, max_retries=1000)
        args = (0.2,) if kind is targets.block else (1, 0.2)
        await a.rpc_async("worker1", kind, args=args, retry=policy)
        served = b.debug_info()["agent.calls_served"]
        retries = int(a.debug_info()["agent.retries"])

    assert ("1", True) == (served, retries > 1)


@pytest.mark.parametrize("kind", ["memory", "tcp", "proxied"])
async def test_cut_links(kind: str) -> None:
    """Calls survive the links that are cut under them, each with one run."""
    policy = rpc.RetryPolicy(initial=0.005, max_retries=100)
    async with any_network(kind) as network, cluster(2, network=network) as agents:
        a, b = agents
        func = targets.note_and_wait
        calls = [
            a.rpc_async("worker1", func, args=(n, 0.01 * (n % 20)), retry=policy)
            for n in range(200)
        ]
        for number in range(12):
            await asyncio.sleep(0.015)
            if isinstance(network, ProxiedNetwork):
                network.cut(reset=number % 2 == 0)
            elif near := link((a, b)[number % 2], f"worker{1 - number % 2}"):
                near.stream.abort()
        values = await asyncio.gather(*calls)
        left = await at_rest(agents)

    assert [*range(200)] == values
    assert [*range(200)] == sorted(targets.log)  # type: ignore[type-var]
    assert {} == left


async def test_a_broken_link_leaves_the_run_alone() -> None:
    """The run that a link brought goes on without it, and its caller gets that run's result."""
    async with cluster(2) as (a, b):
        policy = rpc.RetryPolicy(initial=0.3)
        call = a.rpc_async("worker1", targets.sleep, args=(0.05,), retry=policy)
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "1")
        link(b, "worker0").stream.abort()
        await call

    assert ["slept"] == targets.log


async def test_large_values() -> None:
    """Large arguments and results are sent again as they were, whatever becomes of the array."""
    clock = VirtualClock()
    rules = [rpc.Fault("drop", "PYTHON_RET", times=1)]
    async with cluster(2, faults=plans(*rules, worker=1), clock=clock, options=PATIENT) as (a, _):
        func, policy = targets.shared_array, rpc.RetryPolicy(per_attempt_timeout=1)
        args = (np.ones(200_000),)
        call = a.rpc_async("worker1", func, args=args, retry=policy, timeout=None)
        await clock.advance(0)
        targets.array[:] = 5
        await clock.advance(2)
        value = await call

    assert [2.0] == list(np.unique(value))
    assert ["array"] == targets.log


@pytest.mark.slow
async def test_a_slow_transfer_is_not_begun_again() -> None:
    """A large request that has not left completely goes on, however short the attempts are."""
    async with ProxiedNetwork() as network, cluster(2, network=network) as (a, _):
        await a.rpc_async("worker1", targets.who)
        for proxy in network.proxies.values():
            proxy.set(bandwidth=20 << 20)
        policy = rpc.RetryPolicy(initial=0.01, per_attempt_timeout=0.02, max_retries=1000)
        size = await a.rpc_async("worker1", len, args=(bytes(8 << 20),), retry=policy)

    assert 8 << 20 == size


# -- exceptions of the function


async def test_exceptions_are_not_retried() -> None:
    """What the function raises is its answer."""
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", targets.note_and_fail, args=(5,), retry=rpc.RetryPolicy())
        with pytest.raises(ValueError, match="run 1"):
            await call
        await until(lambda: not kept(b, "worker0"))

    assert [1] == targets.log


async def test_listed_exceptions_are_new_runs() -> None:
    """A listed exception runs the function again, by the policy's delays, until it does well."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        policy = rpc.RetryPolicy(retry_on=(ValueError,))
        call = a.rpc_async(
            "worker1", f"{targets.__name__}:note_and_fail", args=(2,), retry=policy, timeout=9
        )
        await clock.advance(0)
        runs = [len(targets.log)]
        for seconds in (0.999, 0.001, 1.499, 0.001):
            await clock.advance(seconds)
            runs.append(len(targets.log))
        value = await call
        left = await at_rest((a, b)), kept(b, "worker0")

    assert [1, 1, 2, 2, 3] == runs
    assert (3, ({}, 0)) == (value, left)


@pytest.mark.parametrize("place", ["plain", "pickled"])
async def test_each_run_gets_references_of_its_own(place: str) -> None:
    """A new run reads what the first one did, though that has released its references."""
    clock = VirtualClock()
    async with cluster(3, clock=clock, options=PATIENT) as agents:
        a = agents[0]
        policy = rpc.RetryPolicy(retry_on=ValueError)
        mine, other = a.rref(7), a.remote("worker2", targets.add, args=(1, 2))
        given: Any = [mine, other] if place == "plain" else workers.Box([mine, other, bytes(5000)])
        call = a.rpc_async("worker1", targets.read_twice, args=(given,), retry=policy)
        await clock.advance(0.5)
        assert ["failed [7, 3]"] == targets.log
        del mine, other, given  # the call holds them
        gc.collect()
        await clock.advance(10)
        assert [7, 3] == await call
        assert ["failed [7, 3]", "read [7, 3]"] == targets.log
        del call
        await clock.advance(1)
        assert {} == await workers.empty(agents)


async def test_a_run_without_its_references_is_not_begun() -> None:
    """When the owner is lost between two runs the call fails with the run's error, and says so."""
    clock = VirtualClock()
    async with cluster(3, clock=clock, options=PATIENT) as agents:
        a = agents[0]
        other = a.remote("worker2", targets.add, args=(1, 2))
        await other
        policy = rpc.RetryPolicy(retry_on=ValueError)
        call = a.rpc_async("worker1", targets.end_the_owner, args=(other,), retry=policy)
        await clock.advance(20)
        error = await failure_of(call)
        assert (ValueError, "ended") == (type(error), str(error))
        assert "it was not run again: the owner was lost" in error.__notes__[0]
        del call, other, error
        gc.collect()
        assert {} == await workers.empty(agents[:2])


async def test_a_reply_that_is_held_ends_the_attempts() -> None:
    """Its references are confirmed only after the next attempt was due: none is made."""
    clock = VirtualClock()
    late = rpc.FaultPlan([rpc.Fault("delay", "RREF_FORK_REQUEST", delay=5)])
    slow = rpc.FaultPlan([rpc.Fault("delay", "PYTHON_RET", delay=1.5)])
    async with cluster(3, clock=clock, faults=[late, slow, None], options=PATIENT) as agents:
        a = agents[0]
        other = a.remote("worker2", targets.add, args=(1, 2))
        await other
        policy = rpc.RetryPolicy(per_attempt_timeout=1)
        call = a.rpc_async("worker1", workers.echo, args=([other],), retry=policy, timeout=20)
        await clock.advance(6)
        assert not call.done()
        await clock.advance(1)
        assert [3] == [await rref for rref in await call]
        assert "0" == a.debug_info()["agent.retries"]
        del call, other
        await clock.advance(10)
        assert {} == await workers.empty(agents)


async def test_references_go_to_a_successor() -> None:
    """A call that never came to a worker is made to the next one of its name, references too."""
    clock = VirtualClock()
    faults = rpc.FaultPlan([rpc.Fault("fail", "PYTHON_CALL", peer="b", times=1)])
    async with group(clock=clock) as join:
        a = await join("a", options=dataclasses.replace(OPTIONS, faults=faults))
        old = await join("b")
        await clock.advance(1)
        mine = a.rref(7)
        call = a.rpc_async("b", targets.read, args=(mine,), retry=rpc.RetryPolicy())
        await clock.advance(0.1)
        await old.shutdown(graceful=False)
        new = await join("b")
        await clock.advance(0.1)
        del mine
        gc.collect()
        await clock.advance(5)
        assert 7 == await call
        del call
        await clock.advance(1)
        assert {} == await workers.empty([a, new])


async def test_lost_replies_of_several_runs() -> None:
    """Each run is asked for until its outcome comes, which decides whether there is another."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("drop", "PYTHON_RET", times=3), worker=1)
    async with cluster(2, faults=faults, clock=clock, options=PATIENT) as (a, _):
        policy = rpc.RetryPolicy(retry_on=ValueError, per_attempt_timeout=1)
        func = f"{targets.__name__}:note_and_fail"
        call = a.rpc_async("worker1", func, args=(2,), retry=policy, timeout=None)
        await clock.advance(30)
        value = await call

    assert (3, [1, 2, 3]) == (value, targets.log)


async def test_deadline_over_several_runs() -> None:
    """The time of a call is that of all its runs together."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, _):
        policy = rpc.RetryPolicy(retry_on=(ValueError,), max_retries=100)
        func = f"{targets.__name__}:note_and_fail"
        call = a.rpc_async("worker1", func, args=(100,), retry=policy, timeout=2.6)
        await clock.advance(2.6)
        error = await failure_of(call)

    assert (rpc.RpcTimeoutError, rpc.Delivery.EXECUTED) == (type(error), error.delivery)
    assert ("run 3", [1, 2, 3]) == (str(error.__cause__), targets.log)


async def test_listed_exceptions_run_out() -> None:
    """The last of the exceptions is the cause in the end, and it is known that the function ran."""
    async with cluster(2) as (a, _):
        policy = rpc.RetryPolicy(2, 0.0, retry_on=ValueError)
        error = await failure_of(
            a.rpc_async("worker1", targets.note_and_fail, args=(9,), retry=policy)
        )

    assert (3, "run 3") == (error.attempts, str(error.__cause__))
    assert rpc.Delivery.EXECUTED is error.delivery


# -- ends


@pytest.mark.parametrize(
    "fault", [rpc.Fault("fail", "PYTHON_CALL"), rpc.Fault("drop", "PYTHON_CALL")]
)
async def test_deadline_cuts_the_back_off(fault: rpc.Fault) -> None:
    """When its time is over a call fails at once, waiting or not."""
    clock = VirtualClock()
    async with cluster(2, faults=plans(fault), clock=clock, options=PATIENT) as (a, _):
        call = note(a, 1, rpc.RetryPolicy(initial=100, per_attempt_timeout=1), timeout=7)
        await clock.advance(6.9)
        early = call.done()
        await clock.advance(0.1)
        error = await failure_of(call)
        left = await at_rest((a,))

    is_lost = fault.kind == "drop"
    assert (False, {}) == (early, left)
    assert isinstance(error, rpc.RpcTimeoutError)
    assert (rpc.Delivery.UNKNOWN if is_lost else rpc.Delivery.NOT_SENT) is error.delivery
    assert (rpc.RpcTimeoutError if is_lost else rpc.InjectedFaultError) is type(error.__cause__)


@pytest.mark.parametrize("graceful", [True, False])
async def test_shutdown_cuts_the_back_off(graceful: bool) -> None:
    """A worker that stops does not wait for the next attempt."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("fail", "PYTHON_CALL"))
    async with cluster(2, faults=faults, clock=clock) as (a, b):
        call = note(a, 1, rpc.RetryPolicy(initial=100))
        await clock.advance(1)
        await asyncio.gather(*[agent.shutdown(graceful=graceful) for agent in (a, b)])
        is_done = call.done()
        error = await failure_of(call)

    assert (True, rpc.InjectedFaultError) == (is_done, type(error))
    assert rpc.Delivery.NOT_SENT is error.delivery


async def test_served_functions_retry_during_a_shutdown() -> None:
    """A worker that has begun to stop serves others as before, their nested retries included."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("fail", "PYTHON_CALL", times=2), worker=1)
    async with cluster(2, faults=faults, clock=clock) as (a, b):
        stop = asyncio.ensure_future(b.shutdown())
        await clock.advance(0)
        call = a.rpc_async("worker1", targets.retry_nested, args=("worker0", 7), timeout=None)
        await clock.advance(2.5)
        value = await call
        await a.shutdown()
        await stop

    assert 7 == value


@pytest.mark.parametrize("fault", ["fail", "drop"])
async def test_cancel_during_the_back_off(fault: Any) -> None:
    """A cancelled call is never sent again."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault(fault, "PYTHON_CALL")])
    async with cluster(2, faults=[plan, None], clock=clock, options=PATIENT) as (a, _):
        call = note(a, 1, rpc.RetryPolicy(per_attempt_timeout=1))
        await clock.advance(1.5)
        sends = len(plan.events)
        call.cancel()
        await clock.advance(100)
        left = await at_rest((a,))

    assert call.cancelled()
    assert (sends, {}) == (len(plan.events), left)


async def test_cancel_between_attempts_stops_the_run() -> None:
    """The run of an attempt that was given up is cancelled with the call."""
    clock = VirtualClock()
    async with cluster(2, clock=clock, options=PATIENT) as (a, b):
        policy = rpc.RetryPolicy(initial=100, per_attempt_timeout=1)
        func = f"{targets.__name__}:sleep"
        call = a.rpc_async("worker1", func, args=(1000,), retry=policy, timeout=None)
        await clock.advance(2)
        call.cancel()
        await until(lambda: targets.log)
        left = await at_rest((a, b))

    assert (["cancelled"], {}) == (targets.log, left)


@pytest.mark.parametrize("end", ["cancel", "exhausted"])
async def test_the_run_ends_without_a_link(end: str) -> None:
    """A run whose caller gave up while there was no link is told over the next one."""
    async with cluster(2) as (a, b):
        policy = rpc.RetryPolicy(0 if end == "exhausted" else 5, initial=100)
        call = a.rpc_async("worker1", targets.sleep, args=(1000,), retry=policy)
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "1")
        link(a, "worker1").stream.abort()
        await until(lambda: link(a, "worker1") is None)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await until(lambda: targets.log)
        left = await at_rest((a, b))

    assert (["cancelled"], {}) == (targets.log, left)


async def test_exhaustion_stops_the_run() -> None:
    """Nobody waits for a run when its call has failed."""
    clock = VirtualClock()
    async with cluster(2, clock=clock, options=PATIENT) as (a, _):
        policy = rpc.RetryPolicy(1, per_attempt_timeout=1)
        func = f"{targets.__name__}:sleep"
        call = a.rpc_async("worker1", func, args=(1000,), retry=policy, timeout=None)
        await clock.advance(3)
        error = await failure_of(call)
        await until(lambda: targets.log)

    assert (2, rpc.Delivery.UNKNOWN) == (error.attempts, error.delivery)
    assert ["cancelled"] == targets.log


# -- the callee cannot answer


async def test_forgotten_calls_do_not_run_again() -> None:
    """A callee that may have run a call, and does not know any more, says so."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("drop", "PYTHON_RET", times=1), worker=1)
    async with cluster(2, faults=faults, clock=clock, options=PATIENT) as (a, b):
        call = note(a, 1, rpc.RetryPolicy(initial=301, per_attempt_timeout=1))
        await clock.advance(303)
        error = await failure_of(call)
        left = await at_rest((a, b))

    assert (rpc.Delivery.UNKNOWN, [1]) == (error.delivery, targets.log)
    assert "may have run" in str(error)
    assert {} == left


async def test_a_lost_worker_ends_the_call() -> None:
    """A call that may have run on a worker that is gone is not retried."""
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", targets.sleep, args=(1000,), retry=rpc.RetryPolicy())
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "1")
        await b.shutdown(graceful=False)
        error = await failure_of(call)

    assert (rpc.PeerLostError, rpc.Delivery.UNKNOWN) == (type(error), error.delivery)


async def test_a_lost_caller_ends_its_runs() -> None:
    """When a caller is gone, the runs it would ask for again are cancelled."""
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", targets.sleep, args=(1000,), retry=rpc.RetryPolicy())
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "1")
        await a.shutdown(graceful=False)
        await failure_of(call)
        await until(lambda: targets.log)
        left = await at_rest((b,))

    assert (["cancelled"], {}) == (targets.log, left)


async def test_a_full_callee_is_tried_again() -> None:
    """A refusal for want of room is no run, and the next attempt finds room."""
    clock = VirtualClock()
    few, many = (rpc.RpcOptions(limits=rpc.Limits(max_inflight=n)) for n in (1, 10))
    async with cluster(2, options=[many, few], clock=clock) as (a, _):
        first = a.rpc_async(
            "worker1", targets.sleep, args=(1000,), retry=rpc.RetryPolicy(), timeout=None
        )
        await clock.advance(0)
        second = note(a, 2)
        await clock.advance(0.5)
        refused = not second.done()
        first.cancel()
        await clock.advance(0.5)
        value = await second

    assert (True, 2) == (refused, value)


async def test_runs_without_a_link_hold_no_place() -> None:
    """Calls are not refused because of others that outlive their link at the callee."""
    options = rpc.RpcOptions(limits=rpc.Limits(max_inflight=2))
    async with cluster(2, options=options) as (a, b):
        policy = rpc.RetryPolicy(initial=100)
        runs = [a.rpc_async("worker1", targets.sleep, args=(1000,), retry=policy) for _ in "ab"]
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "2")
        link(a, "worker1").stream.abort()
        await until(lambda: link(a, "worker1") is None)
        value = await a.rpc_async("worker1", targets.echo, args=(1,), idempotent=True)
        for run in runs:
            run.cancel()
        await until(lambda: len(targets.log) == 2)
        left = await at_rest((a, b))

    assert (1, {}) == (value, left)


@pytest.mark.parametrize("func", ["os:no_such_function", targets.note])
async def test_what_cannot_go_well_is_not_retried(func: Any) -> None:
    """A function that is not there, or not exposed, will not be there the next time."""
    options = [rpc.RpcOptions(secret=b"x" * 16, expose=e) for e in (None, [targets.echo])]
    async with cluster(2, options=options) as (a, _):
        error = await failure_of(a.rpc_async("worker1", func, retry=rpc.RetryPolicy()))

    assert isinstance(error, (rpc.FunctionNotFoundError, rpc.PermissionDeniedError))


# -- settings


async def test_default_policy() -> None:
    """The policy of the options is that of calls that give none."""
    clock = VirtualClock()
    options = rpc.FaultyRpcOptions(
        num_fail_sends=2, messages_to_fail=["PYTHON_CALL"], retry=rpc.RetryPolicy(initial=3)
    )
    async with cluster(2, options=options, clock=clock) as (a, _):
        default = a.rpc_async("worker1", targets.note, args=(1,), timeout=None)
        own = note(a, 2, rpc.RetryPolicy(max_retries=0))
        await clock.advance(7.5)
        results = await asyncio.gather(default, own, return_exceptions=True)

    assert 1 == results[0]
    assert isinstance(results[1], rpc.RetriesExhaustedError)
    assert 1 == results[1].attempts


async def test_budget() -> None:
    """Beyond its budget an agent retries no more, and says why."""
    clock = VirtualClock()
    options = rpc.RpcOptions(retry_budget=3)
    faults = plans(rpc.Fault("fail", "PYTHON_CALL"))
    async with cluster(2, faults=faults, options=options, clock=clock) as (a, _):
        calls = [note(a, n, rpc.RetryPolicy(1)) for n in range(10)]
        await clock.advance(0)
        at_once = [call.done() for call in calls]
        await clock.advance(1)
        errors = [await failure_of(call) for call in calls]
        later = [note(a, n, rpc.RetryPolicy(1)) for n in range(4)]
        again = [call.done() for call in later]
        for call in later:
            call.cancel()
        await failure_of(later[-1])

    assert [False] * 3 + [True] * 7 == at_once
    assert [rpc.RetriesExhaustedError] * 3 + [rpc.InjectedFaultError] * 7 == [*map(type, errors)]
    assert "retry_budget" in errors[-1].__notes__[0]
    assert [False] * 3 + [True] == again


@pytest.mark.parametrize("bad", [0, 3, "x", True, rpc.RetryPolicy])
async def test_wrong_policies(bad: Any) -> None:
    """What is no policy is refused at the call."""
    async with cluster(1) as (a,):
        with pytest.raises(ValueError, match="retry must be a RetryPolicy or None"):
            a.rpc_async("worker0", min, args=(1, 2), retry=bad)


async def test_blocking_calls() -> None:
    """A blocking call takes a policy too."""
    faults = plans(rpc.Fault("fail", "PYTHON_CALL", times=1))
    async with cluster(2, faults=faults) as (a, _):
        policy = rpc.RetryPolicy(initial=0.001)
        value = await asyncio.to_thread(a.rpc_sync, "worker1", min, (2, 1), retry=policy)

    assert 1 == value


async def test_calls_to_oneself() -> None:
    """A worker's calls to itself are dealt with alike."""
    clock = VirtualClock()
    rules = [rpc.Fault("drop", name, times=1) for name in ("PYTHON_CALL", "PYTHON_RET")]
    async with cluster(1, faults=rpc.FaultPlan(rules), clock=clock) as (a,):
        func = f"{targets.__name__}:note_and_wait"
        policy = rpc.RetryPolicy(per_attempt_timeout=1)
        call = a.rpc_async("worker0", func, args=(1, 0), retry=policy, timeout=None)
        await clock.advance(10)
        value = await call

    assert (1, [1]) == (value, targets.log)


async def test_control_messages() -> None:
    """The agents' own messages are tried again too, beyond any budget, by the same delays."""
    clock = VirtualClock()
    options = rpc.FaultyRpcOptions(
        num_fail_sends=3, messages_to_fail=["RREF_USER_DELETE"], retry_budget=0.001
    )
    async with cluster(2, options=options, clock=clock) as (a, b):
        taken: list[object] = []
        kind = rpc.MessageType.RREF_USER_DELETE

        def take(peer: object, payload: object) -> object:
            taken.append(payload)
            return "done"

        b._agent.handlers[kind] = take
        peer = a._agent.members.route("worker1")
        calls = [a._agent.caller.request(peer, kind, n, policy=rpc.RetryPolicy()) for n in range(5)]
        await clock.advance(1 + 1.5 + 2.2499)
        early = list(taken)
        await clock.advance(0.0001)
        replies = await asyncio.gather(*calls)

    assert ([], [0, 1, 2, 3, 4]) == (early, taken)
    assert ["done"] * 5 == replies


# -- corners


async def test_two_failures_of_one_attempt() -> None:
    """A link that breaks during the back-off of an attempt moves no time, and costs no attempt."""
    clock = VirtualClock()
    async with cluster(2, clock=clock, options=PATIENT) as (a, b):
        policy = rpc.RetryPolicy(1, initial=5, per_attempt_timeout=1)
        func = f"{targets.__name__}:note_and_wait"
        call = a.rpc_async("worker1", func, args=(1, 1000), retry=policy, timeout=None)
        await clock.advance(2)
        link(b, "worker0").stream.abort()
        retries = []
        for seconds in (3.9, 0.1, 0.9):
            await clock.advance(seconds)
            retries.append(a.debug_info()["agent.retries"])
        is_waiting = not call.done()
        await clock.advance(0.1)
        error = await failure_of(call)
        left = await at_rest((a, b))

    assert (["0", "1", "1"], True, 2) == (retries, is_waiting, error.attempts)
    assert ([1], {}) == (targets.log, left)


async def test_a_failure_while_it_is_queued() -> None:
    """A call that fails while it waits for a link is not left in the queue as well."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        await a.rpc_async("worker1", targets.who)
        peer = a._agent.members.route("worker1")
        link(a, "worker1").stream.abort()
        await until(lambda: link(a, "worker1") is None)
        call = note(a, 1)
        queued = peer.waiting
        del a._agent.pending[call.call_id]
        call.fail(rpc.PeerLostError("on the way", delivery=rpc.Delivery.NOT_SENT))
        left = peer.waiting
        await clock.advance(1)
        value = await call
        rest = await at_rest((a, b))

    assert (1, 0) == (queued, left)
    assert (1, [1], {}) == (value, targets.log, rest)


async def test_no_worker_of_that_name() -> None:
    """A call that reached nobody waits for a worker of that name as long as its policy does."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("fail", "PYTHON_CALL", times=1))
    async with cluster(2, faults=faults, clock=clock) as (a, b):
        call = note(a, 1)
        await clock.advance(0)
        members: Any = a._agent.members
        members.lose(members.known("worker1"), "it seems dead")
        await clock.advance(13.1)
        is_waiting = not call.done()
        await clock.advance(0.1)
        error = await failure_of(call)
        await b.shutdown(graceful=False)

    assert is_waiting
    assert isinstance(error.__cause__, rpc.PeerLostError)
    assert (rpc.Delivery.NOT_SENT, 6, []) == (error.delivery, error.attempts, targets.log)


async def test_the_next_worker_of_that_name() -> None:
    """A call that reached nobody goes to the worker that has come in the other's place."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("fail", "PYTHON_CALL", times=1))
    meeting: dict[str, Any] = {"store": MemoryStore(), "network": MemoryNetwork(), "clock": clock}
    meeting["options"] = rpc.RpcOptions(secret=b"a secret of the tests")
    async with cluster(2, faults=faults, **meeting) as (a, _):
        call = note(a, 1)
        await clock.advance(0)
        members = a._agent.members
        members.lose(members.route("worker1"), "it seems dead")
        await clock.advance(0)
        heir = await rpc.RpcAgent.start("worker1", rank=1, world_size=2, environ={}, **meeting)
        await clock.advance(1)
        value = await call
        await asyncio.gather(a.shutdown(), heir.shutdown())

    assert (1, [1]) == (value, targets.log)


async def test_a_cancelled_thread() -> None:
    """What a plain function returns after its caller gave up goes nowhere."""
    async with cluster(2) as (a, b):
        policy = rpc.RetryPolicy(per_attempt_timeout=5)
        call = a.rpc_async("worker1", targets.block, args=(0.05,), retry=policy)
        await until(lambda: b.debug_info()["agent.server_active_calls"] == "1")
        call.cancel()
        left = await at_rest((a, b))

    assert {} == left


async def test_a_result_that_cannot_travel() -> None:
    """An error that only the reply has is kept as any reply is."""
    clock = VirtualClock()
    faults = plans(rpc.Fault("drop", "PYTHON_RET", times=1), worker=1)
    async with cluster(2, faults=faults, clock=clock, options=PATIENT) as (a, _):
        policy = rpc.RetryPolicy(per_attempt_timeout=1)
        func = f"{targets.__name__}:return_a_lambda"
        call = a.rpc_async("worker1", func, retry=policy, timeout=None)
        await clock.advance(5)
        error = await failure_of(call)

    assert isinstance(error, rpc.EncodingError)
    assert (rpc.Delivery.EXECUTED, ["lambda"]) == (error.delivery, targets.log)
