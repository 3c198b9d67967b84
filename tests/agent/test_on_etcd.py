"""Groups whose store is a real etcd: found by URL, or handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import asyncrpc as rpc
from asyncrpc.store import EtcdStore
from launcher.testing import EtcdCluster
from tests.etcd import etcd, needs_etcd, new_url, on_one_loop

__all__ = ("etcd", "new_url")

pytestmark = [*on_one_loop, needs_etcd]

SECRET = b"0123456789abcdef"


async def exchange(first: rpc.RpcAgent, second: rpc.RpcAgent) -> tuple[int, int]:
    """Let two workers call each other."""
    return await first.rpc_async(second.info, min, (1, 2)), await second.rpc_async(
        first.info, max, (1, 2)
    )


@pytest.mark.parametrize("variable", [True, False])
async def test_a_static_group_meets_at_a_url(
    new_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    """Of the options, or of the environment; nobody has to serve it."""
    url = new_url()
    if variable:
        monkeypatch.setenv("LAUNCHER_STORE", url)
    options = rpc.RpcOptions(secret=SECRET, init_method="env://" if variable else url)
    starts = [rpc.RpcAgent.start(f"w{n}", None, n, 2, options) for n in range(2)]
    first, second = await asyncio.gather(*starts)
    found = await exchange(first, second)
    infos = first.get_worker_infos()
    await asyncio.gather(first.shutdown(), second.shutdown())

    assert found == (1, 2)
    assert [info.name for info in infos] == ["w0", "w1"]


async def test_workers_join_and_leave_over_a_store_that_was_given(
    new_url: Callable[[], str],
) -> None:
    """A dynamic group, each with a client of its own."""
    options = rpc.RpcOptions(secret=SECRET)
    url = new_url()
    async with await EtcdStore.connect(url) as one, await EtcdStore.connect(url) as two:
        first = await rpc.RpcAgent.start(options=options, store=one)
        second = await rpc.RpcAgent.start(options=options, store=two)
        found = await exchange(first, second)
        events = first.monitor("worker1")
        joined = await anext(events)
        await second.shutdown()
        left = await anext(events)
        await events.aclose()
        await first.shutdown()

    assert found == (1, 2)
    assert (joined.kind, left.kind) == ("joined", "left")


async def test_a_group_outlives_a_pause_of_etcd_that_is_longer_than_its_leases() -> None:
    """Workers go on calling each other, nobody is lost, and who leaves later is missed."""
    with EtcdCluster() as cluster:
        options = rpc.RpcOptions(
            secret=SECRET,
            init_method=cluster.url("p"),
            heartbeat_interval=0.5,
            heartbeat_misses=4,
        )
        agents = [await rpc.RpcAgent.start(f"w{n}", options=options) for n in range(2)]
        events = agents[0].monitor()
        joined = [(await anext(events)).kind for _ in agents]
        cluster.kill()
        for _ in range(5):
            await asyncio.sleep(0.5)
            assert await exchange(*agents) == (1, 2)
        cluster.start()
        await asyncio.to_thread(cluster.wait_until_ready)
        assert await exchange(*agents) == (1, 2)
        await agents[1].shutdown()
        left = await anext(events)
        await events.aclose()
        await agents[0].shutdown()

    assert joined == ["joined", "joined"]
    assert (left.kind, left.worker.name) == ("left", "w1")


@pytest.mark.parametrize("method", ["etcd://", "etcd:///p"])
async def test_a_url_without_members_is_refused(method: str) -> None:
    """At once, with the option's name."""
    with pytest.raises(ValueError, match=r"^init_method must be .*etcd://host:port/prefix, got"):
        rpc.RpcOptions(init_method=method)
