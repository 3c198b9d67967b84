"""A worker that dies, stops or leaves: how soon the others know, and what their calls say."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import targets
from tests.agent.groups import at_rest, until
from tests.agent.processes import mixed_group

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]


def state(agent: Any, name: str) -> str:
    """Return what an agent thinks of a worker."""
    return str(agent._agent.members.known(name).state.value)


async def test_killed_with_a_thousand_calls(tmp_path: Path) -> None:
    """SIGKILL fails all calls in flight within a second; the worker is lost, and calls say so."""
    async with mixed_group(tmp_path, 2) as (agent, (victim, _)):
        calls = [agent.rpc_async("worker1", targets.sleep, args=(1000,)) for _ in range(1200)]
        others = [agent.rpc_async("worker2", targets.echo, args=(i,)) for i in range(100)]
        await agent.rpc_async("worker2", os.getpid)
        peer = agent._agent.members.known("worker1")
        assert peer is not None
        await until(lambda: peer.inflight == 1024)
        victim.signal(signal.SIGKILL)
        killed = time.monotonic()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        span = time.monotonic() - killed
        await until(lambda: state(agent, "worker1") == "lost")
        with pytest.raises(rpc.PeerLostError, match="worker1 was lost") as caught:
            agent.rpc_async("worker1", targets.who)
        left = await at_rest([agent])
        results = await asyncio.gather(*others)
        infos = agent.get_worker_infos()

    assert span < 1
    assert {rpc.PeerLostError} == {type(error) for error in errors}
    deliveries = [error.delivery for error in errors]  # type: ignore[union-attr]
    assert [rpc.Delivery.UNKNOWN] * 1024 + [rpc.Delivery.NOT_SENT] * 176 == deliveries
    assert rpc.Delivery.NOT_SENT is caught.value.delivery
    assert {} == left
    assert list(range(100)) == results
    assert ["worker0", "worker2"] == [info.name for info in infos]


async def test_killed_with_a_large_transfer_under_way(tmp_path: Path) -> None:
    """A worker that dies in the middle of a large request fails it too, and nothing stays."""
    async with mixed_group(tmp_path, 1) as (agent, (victim,)):
        await agent.rpc_async("worker1", os.getpid)
        victim.signal(signal.SIGSTOP)
        call = agent.rpc_async("worker1", targets.echo, args=(bytes(64 << 20),))
        await asyncio.sleep(0)
        victim.signal(signal.SIGKILL)
        with pytest.raises(rpc.PeerLostError) as caught:
            await call
        left = await at_rest([agent])

    assert rpc.Delivery.NOT_SENT is caught.value.delivery  # half a request never runs
    assert {} == left


@pytest.mark.parametrize("misses", [1, 3])
async def test_stopped(tmp_path: Path, misses: int) -> None:
    """A stopped process is lost after the misses; when it goes on it is refused, and told so."""
    interval = 0.2
    group = mixed_group(tmp_path, 1, heartbeat_interval=interval, heartbeat_misses=misses)
    async with group as (agent, (victim,)):
        call = agent.rpc_async("worker1", targets.sleep, args=(1000,), timeout=None)
        await agent.rpc_async("worker1", targets.who)
        victim.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        with pytest.raises(rpc.PeerLostError, match="no sign of life") as caught:
            await call
        span = time.monotonic() - stopped
        victim.signal(signal.SIGCONT)
        await victim.tell("graceful")
        lines = [await victim.line(), await victim.line()]
        state_after = state(agent, "worker1")
        with pytest.raises(rpc.PeerLostError):
            agent.rpc_async("worker1", targets.who)

    assert rpc.Delivery.UNKNOWN is caught.value.delivery
    assert interval * (misses - 1) <= span <= interval * (misses + 1 + (misses == 1)) + 0.2
    assert "lost" == state_after
    assert ["leaving", "left"] == lines  # alone now: it waits for nobody


async def test_blocked_loop_is_not_lost(tmp_path: Path) -> None:
    """A worker whose loop is blocked for longer than the misses lives, and its calls complete."""
    group = mixed_group(tmp_path, 1, heartbeat_interval=0.1, heartbeat_misses=3)
    async with group as (agent, (worker,)):
        await agent.rpc_async("worker1", targets.who)
        await worker.tell("block 1.5")
        assert await worker.line() == "blocking"
        call = agent.rpc_async("worker1", targets.echo, args=(1,))

        assert 1 == await call
        assert await worker.line() == "back"
        assert "present" == state(agent, "worker1")


class Standstill(VirtualClock):
    """A clock whose time goes on while no timer fires, as on a loop that is blocked."""

    def block(self, seconds: float) -> None:
        """Let that much time pass unseen."""
        self._now += seconds


@pytest.mark.parametrize("is_blocked", [False, True])
async def test_own_blocked_loop_loses_nobody(*, is_blocked: bool) -> None:
    """A worker that was blocked itself holds that against nobody; silence on time it does."""
    clock = Standstill()
    options = rpc.RpcOptions(heartbeat_interval=1, heartbeat_misses=1)
    async with cluster(2, clock=clock, options=options) as (agent, other):
        await agent.rpc_async("worker1", targets.who)
        for _ in range(3 if is_blocked else 1):
            agent.partition(["worker1"])  # of what comes, nothing is read
            await clock.advance(1)
            if is_blocked:
                clock.block(6)
                agent.heal()
            await clock.advance(1)

        assert ("present" if is_blocked else "lost") == state(agent, "worker1")
        if is_blocked:
            assert 1 == await agent.rpc_async("worker1", targets.echo, args=(1,))
        else:
            await other.shutdown(graceful=False)


async def test_left_gracefully() -> None:
    """A worker that left in order is unknown, not lost; calls that were out say so too."""
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", targets.sleep, args=(1000,))
        await a.rpc_async("worker1", targets.who)
        await b._agent.close("left", "it shut down")
        with pytest.raises(rpc.UnknownWorkerError, match="worker1 left the group") as out:
            await call
        with pytest.raises(rpc.UnknownWorkerError, match="could not find destination") as caught:
            a.rpc_async("worker1", targets.who)
        await b.shutdown(graceful=False)

    assert rpc.Delivery.UNKNOWN is out.value.delivery
    assert rpc.Delivery.NOT_SENT is caught.value.delivery


async def test_went_without_waiting(tmp_path: Path) -> None:
    """A worker that shut down without waiting is lost for that reason, and its calls fail."""
    async with mixed_group(tmp_path, 1) as (agent, (worker,)):
        call = agent.rpc_async("worker1", targets.sleep, args=(1000,))
        await agent.rpc_async("worker1", targets.who)
        await worker.tell("now")
        with pytest.raises(rpc.PeerLostError, match="it shut down without waiting"):
            await call
        lines = [await worker.line(), await worker.line()]
        code = await worker.process.wait()

        assert "lost" == state(agent, "worker1")
    assert ["leaving", "left"] == lines
    assert 0 == code


async def test_killed_without_a_link(tmp_path: Path) -> None:
    """The death of a worker that was never called is found out by the first call, soon."""
    async with mixed_group(tmp_path, 1) as (agent, (victim,)):
        victim.signal(signal.SIGKILL)
        await victim.process.wait()
        start = time.monotonic()
        with pytest.raises(rpc.PeerLostError, match="connection refused") as caught:
            await agent.rpc_async("worker1", targets.who)
        span = time.monotonic() - start

    assert span < 1
    assert rpc.Delivery.NOT_SENT is caught.value.delivery


async def test_killed_while_all_wait_for_it(tmp_path: Path) -> None:
    """A gather fails when a worker of the set dies, although nobody called that one before."""
    async with mixed_group(tmp_path, 1) as (agent, (victim,)):
        gather = asyncio.ensure_future(agent.all_gather(1))
        await asyncio.sleep(0.05)
        victim.signal(signal.SIGKILL)
        with pytest.raises(rpc.PeerLostError, match="worker1"):
            await gather
