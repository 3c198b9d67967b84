"""Call contexts ride on every call made in them, and leave no state anywhere at their end."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import context_targets as targets
from tests.agent.groups import any_network, until
from tests.agent.processes import mixed_group

pytestmark = pytest.mark.asyncio


def sizes(agents: Any) -> list[int]:
    """Return how many contexts each agent knows."""
    return [len(agent._agent.contexts) for agent in agents]


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_each_worker_has_a_state_of_its_own(kind: str) -> None:
    """It lasts over the calls of one context, for async and for plain functions."""
    async with any_network(kind) as network, cluster(3, network=network) as agents:
        a = agents[0]
        async with a.context() as context:
            context.state["mine"] = 1
            first = await a.rpc_async("worker1", targets.note, args=("x",))
            second = await a.rpc_async("worker1", targets.note_in_thread, args=("y",))
            other = await a.rpc_async("worker2", targets.note, args=("z",))
            own = await a.rpc_async("worker0", targets.note, args=("w",))
            mine, inside = dict(context.state), sizes(agents)
        left = sizes(agents)
        outside = await a.rpc_async("worker1", targets.ident)

    assert {} == context.state, "also for whoever still has it"
    assert [["x"], ["x", "y"], ["z"], ["w"]] == [first, second, other, own]
    assert {"mine": 1, "notes": ["w"]} == mine
    assert ([1, 1, 1], [0, 0, 0], None) == (inside, left, outside)


async def test_nested_calls_carry_it_on() -> None:
    """In circles too; all whom it reached are told of its end."""
    async with cluster(4) as agents:
        a = agents[0]
        async with a.context() as context:
            route = ("worker2", "worker3", "worker1", "worker0", "worker2")
            seen = await a.rpc_async("worker1", targets.relay, args=route)
            inside = sizes(agents)
            detached = await a.rpc_async("worker1", targets.detached_ident, args=("worker3",))
        left = sizes(agents)

    assert [context.id] * 6 == seen
    assert ([1, 1, 1, 1], [0, 0, 0, 0], context.id) == (inside, left, detached)


async def test_it_surrounds_tasks_and_nests() -> None:
    """Tasks started inside have it; an inner one hides the outer; `wait_all` goes with it."""
    async with cluster(2) as agents:
        a = agents[0]
        before = a.current_context()
        async with a.context() as outer:
            task = asyncio.create_task(_ident(a))
            async with a.context() as inner, a.wait_all():
                inside = a.rpc_async("worker1", targets.ident)
            after = await a.rpc_async("worker1", targets.ident)
            streamed = [i async for i in a.rpc_stream("worker1", targets.idents, args=(2,))]
            assert a.current_context() is outer
        ids = [await task, inside.result(), after, *streamed]
        left = sizes(agents)

    assert before is None
    assert [outer.id, inner.id, outer.id, outer.id, outer.id] == ids
    assert [0, 0] == left


async def _ident(agent: Any) -> Any:
    return await agent.rpc_async("worker1", targets.ident)


async def test_one_way_calls_carry_it() -> None:
    """A notification reaches its worker inside the context."""
    async with cluster(2) as agents:
        a, b = agents
        async with a.context() as context:
            a.rpc_notify("worker1", targets.note, args=("x",))
            await until(lambda: context.id in b._agent.contexts._states)
        left = sizes(agents)

    assert [0, 0] == left


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_an_error_ends_it_too(error: type[BaseException]) -> None:
    """Whatever leaves the body, no state stays."""
    async with cluster(2) as agents:
        with pytest.raises(error):
            async with agents[0].context():
                await agents[0].rpc_async("worker1", targets.note, args=("x",))
                raise error
        left = sizes(agents)

    assert [0, 0] == left


async def test_late_calls_of_an_ended_context_leave_nothing() -> None:
    """A call that outlives its context goes on, without it, and begins it nowhere anew."""
    targets.gates["late"] = asyncio.Event()
    async with cluster(3) as agents:
        a = agents[0]
        async with a.context():
            call = a.rpc_async("worker1", targets.late, args=("worker2", "late"))
            await a.rpc_async("worker1", targets.ident)
        targets.gates["late"].set()
        await call
        left = sizes(agents)

    assert [0, 0, 0] == left


async def test_the_end_is_told_until_it_is_heard() -> None:
    """The reference's: the first three sends fail; the state goes after 1 + 1.5 + 2.25 s."""
    clock = VirtualClock()
    options = rpc.FaultyRpcOptions(
        num_fail_sends=3, messages_to_fail=["CLEANUP_AUTOGRAD_CONTEXT_REQ"], heartbeat_interval=1e6
    )
    async with cluster(2, options=options, clock=clock) as agents:
        using = asyncio.create_task(_use_context(agents[0]))
        await clock.advance(4.7)
        before = (using.done(), sizes(agents))
        await clock.advance(0.1)
        await using
        left = sizes(agents)

    assert ((False, [0, 1]), [0, 0]) == (before, left)


@pytest.mark.parametrize("lost", ["REQ", "RESP"])
async def test_the_end_is_told_again_when_it_is_lost(lost: str) -> None:
    """An end, or its answer, that does not come in 10 s is told again: it may run twice."""
    clock = VirtualClock()
    options = rpc.RpcOptions(heartbeat_interval=1e6)
    plan = rpc.FaultPlan([rpc.Fault("drop", message=f"CLEANUP_AUTOGRAD_CONTEXT_{lost}", times=2)])
    async with cluster(2, options=options, faults=plan, clock=clock) as agents:
        using = asyncio.create_task(_use_context(agents[0]))
        await clock.advance(22.4)
        before = (using.done(), sizes(agents))
        await clock.advance(0.2)  # 10 + 1 + 10 + 1.5
        after = (using.done(), sizes(agents))
        await using

    assert (False, [0, int(lost == "REQ")]) == before
    assert (True, [0, 0]) == after
    assert len(plan.events) == 2


async def _use_context(agent: Any) -> None:
    async with agent.context():
        await agent.rpc_async("worker1", targets.note, args=("x",))


@pytest.mark.slow
async def test_a_worker_that_dies_takes_its_contexts_along(tmp_path: Path) -> None:
    """The state of a killed worker does not hold up the end of the context."""
    async with mixed_group(tmp_path, 1) as (agent, (worker,)):
        async with agent.context():
            await agent.rpc_async("worker1", targets.note, args=("x",))
            worker.signal(signal.SIGKILL)
            await until(lambda: len(agent.get_worker_infos()) == 1)
        left = len(agent._agent.contexts)

    assert 0 == left


async def test_the_contexts_of_a_lost_worker_end() -> None:
    """Nobody else will tell of their end."""
    async with cluster(2) as agents:
        a, b = agents
        scope = a.context()
        await scope.__aenter__()
        await a.rpc_async("worker1", targets.note, args=("x",))
        inside = sizes(agents)
        scope._surrounding.leave()
        await a.shutdown(graceful=False)
        await until(lambda: sizes([b]) == [0])
        await b.shutdown()

    assert [1, 1] == inside


async def test_nonsense_from_a_peer() -> None:
    """An id of another type is refused, and nothing else suffers."""
    async with cluster(2) as (a, _):
        kind = rpc.MessageType.CLEANUP_AUTOGRAD_CONTEXT_REQ
        peer = a._agent.members.route("worker1")
        with pytest.raises(rpc.RpcError, match="message makes no sense"):
            await a._agent.caller.request(peer, kind, 7)
        unknown = await a._agent.caller.request(peer, kind, "unknown")

    assert unknown is None
