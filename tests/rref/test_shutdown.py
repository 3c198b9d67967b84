"""The end of a group with references: released, in order; with ``check_leaks`` none may be left."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import until
from tests.rref import workers
from tests.rref.workers import Counter

pytestmark = pytest.mark.asyncio

CHECKING = rpc.RpcOptions(check_leaks=True)


async def shut_down(agents: list[rpc.RpcAgent], **options: Any) -> list[BaseException | None]:
    """Shut all workers down; return what each of them raised."""
    return await asyncio.gather(
        *[agent.shutdown(**options) for agent in agents], return_exceptions=True
    )


async def test_references_are_released_by_the_shutdown() -> None:
    """What users still hold, in cycles and on several workers, keeps nobody from leaving."""
    async with cluster(3) as agents:
        a = agents[0]
        rref, mine = a.remote("worker1", Counter), a.rref([])
        cycle: list[Any] = [a.remote("worker2", Counter)]
        cycle.append(cycle)
        await a.rpc_async("worker2", workers.keep, args=(rref, mine))
        await a.rpc_async("worker1", workers.keep, args=(mine, *cycle[:1]))
        errors = await shut_down(agents, timeout=10)
        kept = [agent.references.machine.is_drained for agent in agents]
        values = [len(agent.references.keeper._values) for agent in agents]

    assert [None] * 3 == errors
    assert [True] * 3 == kept
    assert [0] * 3 == values


async def test_leaks_are_listed() -> None:
    """Holder and owner both complain, each in its words; all is closed all the same."""
    async with cluster(3, options=CHECKING) as agents:
        a = agents[0]
        rref = a.remote("worker1", Counter)
        await rref
        errors = await shut_down(agents)

    holder, owner, other = errors
    assert isinstance(holder, rpc.RRefLeakError)
    assert isinstance(owner, rpc.RRefLeakError)
    assert other is None
    assert (
        (
            "Leaking RRef GloballyUniqueId(created_on=0, local_id=1) with fork Id "
            "GloballyUniqueId(created_on=0, local_id=2): held here, of worker1"
        ),
    ) == holder.leaks
    assert (
        (
            "Leaking RRef GloballyUniqueId(created_on=0, local_id=1): its value is kept here for "
            "worker0"
        ),
    ) == owner.leaks
    assert holder.leaks[0] in str(holder)
    with pytest.raises(rpc.RRefDeletedError):
        await rref


async def test_what_was_dropped_is_no_leak() -> None:
    """Neither just before the shutdown, nor in a cycle that was not collected yet."""
    async with cluster(3, options=CHECKING) as agents:
        a = agents[0]
        gc.disable()
        try:
            cycle: list[Any] = [a.remote("worker1", Counter)]
            cycle.append(cycle)
            rref = a.remote("worker2", Counter)
            await asyncio.gather(rref, cycle[0])
            await a.rpc_async("worker1", workers.keep, args=(rref,))
            workers.kept.clear()
            del cycle, rref
            errors = await shut_down(agents)
        finally:
            gc.enable()

    assert [None] * 3 == errors


@pytest.mark.parametrize("check", [True, False])
async def test_not_graceful(check: bool) -> None:
    """Without waiting, too, a worker that checks says what it leaves behind."""
    async with cluster(2, options=rpc.RpcOptions(check_leaks=check)) as (a, b):
        rref = a.remote("worker1", Counter)
        await rref
        (error,) = await shut_down([a], graceful=False)
        await until(lambda: not b.get_worker_infos()[1:])
        rows = b.rref_debug()
        (other,) = await shut_down([b], graceful=False)

    assert check == isinstance(error, rpc.RRefLeakError)
    assert [] == rows
    assert other is None


async def test_shutdown_waits_for_control_messages() -> None:
    """Deletes that have to be repeated are through before anybody checks or leaves."""
    options = rpc.FaultyRpcOptions(
        check_leaks=True,
        num_fail_sends=3,
        messages_to_fail=["RREF_USER_DELETE", "RREF_FORK_REQUEST", "RREF_CHILD_ACCEPT"],
    )
    async with cluster(3, options=options) as agents:
        a = agents[0]
        rref = a.remote("worker1", Counter)
        await a.rpc_async("worker2", workers.is_confirmed, args=(rref,))
        del rref
        errors = await shut_down(agents)

    assert [None] * 3 == errors


async def test_timeout_names_the_phase() -> None:
    """A worker that never answers about references is named when the time is over."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("drop", message="RREF_USER_DELETE")])
    async with cluster(2, clock=clock, faults=[plan, None]) as agents:
        a, b = agents
        rref = a.remote("worker1", Counter)
        await rref
        ending = asyncio.gather(*[x.shutdown(timeout=30) for x in agents], return_exceptions=True)
        await until(lambda: not b.references.machine.is_drained and plan.events)
        await clock.advance(30.001)
        errors = await ending

    assert isinstance(errors[0], rpc.ShutdownTimeoutError)
    assert "references" == errors[0].phase


async def test_option_is_checked() -> None:
    """It is a bool."""
    with pytest.raises(ValueError, match="check_leaks must be True or False, got 1"):
        rpc.RpcOptions(check_leaks=1)  # type: ignore[arg-type]
