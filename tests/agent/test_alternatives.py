"""Calls that any of several workers may answer: who is asked when, who wins, and what is left."""

from __future__ import annotations

import asyncio
import gc
import math
from random import Random
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.answers import answer, ask_others, ask_too_late, log
from tests.agent.groups import any_network, at_rest, link, until

pytestmark = pytest.mark.asyncio

ALL = ["worker1", "worker2", "worker3"]


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    log.clear()


def failing(*workers: str) -> rpc.FaultPlan:
    """Return a plan by which calls to these workers fail unsent."""
    return rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_CALL", peer=w) for w in workers])


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_first_worker_answers_alone(kind: str) -> None:
    """An answer in time leaves the others alone."""
    async with any_network(kind) as network, cluster(3, network=network) as agents:
        future = agents[0].rpc_hedged(["worker1", "worker2"], answer, ({},), delay=5)
        outcome = await future
        left = await at_rest(agents)

    assert ["worker1", ["worker1 asked"], {}] == [outcome, log, left]
    assert isinstance(future, rpc.RpcFuture)


async def test_each_delay_asks_one_more_and_the_first_result_wins() -> None:
    """Workers are asked in their order at exact times; the losers are cancelled."""
    clock = VirtualClock()
    async with cluster(4, clock=clock) as agents:
        plan = {"worker1": "wait", "worker2": "wait"}
        future = agents[0].rpc_hedged(ALL, answer, (plan,), timeout=60, delay=2)
        asked = []
        for _ in range(4):
            await clock.advance(1)
            asked.append(len(log))
        outcome = await future
        await until(lambda: len(log) == 5)
        left = await at_rest(agents)

    assert [1, 2, 2] == asked[:3]
    assert ["worker3", {}] == [outcome, left]
    assert {"worker1 cancelled", "worker2 cancelled"} == set(log[3:])


async def test_delay_zero_asks_all_at_once_and_infinity_none_unasked() -> None:
    """The two ends of the range."""
    clock = VirtualClock()
    everybody_waits = dict.fromkeys(ALL, "wait")
    async with cluster(4, clock=clock) as (a, *_):
        at_once = a.rpc_hedged(ALL, answer, (everybody_waits,), timeout=100, delay=0)
        await clock.advance(0)
        asked = sorted(log)
        at_once.cancel()
        await until(lambda: len(log) == 6)
        log.clear()
        never = a.rpc_hedged(ALL, answer, (everybody_waits,), timeout=100, delay=math.inf)
        await clock.advance(99)
        asked_later = list(log)
        never.cancel()
        await clock.advance(0)

    assert [f"{name} asked" for name in ALL] == asked
    assert ["worker1 asked"] == asked_later


async def test_worker_that_cannot_be_asked_makes_way_at_once() -> None:
    """NOT_SENT goes on with the next worker without a delay."""
    async with cluster(4, faults=[failing("worker1", "worker2"), None, None, None]) as (a, *_):
        outcome = await a.rpc_hedged(ALL, answer, ({},), delay=1000)

    assert ["worker3", ["worker3 asked"]] == [outcome, log]


async def test_broken_link_makes_way_at_once() -> None:
    """UNKNOWN goes on too: a hedged function may run on several workers."""
    async with cluster(3) as (a, *_):
        plan = {"worker1": "wait"}
        future = a.rpc_hedged(["worker1", "worker2"], answer, (plan,), delay=1000)
        await until(lambda: log)
        link(a, "worker1").stream.abort()
        outcome = await future

    assert "worker2" == outcome


async def test_error_of_the_function_is_the_outcome() -> None:
    """It came from a worker that was there and did what it was asked; nobody else is asked."""
    async with cluster(3) as (a, *_):
        with pytest.raises(LookupError, match="worker1 has none"):
            await a.rpc_hedged(["worker1", "worker2"], answer, ({"worker1": "fail"},), delay=1000)

    assert ["worker1 asked"] == log


async def test_last_error_tells_of_the_others() -> None:
    """If nobody can be asked the call fails with what happened to all."""
    plan = failing(*ALL)
    async with cluster(4, faults=[plan, None, None, None]) as (a, *_):
        with pytest.raises(rpc.InjectedFaultError) as caught:
            await a.rpc_hedged(ALL, answer, ({},), delay=1000)

    assert 2 == len(caught.value.__notes__)
    assert all("before that: InjectedFaultError" in note for note in caught.value.__notes__)


async def test_one_deadline_for_all_of_it() -> None:
    """Later workers get what is left of the time; nobody is asked after it."""
    clock = VirtualClock()
    async with cluster(4, clock=clock) as agents:
        waiting = dict.fromkeys(ALL, "wait")
        future = agents[0].rpc_hedged(ALL, answer, (waiting,), timeout=3, delay=2)
        await clock.advance(2.5)
        asked = [list(log), future.done()]
        await clock.advance(0.5)
        error = future.exception()
        left = await at_rest(agents)

    assert [["worker1 asked", "worker2 asked"], False] == asked
    assert isinstance(error, rpc.RpcTimeoutError)
    assert {} == left


@pytest.mark.parametrize("way", ["future", "task"])
async def test_cancelling_it_cancels_all_that_is_out(way: str) -> None:
    """The future itself, or the task that awaits it."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as agents:
        waiting = {"worker1": "wait", "worker2": "wait"}
        future = agents[0].rpc_hedged(["worker1", "worker2"], answer, (waiting,), delay=1)

        async def wait() -> Any:
            return await future

        task = asyncio.ensure_future(wait())
        await clock.advance(1)
        assert 2 == len(log)
        (task if way == "task" else future).cancel()
        await asyncio.wait([task])
        await until(lambda: len(log) == 4)
        left = await at_rest(agents)

    assert [True, True, {}] == [future.cancelled(), task.cancelled(), left]


async def test_in_a_served_call_it_ends_with_that_call() -> None:
    """Its parts are nested calls like others, and inherit the deadline."""
    async with cluster(3) as agents:
        waiting = {"worker2": "wait"}
        call = agents[0].rpc_async("worker1", ask_others, (["worker2", "worker0"], waiting))
        await until(lambda: log)
        call.cancel()
        await until(lambda: len(log) == 2)
        left = await at_rest(agents)

    assert [["worker2 asked", "worker2 cancelled"], {}] == [log, left]


async def test_at_the_end_of_a_served_call_it_is_refused_like_others() -> None:
    """A call made after the time of the one that it serves is not sent."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as agents:
        call = agents[0].rpc_async("worker1", ask_too_late, ("worker2",), timeout=1)
        await clock.advance(1)
        await until(lambda: len(log) == 2)
        left = await at_rest(agents)

    assert isinstance(call.exception(), rpc.RpcTimeoutError)
    assert [["too late", "NOT_SENT"], {}] == [log, left]


async def test_scope_waits_for_the_outcome_only() -> None:
    """A part that fails is no failure for `wait_all`; the outcome is."""
    async with cluster(3, faults=[failing("worker1"), None, None]) as (a, *_):
        async with a.wait_all():
            future = a.rpc_hedged(["worker1", "worker2"], answer, ({},), delay=1000)
        assert "worker2" == future.result()
        with pytest.raises(LookupError):
            async with a.wait_all():
                a.rpc_hedged(["worker2"], answer, ({"worker2": "fail"},), delay=1000)


async def test_graceful_shutdown_waits_for_a_call_between_two_workers() -> None:
    """The group is not idle while one is asked after another."""
    async with cluster(3) as (a, *_):
        future = a.rpc_hedged(["worker1", "worker2"], answer, ({"worker1": "wait"},), delay=0.05)

    assert "worker2" == await future


async def test_lost_and_left_workers_make_way() -> None:
    """A list of workers stays usable when some of them are gone."""
    async with cluster(4) as (a, b, c, _):
        await a.rpc_async("worker1", answer, ({},))  # a link, on which its end is seen
        await b.shutdown(graceful=False)
        await until(lambda: len(a.get_worker_infos()) == 3)
        hedged = await a.rpc_hedged(["worker1", "worker3"], answer, ({},), delay=1000)
        chosen = await a.rpc_any(["worker1", "worker3"], answer, ({},))
        with pytest.raises(rpc.PeerLostError):
            a.rpc_hedged(["worker1"], answer, ({},), delay=1)
        with pytest.raises(rpc.PeerLostError):
            a.rpc_any([1], answer, ({},))
        assert c.info.name == "worker2"

    assert ["worker3", "worker3"] == [hedged, chosen]


async def test_any_takes_the_worker_with_the_fewest_calls() -> None:
    """Calls in flight from here count, and a peer with none is taken."""
    async with cluster(4) as (a, *_):
        waiting = dict.fromkeys(ALL, "wait")
        out = [a.rpc_async(name, answer, (waiting,)) for name in ["worker1", "worker1", "worker3"]]
        chosen = [await a.rpc_any(ALL, answer, ({},)) for _ in range(5)]
        for call in out:
            call.cancel()

    assert ["worker2"] * 5 == chosen


async def test_any_counts_calls_that_interceptors_hold() -> None:
    """Calls made in one turn are spread, though none of them has gone out."""
    options = rpc.RpcOptions(interceptors=[rpc.Interceptor()])
    async with cluster(4, options=options) as (a, *_):
        calls = [a.rpc_any(ALL, answer, ({},)) for _ in range(9)]
        chosen = sorted([await call for call in calls])
        interception = a._agent.interception
        await until(lambda: interception is not None and not interception.held)

    assert sorted(ALL * 3) == chosen


async def test_any_spreads_equal_workers_by_a_seed() -> None:
    """Ties go to all of them, the same way for the same seed."""
    async with cluster(4) as (a, *_):
        runs = []
        for _ in range(2):
            random = Random(5)
            chosen = [await a.rpc_any(ALL, answer, ({},), random=random) for _ in range(30)]
            runs.append(chosen)

    assert runs[0] == runs[1]
    assert set(ALL) == set(runs[0])


async def test_any_goes_on_only_where_nothing_can_run_twice() -> None:
    """NOT_SENT: the next one. UNKNOWN: an error, unless the function is idempotent."""
    async with cluster(3, faults=[failing("worker1"), None, None]) as (a, *_):
        for _ in range(4):
            assert "worker2" == await a.rpc_any(["worker1", "worker2"], answer, ({},))
        log.clear()
        waiting = {"worker2": "wait"}
        future = a.rpc_any(["worker2", "worker2"], answer, (waiting,))
        await until(lambda: log)
        link(a, "worker2").stream.abort()
        with pytest.raises(rpc.PeerLostError) as caught:
            await future
        assert rpc.Delivery.UNKNOWN is caught.value.delivery

    assert ["worker2 asked", "worker2 cancelled"] == log


async def test_any_idempotent_goes_on_when_a_worker_is_lost() -> None:
    """A lost worker may have run the function; an idempotent one runs elsewhere."""
    async with cluster(3) as (a, b, _):
        plan = {"worker1": "wait"}
        hold = a.rpc_async("worker2", answer, ({"worker2": "wait"},))  # so that worker1 is taken
        future = a.rpc_any(["worker1", "worker2"], answer, (plan,), idempotent=True)
        await until(lambda: "worker1 asked" in log)
        await b.shutdown(graceful=False)
        outcome = await future
        hold.cancel()

    assert "worker2" == outcome


async def test_bad_input_is_refused_at_the_call() -> None:
    """Each message names what was given."""
    async with cluster(2) as (a, _):
        wrong: list[Any] = [[], "worker1", 1, None, a.info]
        for workers in wrong:
            with pytest.raises(ValueError, match="workers must"):
                a.rpc_hedged(workers, answer, delay=1)
            with pytest.raises(ValueError, match="workers must"):
                a.rpc_any(workers, answer)
        delays: list[Any] = [-1, math.nan, "1", None, True]
        for delay in delays:
            with pytest.raises(ValueError, match=r"delay must be .* got"):
                a.rpc_hedged(["worker1"], answer, delay=delay)
        with pytest.raises(rpc.UnknownWorkerError, match="worker9"):
            a.rpc_hedged(["worker1", "worker9"], answer, delay=1)
        with pytest.raises(rpc.UnknownWorkerError, match="worker9"):
            a.rpc_any(["worker9", "worker1"], answer)
        with pytest.raises(ValueError, match="timeout"):
            a.rpc_any(["worker1"], answer, timeout=-1)
        with pytest.raises(rpc.EncodingError):
            a.rpc_hedged(["worker1"], answer, (lambda: 0,), delay=1)

    assert [] == log


async def test_shutdown_ends_it() -> None:
    """Non-gracefully: the outcome is that the agent is gone, and nothing is left."""
    async with cluster(3) as (a, *_):
        future = a.rpc_hedged(["worker1", "worker2"], answer, ({"worker1": "wait"},), delay=1000)
        await until(lambda: log)
        await a.shutdown(graceful=False)
        with pytest.raises(rpc.NotInitializedError):
            await future


async def test_report_names_function_workers_and_site() -> None:
    """As for a plain call."""
    async with cluster(2) as (a, _):
        future = a.rpc_hedged(["worker1"], answer, ({},), delay=1)
        text = repr(future)
        await future

    assert "answer" in text
    assert "on worker1 called at" in text
    assert "test_alternatives.py" in text


async def test_a_failure_that_nobody_looked_at_is_reported_at_once() -> None:
    """As for a plain call: when the future goes, without the help of the garbage collector."""
    reports: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reports.append(repr(context["future"])))
    gc.disable()
    try:
        async with cluster(2) as (a, _):
            future = a.rpc_hedged(["worker1"], answer, ({"worker1": "fail"},), delay=1)
            await until(future.done)
            await asyncio.sleep(0)
            del future
            await until(lambda: reports)
    finally:
        gc.enable()
        loop.set_exception_handler(before)

    assert 1 == len(reports)
    assert "test_alternatives.py" in reports[0]
