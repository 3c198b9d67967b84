"""Holders and owners that die, stop or restart: real processes, and SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.agent.groups import until
from tests.agent.processes import mixed_group
from tests.rref import workers
from tests.rref.workers import Counter, empty

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]


async def test_killed_holder(tmp_path: Path) -> None:
    """What it held is free within the detection time; values that others hold are not touched."""
    async with mixed_group(tmp_path, 2) as (agent, (victim, _)):
        mine = [agent.rref([n]) for n in range(50)]
        theirs = agent.remote("worker2", Counter, args=(1,))
        await theirs
        await agent.rpc_async("worker1", workers.keep, args=(*mine, theirs))
        before = agent.debug_info()["num_forks"]
        del mine
        victim.signal(signal.SIGKILL)
        killed = time.monotonic()
        await until(lambda: agent.debug_info()["num_forks"] == "0")
        span = time.monotonic() - killed
        assert 2 == await theirs.rpc_async().plus()
        await theirs.release()
        left = await empty([agent])

    assert "50" == before
    assert span < 3
    assert {} == left


async def test_killed_owner(tmp_path: Path) -> None:
    """Reads, calls and passing on fail at once with OwnerLostError, those in flight too."""
    async with mixed_group(tmp_path, 2) as (agent, (victim, _)):
        rref = agent.remote("worker1", Counter, args=(1,))
        await rref
        pending = agent.remote("worker1", workers.make_slowly, args=("never", 1))
        await until(pending.confirmed_by_owner)
        in_flight = [pending.to_here(), rref.rpc_async().slow("never")]
        await agent.rpc_async("worker1", os.getpid)
        victim.signal(signal.SIGKILL)
        killed = time.monotonic()
        # a method may have run, so it is not sent again, and fails as soon as the link does
        for call, kinds in zip(in_flight, (rpc.OwnerLostError, rpc.PeerLostError), strict=True):
            with pytest.raises((rpc.OwnerLostError, kinds), match="worker1") as caught:
                await call
            assert rpc.Delivery.UNKNOWN is caught.value.delivery
        span = time.monotonic() - killed
        for one in (rref, pending):
            with pytest.raises(rpc.OwnerLostError, match="the owner was lost"):
                one.to_here()
            with pytest.raises(rpc.OwnerLostError):
                one.rpc_async().plus()
            with pytest.raises(rpc.OwnerLostError):
                agent.rpc_async("worker2", workers.echo, args=(one,))
            assert not one.confirmed_by_owner()
        await rref.release()
        del rref, pending, one, caught
        in_flight.clear()
        del call
        assert {} == await empty([agent])

    assert span < 3


async def test_release_ends_with_its_owner(tmp_path: Path) -> None:
    """Who waits until the owner knows of the end is woken when the owner is gone."""
    async with mixed_group(tmp_path, 1) as (agent, (victim,)):
        rref = agent.remote("worker1", Counter)
        await rref
        victim.signal(signal.SIGSTOP)
        releasing = asyncio.ensure_future(rref.release())
        await asyncio.sleep(0.05)
        assert not releasing.done()
        victim.signal(signal.SIGKILL)
        await releasing
        assert {} == await empty([agent])


async def test_owner_that_leaves() -> None:
    """An owner that shut down is as gone as one that died."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", Counter)
        await rref
        reading = a.remote("worker1", workers.make_slowly, args=("never", 1)).to_here()
        await until(lambda: b.references.machine._owners._fetches)
        await b._agent.close("left", "it shut down")
        with pytest.raises(rpc.OwnerLostError):
            await reading
        with pytest.raises(rpc.OwnerLostError):
            rref.to_here()
        await b.shutdown(graceful=False)


async def test_parent_that_dies(tmp_path: Path) -> None:
    """A reference that a dead worker passed on is good once its owner knows it."""
    async with mixed_group(tmp_path, 2) as (agent, (parent, _)):
        await agent.rpc_async("worker1", workers.create_and_keep, args=("worker2",))
        (rref,) = await agent.rpc_async("worker1", workers.give)
        parent.signal(signal.SIGKILL)
        await until(lambda: len(agent.get_worker_infos()) == 2)

        assert 1 == await rref.rpc_async().plus()
        await rref.release()
        assert {} == await empty([agent])
