"""faulty_agent_rpc_test.py: creations, fetches and control messages that fail or come late.

Each test is named after the reference's. Those about options are in tests/agent/test_faults.py
(``test_options_of_the_faulty_agent``), and of the timeouts of calls in ``test_rpc_timeout`` there
and in tests/agent/test_scripts.py (``test_delays_count_against_the_deadline``).

One difference: a creation that is delayed beyond its time is never sent, so the owner does not
hear of it when nobody wants it any more.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import scripts
from tests.reference.groups import CONTROL, emptied, faulty, flushed, in_time, turns_until
from tests.rref import workers

pytestmark = pytest.mark.asyncio

NOT_CREATED = r"^RRef creation via rpc\.remote\(\)"
TIMED_OUT = "RPC ran for more than set timeout"

KINDS = [
    pytest.param("PYTHON_REMOTE_CALL", "PYTHON_RREF_FETCH_CALL", workers.add, id="udf"),
    pytest.param("PYTHON_REMOTE_CALL", "PYTHON_RREF_FETCH_CALL", max, id="builtin"),
    pytest.param("SCRIPT_REMOTE_CALL", "SCRIPT_RREF_FETCH_CALL", scripts.add, id="script"),
]
PLACES = [pytest.param("worker1", id="to_other"), pytest.param("worker0", id="to_self")]


async def add_rref(rref: rpc.RRef, value: int) -> int:
    """Add to what a reference refers to."""
    return int(await rref) + value


async def test_check_failed_messages() -> None:
    """All control messages fail three times, and are told at the fourth: nothing is lost."""
    clock = VirtualClock()
    plan = rpc.FaultPlan.from_messages(CONTROL, num_fail_sends=3)
    async with cluster(4, faults=plan, clock=clock) as agents:
        a = agents[0]
        rref = a.remote("worker1", workers.add, args=(1, 1))
        other = a.remote("worker2", add_rref, args=(rref, 1))
        total = a.remote("worker3", add_rref, args=(other, 2))

        assert 5 == await in_time(clock, total.to_here())
        assert [2, 3] == [await in_time(clock, one.to_here()) for one in (rref, other)]
        for one in (rref, other, total):
            await in_time(clock, one.release())
        del rref, other, total, one
        left = await emptied(clock, agents)

    fails = Counter(event.message for event in plan.events)
    assert {} == left
    assert {"RREF_FORK_REQUEST", "RREF_CHILD_ACCEPT", "RREF_USER_DELETE"} == set(fails)
    assert all(number % 3 == 0 for number in fails.values())


@pytest.mark.parametrize("to", PLACES)
@pytest.mark.parametrize(("message", "_fetch", "func"), KINDS)
async def test_remote_message_dropped_pickle(message: str, _fetch: str, func: Any, to: str) -> None:
    """A reference whose creation was dropped cannot be passed on: refused before any send."""
    async with cluster(4, options=faulty([message])) as agents:
        a = agents[0]
        rref = a.remote(to, func, args=(1, 2))
        await flushed(a)
        sent = a.debug_info()["agent.bytes_sent"]
        with pytest.raises(rpc.RRefCreationError, match=NOT_CREATED):
            a.rpc_async("worker2", add_rref, args=(rref, 1))
        assert sent == a.debug_info()["agent.bytes_sent"]
        assert not rref.confirmed_by_owner()


@pytest.mark.parametrize("to", PLACES)
@pytest.mark.parametrize(("message", "_fetch", "func"), KINDS)
async def test_remote_message_dropped_timeout(
    message: str, _fetch: str, func: Any, to: str
) -> None:
    """After a dropped creation `to_here` raises; the group ends although no owner heard of it."""
    clock = VirtualClock()
    async with cluster(4, options=faulty([message]), clock=clock) as agents:
        rref = agents[0].remote(to, func, args=(1, 2))
        await flushed(agents[0])
        with pytest.raises(rpc.RRefCreationError, match=NOT_CREATED):
            await rref.to_here()
        del rref
        left = await emptied(clock, agents)

    assert {} == left


@pytest.mark.parametrize("to", PLACES)
@pytest.mark.parametrize(("message", "_fetch", "func"), KINDS)
async def test_remote_message_delay_timeout(message: str, _fetch: str, func: Any, to: str) -> None:
    """A creation that is late times out; a fetch before that reports its own timeout."""
    clock = VirtualClock()
    async with cluster(4, options=faulty(delay={message: 2.0}), clock=clock) as agents:
        a, b = agents[0], agents[int(to[-1])]
        late = a.remote(to, func, args=(1, 2), timeout=0.001)
        await clock.advance(0.002)
        with pytest.raises(rpc.RRefCreationError, match=NOT_CREATED):
            await late.to_here()
        await clock.advance(3)
        del late
        await turns_until(lambda: b.debug_info()["num_owner_rrefs"] == "0")

        rref = a.remote(to, func, args=(1, 2), timeout=3)
        early = rref.to_here(0.001)
        await clock.advance(0.002)
        with pytest.raises(rpc.RpcTimeoutError, match=TIMED_OUT):
            await early
        assert func(1, 2) == await in_time(clock, rref.to_here())
        if to != "worker0":
            assert ("1", "1") == tuple(
                b.debug_info()[name] for name in ("num_owner_rrefs", "num_forks")
            )
        del rref, early
        left = await emptied(clock, agents)

    assert {} == left


@pytest.mark.parametrize(("_create", "message", "func"), KINDS)
async def test_rref_to_here_timeout(_create: str, message: str, func: Any) -> None:
    """A fetch that comes too late leaves the reference as good as it was."""
    clock = VirtualClock()
    async with cluster(4, options=faulty(delay={message: 1.0}), clock=clock) as agents:
        rref = agents[0].remote("worker1", func, args=(1, 2))
        fetch = rref.to_here(0.01)
        await clock.advance(0.02)
        with pytest.raises(rpc.RpcTimeoutError, match=TIMED_OUT):
            await fetch

        assert func(1, 2) == await in_time(clock, rref.to_here())
        assert rref.confirmed_by_owner()
