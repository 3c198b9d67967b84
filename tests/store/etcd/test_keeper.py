"""`asyncrpc.store.etcd.keeper`: a lease on etcd outlives a loop that is blocked."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable

import pytest

import asyncrpc as rpc
from asyncrpc.store import EtcdStore, Lease, PrefixStore, keeper_of
from tests.etcd import etcd, needs_etcd, new_url, on_one_loop
from tests.launcher.rendezvous.meeting import free_endpoint

__all__ = ("etcd", "new_url")

pytestmark = [*on_one_loop, needs_etcd]


async def seconds_left(store: EtcdStore, lease: Lease) -> int:
    """Return how long a lease lives if it is not renewed."""
    reply = await store._gateway.call("/v3/lease/timetolive", {"ID": str(lease.id)})
    return int(reply.fields["TTL"])


async def test_it_renews_when_the_loop_does_not(new_url: Callable[[], str]) -> None:
    """By whichever member answers, and only once renewal is overdue."""
    url = new_url().replace("etcd://", f"etcd://{free_endpoint()},")
    async with await EtcdStore.connect(url, 20) as store, store.lease(30.0) as lease:
        lease.abandon()
        while await seconds_left(store, lease) > 28:
            await asyncio.sleep(0.05)
        keeper = keeper_of(PrefixStore("a", store), lease)
        assert keeper is not None
        with selectors.DefaultSelector() as selector:
            pauses = [keeper.turn(selector, lease.renewed + now) for now in (1.0, 16.0, 17.0)]
            while await seconds_left(store, lease) < 29:
                await asyncio.sleep(0.05)
            lease.mark_lost()
            pauses.append(keeper.turn(selector, lease.renewed + 100))
            keeper.close(selector)

        assert pauses == pytest.approx([14.0, 5.0, 4.0, 5.0])


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
