"""References in calls and results: shared, confirmed before user code, never lost, never leaked."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import link, until
from tests.rref import workers
from tests.rref.workers import Counter, empty

pytestmark = pytest.mark.asyncio


async def test_to_the_owner_to_others_and_back() -> None:
    """A reference means the same value wherever it comes, in arguments and results."""
    async with cluster(3) as agents:
        a = agents[0]
        rref = a.remote("worker1", Counter, args=(1,))
        (at_owner,) = await a.rpc_async("worker1", workers.echo, args=([rref],))
        (elsewhere,) = await a.rpc_async("worker2", workers.echo, args=([rref],))
        for one in (rref, at_owner, elsewhere):
            await one.rpc_async().plus()
        assert 4 == await rref.rpc_async().get()
        assert all(one.confirmed_by_owner() for one in (at_owner, elsewhere))
        mine = a.rref([])
        (came_home,) = await a.rpc_async("worker2", workers.echo, args=([mine],))
        assert came_home.is_owner()
        assert mine.local_value() is came_home.local_value()
        del rref, at_owner, elsewhere, mine, came_home, one
        assert {} == await empty(agents)


@pytest.mark.parametrize("to", ["worker0", "worker1", "worker2"])
async def test_arguments_are_confirmed(to: str) -> None:
    """No unconfirmed reference enters user code, on the owner, on others, on oneself."""
    async with cluster(3) as agents:
        a = agents[0]
        rrefs = [a.remote("worker1", workers.add, args=(n, 0)) for n in range(5)]
        assert await a.rpc_async(to, workers.is_confirmed, args=(rrefs[0],))
        assert 10 == await a.rpc_async(to, workers.add_values, args=rrefs)
        total = a.remote(to, workers.add_values, args=rrefs)
        assert 10 == await total
        method = a.remote(to, workers.Summing)
        assert 10 == await method.rpc_async().sum(*rrefs)
        assert 10 == await method.remote().sum(*rrefs)
        del rrefs, total, method
        assert {} == await empty(agents)


async def test_forward_chain() -> None:
    """Eight hops, each through another worker; the value is read at the last one."""
    async with cluster(4) as agents:
        names = [f"worker{(n + 1) % 4}" for n in range(8)]
        rref = agents[0].remote("worker2", workers.add, args=(1, 1))
        assert 2 == await agents[0].rpc_async("worker1", workers.pass_on, args=(names, rref))
        del rref
        assert {} == await empty(agents)


async def test_values_that_hold_references() -> None:
    """A fetched value shares the references in it; twenty times, deep in containers."""
    async with cluster(3) as agents:
        a, _b, _ = agents
        lists = await a.rpc_async("worker1", workers.make_rrefs, args=(3,))
        for rref in lists:
            await a.rpc_async("worker1", workers.change, args=(rref, "x"))
        assert [[n, "x"] for n in range(3)] == [await rref for rref in lists]
        nests = [a.remote("worker1", workers.make_rrefs, args=(2,)) for _ in range(20)]
        for nest in nests:
            inner = await nest
            assert [[0], [1]] == [await rref for rref in inner]
            holder = a.remote("worker2", workers.echo, args=({"deep": (inner[0], [inner[1]])},))
            fetched = await holder
            assert [1] == await fetched["deep"][1][0]
        del lists, nests, nest, inner, holder, fetched, rref
        assert {} == await empty(agents)


async def test_inside_pickled_objects() -> None:
    """An object that travels by pickle may hold references."""
    async with cluster(2) as agents:
        a = agents[0]
        box = workers.Box(a.rref([1]))
        back = await a.rpc_async("worker1", workers.echo, args=(box,))
        assert back.content.is_owner()
        with pytest.raises(rpc.EncodingError):
            a.rpc_async("worker1", workers.echo, args=(workers.Box(a.rref(1)), lambda: 1))
        released = a.rref(1)
        await released.release()
        with pytest.raises(rpc.RRefDeletedError):
            a.rpc_async("worker1", workers.echo, args=(workers.Box(released),))
        del box, back
        assert {} == await empty(agents)


async def test_one_way_calls() -> None:
    """A reference in a call without a reply is held there, and its table forgets the call."""
    async with cluster(3) as agents:
        a = agents[0]
        rref, mine = a.remote("worker1", Counter), a.rref([])
        for to in ("worker0", "worker1", "worker2"):
            a.rpc_notify(to, workers.keep, args=(rref, mine))
        await until(lambda: len(workers.kept) == 6)
        await until(lambda: not a.references._unsure)
        await rref.release()
        assert 1 == await workers.kept[2].rpc_async().plus()
        workers.kept.clear()
        del rref, mine
        assert {} == await empty(agents)


@pytest.mark.parametrize("kind", ["call", "notify", "remote", "method"])
async def test_half_encoded_message(kind: str) -> None:
    """What was made for a message that cannot be made, or is too large, is taken back."""
    limits = rpc.Limits(max_message_size=100_000)
    async with cluster(3, options=rpc.RpcOptions(limits=limits)) as agents:
        a = agents[0]
        mine, other, target = a.rref(1), a.remote("worker1", Counter), a.remote("worker2", Counter)
        await asyncio.gather(mine, other, target)
        starts: dict[str, Any] = {
            "call": lambda *args: a.rpc_async("worker2", workers.echo, args=args),
            "notify": lambda *args: a.rpc_notify("worker2", workers.echo, args=args),
            "remote": lambda *args: a.remote("worker2", workers.echo, args=args),
            "method": target.rpc_async().plus,
        }
        with pytest.raises(rpc.EncodingError):
            starts[kind](mine, [other], lambda: 1)
        expected = rpc.RRefCreationError if kind == "remote" else rpc.MessageTooLargeError
        with pytest.raises(expected, match="max_message_size 100000"):
            await starts[kind](mine, [other], bytes(200_000))
        machine = a.references.machine
        gc.collect()  # the error of a creation may keep its reference
        await until(lambda: len(machine._users.rows()) == 2)
        assert 0 == machine.counts()["num_forks"]
        del mine, other, target, starts
        assert {} == await empty(agents)


async def test_half_encoded_result() -> None:
    """References in a result that cannot travel are taken back, and the caller is told."""
    async with cluster(2) as agents:
        a = agents[0]
        with pytest.raises(rpc.EncodingError, match=r"result\[1\]"):
            await a.rpc_async("worker1", workers.bad_result)

        assert {} == await empty(agents)


async def test_call_that_never_leaves() -> None:
    """A call that is cancelled or times out in the queue takes its references back at once."""
    clock = VirtualClock()
    limits = rpc.Limits(max_inflight=1)
    async with cluster(2, clock=clock, options=rpc.RpcOptions(limits=limits)) as agents:
        a = agents[0]
        mine = a.rref([])
        blocking = a.rpc_async("worker1", workers.passed, args=("gate",))
        queued = a.rpc_async("worker1", workers.keep, args=(mine,))
        late = a.rpc_async("worker1", workers.keep, args=(mine,), timeout=1)
        await until(lambda: a.references.machine.counts()["num_forks"] == 2)
        queued.cancel()
        await until(lambda: a.references.machine.counts()["num_forks"] == 1)
        await clock.advance(1.001)
        with pytest.raises(rpc.RpcTimeoutError):
            await late
        await until(lambda: a.references.machine.counts()["num_forks"] == 0)
        workers.open_gate("gate")
        await blocking
        del mine, queued, late
        assert {} == await empty(agents)
    assert [] == workers.kept


@pytest.mark.parametrize("message", ["PYTHON_CALL", "PYTHON_RET", "NOTIFY", "RREF_TAKEN"])
@pytest.mark.parametrize("kind", ["drop", "fail"])
async def test_lost_messages(message: str, kind: Any) -> None:
    """A message that is lost or fails on its way leaves no reference behind on either side."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault(kind, message=message)])
    async with cluster(3, clock=clock, faults=plan) as agents:
        a = agents[0]
        rref, mine = a.remote("worker1", Counter), a.rref([])
        await asyncio.gather(rref, mine)
        if message == "NOTIFY":
            a.rpc_notify("worker2", workers.keep, args=(rref, mine))
        else:
            call = a.rpc_async("worker2", workers.echo, args=([rref, mine],), timeout=3)
            await asyncio.sleep(0.02)
            await clock.advance(3.001)
            await asyncio.wait([call])
            assert (message == "RREF_TAKEN") == (call.exception() is None)
            del call
        await asyncio.sleep(0.02)
        del rref, mine
        for agent in agents:
            for peer in tuple(agent.references._unsure):
                agent.references.link_lost(peer)  # as the end of the group does
            for server in tuple(agent._agent.servers):
                for ident in server.passed:
                    server.doubt_passed(ident)
        assert {} == await empty(agents)


async def test_broken_links() -> None:
    """Calls whose link breaks leave no reference behind; held ones stay good, new links agree."""
    async with cluster(3) as agents:
        a, _b, c = agents
        rref, mine = a.remote("worker1", Counter), a.rref([])
        await asyncio.gather(rref, mine)
        calls = [
            a.rpc_async("worker2", workers.hold_until, args=("gate", rref, mine)),
            c.rpc_async("worker0", workers.hold_until, args=("gate", c.rref(1))),
        ]
        a.rpc_notify("worker2", workers.keep, args=(rref,))
        await until(lambda: workers.kept)
        for agent in agents:
            for connection in agent._agent.connections():
                if connection.hello:
                    connection.stream.abort()
        for call in calls:
            with pytest.raises(rpc.PeerLostError):
                await call
        await until(lambda: link(a, "worker1") and link(a, "worker2"))
        assert 1 == await rref.rpc_async().plus()
        assert 2 == await workers.kept[0].rpc_async().plus()
        workers.open_gate("gate")
        workers.kept.clear()
        del rref, mine, calls, call
        assert {} == await empty(agents)


async def test_creation_survives_its_link() -> None:
    """A function that makes a value goes on when the link breaks, once, and can be waited for."""
    async with cluster(2) as agents:
        a, _b = agents
        await a.rpc_async("worker1", workers.echo, args=(1,))
        rref = a.remote("worker1", workers.keep_and_wait, args=("gate", 5))
        reading = rref.to_here()
        await until(lambda: workers.kept)
        link(a, "worker1").stream.abort()
        await until(lambda: link(a, "worker1") is not None)
        workers.open_gate("gate")
        assert 5 == await reading
        assert 5 == await rref
        assert rref.confirmed_by_owner()
        early = a.remote("worker1", workers.keep_and_wait, args=("gate", 6))
        link(a, "worker1").stream.abort()  # the request was written, and did not leave
        assert 6 == await early
        del rref, reading, early
        assert {} == await empty(agents)
    assert [5, 6] == workers.kept


async def test_parked_calls_have_their_deadline() -> None:
    """A call waits for references within its own time, and can be cancelled meanwhile."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("drop", message="RREF_FORK_REQUEST")])
    async with cluster(3, clock=clock, faults=[None, None, plan]) as agents:
        a, _, c = agents
        rref = a.remote("worker1", Counter)
        await rref
        late = a.rpc_async("worker2", workers.keep, args=(rref,), timeout=3)
        cancelled = a.rpc_async("worker2", workers.keep, args=(rref,))
        parking = c.references.machine._parking
        await until(lambda: len(parking) == 2)
        cancelled.cancel()
        await until(lambda: len(parking) == 1)
        await clock.advance(3.001)
        with pytest.raises(rpc.RpcTimeoutError):
            await late
        await until(lambda: len(parking) == 0)
        assert [] == workers.kept
        assert plan.events
        plan._counts.clear()
        plan.rules = ()
        del rref, late, cancelled
        await clock.advance(60)
        assert {} == await empty(agents)


async def test_parked_result_has_its_deadline() -> None:
    """So has a result: its call times out, or is cancelled, while it waits for references."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("drop", message="RREF_FORK_REQUEST")])
    async with cluster(3, clock=clock, faults=[plan, None, None]) as agents:
        a, _, c = agents
        kept = c.remote("worker1", Counter)
        await kept
        workers.kept.append(kept)
        late = a.rpc_async("worker2", workers.give, timeout=3)
        cancelled = a.rpc_async("worker2", workers.give)
        parking = a.references.machine._parking
        await until(lambda: len(parking) == 2)
        cancelled.cancel()
        await clock.advance(3.001)
        with pytest.raises(rpc.RpcTimeoutError):
            await late
        assert 0 == len(parking)
        assert plan.events
        plan._counts.clear()
        plan.rules = ()
        del kept, late, cancelled
        workers.kept.clear()
        await clock.advance(60)
        assert {} == await empty(agents)


async def test_dead_references_are_refused() -> None:
    """A call with a reference whose creation failed does not start."""
    plan = rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_REMOTE_CALL", times=1)])
    async with cluster(3, faults=[plan, None, None]) as agents:
        a = agents[0]
        await a.rpc_async("worker1", workers.echo, args=(1,))  # a link, so that the send is now
        rref = a.remote("worker1", Counter)
        with pytest.raises(rpc.RRefCreationError, match=r"RRef creation via rpc\.remote"):
            a.rpc_async("worker2", workers.echo, args=(rref,))
        with pytest.raises(rpc.RRefCreationError, match=r"RRef creation via rpc\.remote"):
            a.remote("worker2", workers.echo, args=([rref],))
        with pytest.raises(rpc.RRefCreationError, match=r"RRef creation via rpc\.remote"):
            rref.to_here()
        del rref
        assert {} == await empty(agents)
