"""`asyncrpc.store.etcd.keeper`: a lease on etcd outlives a loop that is blocked."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable

import pytest

import asyncrpc as rpc
from asyncrpc.store import EtcdStore, PrefixStore, keeper_of
from tests.etcd import etcd, needs_etcd, new_url
from tests.launcher.rendezvous.meeting import free_endpoint

__all__ = ("etcd", "new_url")

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.one_loop, needs_etcd]


async def test_it_renews_when_the_loop_does_not(new_url: Callable[[], str]) -> None:
    """By whichever member answers, and only once renewal is overdue."""
    url = new_url().replace("etcd://", f"etcd://{free_endpoint()},")
    async with await EtcdStore.connect(url, 20) as store, store.lease(2.0) as lease:
        await store.set("key", "", lease=lease)
        lease.abandon()
        keeper = keeper_of(PrefixStore("a", store), lease)
        assert keeper is not None
        with selectors.DefaultSelector() as selector:
            idle = keeper.turn(selector, lease.renewed + 0.9)
            end = time.monotonic() + 3.0
            while (now := time.monotonic()) < end:
                pause = keeper.turn(selector, now)
                assert 0 <= pause <= 1.2
                await asyncio.sleep(0.1)
            kept = await store.check(["key"])
            lease.mark_lost()
            assert keeper.turn(selector, time.monotonic() + 100) > 0
            keeper.close(selector)

        assert idle == pytest.approx(1 / 3)
        assert kept


async def test_the_record_of_a_blocked_worker_stays(new_url: Callable[[], str]) -> None:
    """Its loop, and with it all of this process, stands still for longer than its lease."""
    url = new_url()
    options = rpc.RpcOptions(
        secret=b"0123456789abcdef", init_method=url, heartbeat_interval=0.5, heartbeat_misses=4
    )
    agents = [await rpc.RpcAgent.start(f"w{number}", options=options) for number in range(2)]
    async with await EtcdStore.connect(url, 20) as store, store.watch("") as watch:
        await store.num_keys()
        time.sleep(3.0)
        answer = await agents[0].rpc_async("w1", len, ("abc",))
        await store.set("end", "")
        seen = []
        async for event in watch:
            if event.key == "end":
                break
            seen.append(event)
    await asyncio.gather(*(agent.shutdown() for agent in agents))

    assert answer == 3
    assert seen == []
