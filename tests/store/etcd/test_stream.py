"""`asyncrpc.store.etcd.stream` and `hub`: watches and waits outlive connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from asyncrpc.store import EtcdStore, StoreError, StoreEvent, StoreWatch
from launcher.testing import EtcdCluster
from tests.etcd import etcd, needs_etcd, new_url, on_one_loop
from tests.store.etcd.test_gateway import proxied

__all__ = ("etcd", "new_url")

pytestmark = [*on_one_loop, needs_etcd]


async def take(watch: StoreWatch, count: int) -> list[StoreEvent]:
    """Return the next events of a watch."""
    async with asyncio.timeout(10):
        return [await anext(watch) for _ in range(count)]


async def compact(store: EtcdStore) -> None:
    """Let etcd forget all that has happened until now."""
    revision = str(await store._core.revision())
    await store._gateway.call("/v3/kv/compaction", {"revision": revision})


async def test_a_watch_tells_all_once_over_a_bad_network(new_url: Callable[[], str]) -> None:
    """In order, however often its connection breaks, in the middle of a transaction too."""
    url = new_url()
    async with (
        proxied(url) as (proxy, bad_url),
        await EtcdStore.connect(bad_url, 20) as reader,
        await EtcdStore.connect(url, 20) as writer,
        reader.watch("w/") as watch,
    ):
        await reader.num_keys()  # the watch stands
        for number in range(60):
            await writer.multi_set([f"w/{number}a", f"w/{number}b", "other"], ["1", "2", "3"])
            if number % 4 == 0:
                proxy.disconnect_all(reset=number % 8 == 0)
        proxy.heal()
        events = await take(watch, 120)

    assert [event.key for event in events] == [f"w/{n}{x}" for n in range(60) for x in "ab"]
    versions = [event.version for event in events]
    assert versions == sorted(set(versions))


async def test_a_watch_resumes_within_a_transaction(new_url: Callable[[], str]) -> None:
    """Behind each of its events, with exactly what followed."""
    async with await EtcdStore.connect(new_url(), 20) as store:
        _, start = await store.snapshot()
        await store.multi_set(["a", "b", "c"], ["1", "2", "3"])
        await store.delete_key("b")
        async with store.watch("", since=start) as watch:
            events = await take(watch, 4)
        tails = []
        for event in events[:-1]:
            async with store.watch("", since=event.version) as watch:
                tails.append(await take(watch, 1))

    assert [(event.kind, event.key) for event in events] == [
        ("put", "a"),
        ("put", "b"),
        ("put", "c"),
        ("delete", "b"),
    ]
    assert tails == [[event] for event in events[1:]]


async def test_what_was_compacted_cannot_be_watched(new_url: Callable[[], str]) -> None:
    """Neither from the beginning nor from before; what is later can."""
    async with await EtcdStore.connect(new_url(), 20) as store:
        _, old = await store.snapshot()
        for number in range(3):
            await store.set("a", str(number))
        await compact(store)
        for since in (0, old):
            watch = store.watch("", since=since)
            with pytest.raises(StoreError, match=f"version {since} is too old to resume a watch"):
                await take(watch, 1)
            await watch.aclose()
        _, now = await store.snapshot()
        await store.set("a", "new")
        async with store.watch("", since=now) as watch:
            assert [event.value for event in await take(watch, 1)] == [b"new"]


async def test_waits_look_anew_at_what_was_compacted_meanwhile(new_url: Callable[[], str]) -> None:
    """A key that came while the connection was broken is found though nobody can tell of it."""
    url = new_url()
    async with (
        proxied(url) as (proxy, bad_url),
        await EtcdStore.connect(bad_url, 20) as waiter,
        await EtcdStore.connect(url, 20) as other,
    ):
        waits = [
            asyncio.create_task(waiter.get("late", 15)),
            asyncio.create_task(waiter.queue_pop("q", True, 15)),
            asyncio.create_task(waiter.barrier("b", 2, 15)),
        ]
        while waiter._core.hub._running is None:
            await asyncio.sleep(0.01)
        await waiter.num_keys()
        while len(await raw_keys(other, "t/")) + len(await raw_keys(other, "a/")) < 2:
            await asyncio.sleep(0.01)
        proxy.refuse()
        proxy.disconnect_all()
        arriving = asyncio.create_task(other.barrier("b", 2, 15))
        await other.set("late", "1")
        await other.queue_push("q", "2")
        await arriving
        await other.set("x", "y")
        await compact(other)
        proxy.accept()

        assert await asyncio.gather(*waits) == [b"1", b"2", None]


async def raw_keys(store: EtcdStore, folder: str) -> list[str]:
    """Return what a store has of one kind in etcd."""
    place = store._core.layout.root + folder.encode()
    from asyncrpc.store.etcd.messages import read_prefix, rows_of

    (found,), _ = await store._core.look([read_prefix(place)])
    return [row.key.decode() for row in rows_of(found)]


@pytest.fixture
def three() -> Iterator[EtcdCluster]:
    """Give an etcd of three members."""
    with EtcdCluster(3) as cluster:
        yield cluster


async def test_a_member_that_stands_still_is_left(three: EtcdCluster) -> None:
    """Its connections stay open, and say nothing; requests and watches go elsewhere."""
    url = f"{three.url('p')}"
    async with await EtcdStore.connect(url, 20) as store, store.watch("") as watch:
        await store.set("a", "1")
        waiting = asyncio.create_task(store.get("b"))
        await take(watch, 1)
        three.pause(0)  # the first of the members is the one that is asked
        async with await EtcdStore.connect(f"etcd://{three.endpoint_of(1)}/p", 20) as other:
            await other.set("b", "2")
            found = await asyncio.wait_for(waiting, 15)
            events = await take(watch, 1)
        await store.set("c", "3")
        three.resume(0)

    assert found == b"2"
    assert [event.key for event in events] == ["b"]
