"""`launcher.rendezvous.handover`: the store passes to the next node when its host leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from asyncrpc.store import TCPStore
from launcher.errors import RendezvousConnectionError
from launcher.rendezvous import (
    Change,
    Ending,
    Outcome,
    RendezvousHandler,
    RendezvousInfo,
)
from launcher.rendezvous.dynamic import DynamicRendezvous
from launcher.rendezvous.endpoint import parse_endpoint
from tests.launcher.rendezvous.meeting import SECRET, tcp

pytestmark = pytest.mark.asyncio


async def enter(handlers: Sequence[RendezvousHandler]) -> list[RendezvousInfo]:
    """Let handlers enter the next round together; the first one hosts the store."""
    await handlers[0].is_closed()
    return await asyncio.gather(*(handler.next_rendezvous() for handler in handlers))


def is_host(handler: RendezvousHandler) -> bool:
    """Say whether the store goes with a node."""
    assert isinstance(handler, DynamicRendezvous)
    return handler._place.is_host


async def connect(info: RendezvousInfo) -> TCPStore:
    """Connect to the run's store as a worker does."""
    host, port = parse_endpoint(info.store_url.removeprefix("tcp://"), 0)
    return await TCPStore.connect(host, port, 5.0, SECRET, run_id="run")


async def test_the_others_go_on_when_the_host_leaves() -> None:
    """In one new round, which is no restart, and in one new store."""
    async with tcp(1, 3) as make:
        handlers = make(), make(), make()
        first = await enter(handlers)
        await handlers[0].leave()
        closing = asyncio.create_task(handlers[0].close())
        others = handlers[1:]
        changes = await asyncio.gather(*(other.round_over() for other in others))
        infos = await asyncio.gather(*(other.next_rendezvous() for other in others))
        await closing

        assert all(isinstance(change, Change) for change in changes)
        assert {change.reason.endswith(" left") for change in changes} == {True}
        assert [(i.world_size, i.round, i.restarts) for i in infos] == [(2, 1, 0)] * 2
        assert sorted(info.rank for info in infos) == [0, 1]
        assert len({info.store_url for info in (first[0], *infos)}) == 2
        await infos[0].store.set("key", b"value")
        assert await infos[1].store.get("key", 5.0) == b"value"


async def test_those_who_are_quick_start_once() -> None:
    """They do not meet in the store that goes, only to meet again in the next one."""

    async def go_on(handler: RendezvousHandler) -> RendezvousInfo:
        await handler.round_over()
        return await handler.next_rendezvous()

    async with tcp(1, 3) as make:
        handlers = make(), make(), make()
        await enter(handlers)
        going_on = [asyncio.create_task(go_on(handler)) for handler in handlers[1:]]
        await handlers[0].leave()
        infos = [await each for each in going_on]
        await handlers[0].close()

        assert [info.round for info in infos] == [1, 1]
        for handler in handlers[1:]:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(handler.round_over(), 0.2)


async def test_what_workers_have_stored_is_handed_over() -> None:
    """Values and queues, but nothing that hung on the lease of one who is gone."""
    async with tcp(1, 2) as make:
        one, two = make(), make()
        first, _ = await enter([one, two])
        async with await connect(first) as store, store.lease(60.0) as lease:
            await store.multi_set(["a", "b"], ["1", "x" * 3_000_000])
            await store.set("leased", "2", lease=lease)
            await store.queue_push("queue", "3")
            await store.queue_push("queue", "4")
            await one.leave()
        await one.close()
        await two.round_over()
        async with await connect(await two.next_rendezvous()) as store:
            found = await store.multi_get(["a", "b"], 5.0)
            queued = [await store.queue_pop("queue", False) for _ in range(2)]

            assert [len(value) for value in found] == [1, 3_000_000]
            assert queued == [b"3", b"4"]
            assert not await store.check(["leased"])


async def test_the_store_passes_on_again_and_again() -> None:
    """To the next by rank, and in the end to nobody."""
    async with tcp(1, 4) as make:
        handlers = [make() for _ in range(4)]
        urls = {(await enter(handlers))[0].store_url}
        while len(handlers) > 1:
            leaver = handlers.pop([is_host(handler) for handler in handlers].index(True))
            await leaver.leave()
            await asyncio.gather(*(handler.round_over() for handler in handlers))
            infos = await asyncio.gather(*(handler.next_rendezvous() for handler in handlers))
            await leaver.close()
            urls.add(infos[0].store_url)

            assert sorted(info.rank for info in infos) == list(range(len(handlers)))
        await handlers[0].report(Outcome())

        assert len(urls) == 4
        assert await handlers[0].round_over() == Ending(is_success=True)


async def test_a_node_that_waits_takes_over_too() -> None:
    """The one that is left may be a spare."""
    async with tcp(2, 2) as make:
        one, two, spare = make(), make(), make()
        await enter([one, two])
        standing_by = asyncio.create_task(spare.next_rendezvous())
        assert isinstance(one, DynamicRendezvous)
        while len(await one._members.nodes()) < 3:
            await asyncio.sleep(0.01)
        await one.leave()
        await two.round_over()
        infos = await asyncio.gather(two.next_rendezvous(), standing_by)
        await one.close()

        assert sorted(info.rank for info in infos) == [0, 1]
        assert infos[0].store_url == infos[1].store_url


async def test_too_few_to_go_on_end_with_the_host() -> None:
    """There is nobody to hand the store to."""
    async with tcp(2, 2) as make:
        one, two = make(), make()
        await enter([one, two])
        await one.leave()
        end = await two.round_over()

        assert isinstance(end, Ending)
        assert end.reason.endswith("which hosts the run's store, was stopped")


async def test_all_leave_at_once() -> None:
    """Nobody waits for an heir that goes itself."""
    async with tcp(1, 3) as make:
        handlers = make(), make(), make()
        await enter(handlers)
        async with asyncio.timeout(4.0):  # below the patience with one heir
            await asyncio.gather(*(handler.leave() for handler in handlers))
            await asyncio.gather(*(handler.close() for handler in handlers))


async def test_the_failure_budget_goes_along() -> None:
    """A restart that was counted stays counted; the next failure is one too many."""
    async with tcp(1, 3) as make:
        handlers = make(), make(), make()
        await enter(handlers)
        await handlers[2].report(Outcome("x", 7, 1))
        await asyncio.gather(*(handler.round_over() for handler in handlers))
        await asyncio.gather(*(handler.next_rendezvous() for handler in handlers))
        await handlers[0].leave()
        others = handlers[1:]
        await asyncio.gather(*(other.round_over() for other in others))
        infos = await asyncio.gather(*(other.next_rendezvous() for other in others))

        assert [(info.round, info.restarts) for info in infos] == [(2, 1)] * 2


async def test_an_heir_that_does_not_answer_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one after it is asked."""
    async with tcp(1, 3) as make:
        handlers = [make(heartbeat_timeout=0.4) for _ in range(3)]
        infos = await enter(handlers)
        first = handlers[0]
        others = sorted(handlers[1:], key=lambda one: infos[handlers.index(one)].rank)
        assert isinstance(others[0], DynamicRendezvous)

        async def refuse() -> str:
            raise RendezvousConnectionError("nothing can be listened at")

        monkeypatch.setattr(others[0]._place, "offer", refuse)
        await first.leave()
        await asyncio.gather(*(other.round_over() for other in others))
        again = await asyncio.gather(*(other.next_rendezvous() for other in others))
        await first.close()

        assert [is_host(other) for other in others] == [False, True]
        assert sorted(info.rank for info in again) == [0, 1]
        assert "cannot be taken over here: nothing can be listened at" in caplog.text
