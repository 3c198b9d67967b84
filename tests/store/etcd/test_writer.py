"""`asyncrpc.store.etcd.writer`: writes happen once, and clients that fell silent begin anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asyncrpc.store import EtcdStore
from asyncrpc.store.etcd.messages import put
from tests.etcd import etcd, needs_etcd, new_url, on_one_loop
from tests.store.etcd.test_stream import raw_keys

__all__ = ("etcd", "new_url")

pytestmark = [*on_one_loop, needs_etcd]


async def lose_session(store: EtcdStore) -> None:
    """Let a client's session lapse, as if it had been silent for too long."""
    session = store._core.writer._session
    assert session is not None
    await store._gateway.call("/v3/lease/revoke", {"ID": str(session.lease.id)})


async def test_a_copy_of_an_old_write_does_nothing(new_url: Callable[[], str]) -> None:
    """It was held up on the way, and a later one has been carried out."""
    async with await EtcdStore.connect(new_url(), 20) as store:
        sent: list[Any] = []
        call = store._gateway.call

        async def noting(
            path: str, body: dict[str, object], timeout: float | None = None
        ) -> object:
            sent.append(body)
            return await call(path, body, timeout)

        store._gateway.call = noting  # type: ignore[method-assign,assignment] # passed on
        await store.set("a", "1")
        first = sent[-1]
        await store.set("a", "2")
        reply = await call("/v3/kv/txn", first)

        assert "succeeded" not in reply.fields
        assert await store.get("a") == b"2"


@pytest.mark.parametrize("is_done", [True, False])
async def test_what_was_cancelled_is_undone_if_it_came_too_late(
    new_url: Callable[[], str], is_done: bool
) -> None:
    """Else it never happens."""
    async with await EtcdStore.connect(new_url(), 20) as store:
        writer = store._core.writer
        place = store._core.layout.value("a")
        await writer.write([], [put(place, b"before")])
        number = writer.number if is_done else writer.number + 1
        await writer.undo(number, [put(place, b"undone")], [put(place + b"b", b"always")])

        assert await store.get("a") == (b"undone" if is_done else b"before")
        assert await store.get("ab") == b"always"
        await store.set("a", "later")
        assert await store.get("a") == b"later"


async def test_a_client_whose_session_has_lapsed_goes_on(new_url: Callable[[], str]) -> None:
    """With a new one; what it waits for it waits for again."""
    url = new_url()
    async with await EtcdStore.connect(url, 20) as store, await EtcdStore.connect(url, 20) as other:
        await store.set("a", "1")
        await lose_session(store)
        await store.set("a", "2")
        popping = asyncio.create_task(store.queue_pop("q", True, 15))
        arriving = asyncio.create_task(store.barrier("b", 2, 15))
        while not (await raw_keys(other, "t/") and await raw_keys(other, "a/")):
            await asyncio.sleep(0.01)
        await store.num_keys()
        await lose_session(store)
        while not (await raw_keys(other, "t/") and await raw_keys(other, "a/")):
            await asyncio.sleep(0.01)
        await other.queue_push("q", "x")
        await other.barrier("b", 2, 15)
        await arriving

        assert await store.get("a") == b"2"
        assert await popping == b"x"


async def test_nothing_of_a_client_is_left_when_it_closes(new_url: Callable[[], str]) -> None:
    """Neither its session nor its places in queues and barriers."""
    url = new_url()
    async with await EtcdStore.connect(url, 20) as observer:
        async with await EtcdStore.connect(url, 20) as store:
            waits = [
                asyncio.create_task(store.queue_pop("q")),
                asyncio.create_task(store.barrier("b", 2)),
            ]
            await store.set("a", "1")
            while not (await raw_keys(observer, "t/") and await raw_keys(observer, "a/")):
                await asyncio.sleep(0.01)
        await asyncio.gather(*waits, return_exceptions=True)
        left = [await raw_keys(observer, folder) for folder in ("a/", "q/", "t/", "w/")]

    assert left == [[], [], [], []]


async def test_who_died_is_missed_when_its_session_has_lapsed(
    new_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits behind it in a queue has its turn then."""
    monkeypatch.setattr("asyncrpc.store.etcd.writer.SESSION_TTL", 2.0)
    url = new_url()
    async with await EtcdStore.connect(url, 20) as dying, await EtcdStore.connect(url, 20) as store:
        doomed = asyncio.create_task(dying.queue_pop("q"))
        while not await raw_keys(store, "t/"):
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(store.queue_pop("q", True, 15))
        while len(await raw_keys(store, "t/")) < 2:
            await asyncio.sleep(0.01)
        session = dying._core.writer._session
        assert session is not None
        session.lease.abandon()
        doomed.cancel()
        monkeypatch.setattr(dying._core, "spawn", lambda activity: activity.close())  # it is dead
        await asyncio.gather(doomed, return_exceptions=True)
        await store.queue_push("q", "x")
        assert await store.queue_len("q") == 1

        assert await waiting == b"x"
