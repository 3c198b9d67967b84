"""What watches of every store report."""

from __future__ import annotations

import asyncio

from asyncrpc.errors import StoreError
from asyncrpc.testing.conformance.checking import (
    Connect,
    StoreCheck,
    collect,
    equal,
    failing,
    settle,
    take,
)

__all__ = ("CHECKS",)


async def watches_report_changes(connect: Connect) -> None:
    """A watch reports every change under its prefix, in order, with rising versions."""
    one, two = await connect(), await connect()
    async with one.watch("conformance/w/") as watch:
        await one.set("conformance/w/a", "1")
        await two.set("conformance/other", "x")
        await two.add("conformance/w/n", 3)
        await two.append("conformance/w/a", "2")
        await one.compare_set("conformance/w/a", "no", "x")
        await one.multi_set(["conformance/w/b", "conformance/w/a"], ["b", "c"])
        await two.delete_key("conformance/w/a")
        events = await take(watch, 6)
    equal(
        [(event.kind, event.key, event.value) for event in events],
        [
            ("put", "conformance/w/a", b"1"),
            ("put", "conformance/w/n", b"3"),
            ("put", "conformance/w/a", b"12"),
            ("put", "conformance/w/b", b"b"),
            ("put", "conformance/w/a", b"c"),
            ("delete", "conformance/w/a", b""),
        ],
        "all changes, nothing else",
    )
    versions = [event.version for event in events]
    equal(sorted(set(versions)), versions, "versions rise")


async def watches_stand_from_the_call(connect: Connect) -> None:
    """A watch sees what its client does next, though nothing was awaited in between."""
    store = await connect()
    watch = store.watch("conformance/")
    await store.set("conformance/a", "x")
    equal((await take(watch, 1))[0].key, "conformance/a", "the very next change")
    await watch.aclose()
    await failing(StopAsyncIteration, anext(watch))


async def closed_watches_let_go(connect: Connect) -> None:
    """Closing a watch ends a task that waits in it, and closing twice is allowed."""
    store = await connect()
    watch = store.watch("conformance/")
    task = asyncio.create_task(collect(watch))
    await settle(store)
    await watch.aclose()
    await watch.aclose()
    equal(await task, [], "the iteration stops")


async def watches_resume(connect: Connect) -> None:
    """`watch(since=)` reports exactly what came after a snapshot or an event."""
    one, two = await connect(), await connect()
    await one.set("conformance/w/a", "old")
    values, version = await one.snapshot("conformance/w/")
    equal(values, {"conformance/w/a": b"old"}, "the snapshot has keys and values")
    await two.set("conformance/w/a", "new")
    await two.delete_key("conformance/w/a")
    async with one.watch("conformance/w/", since=version) as watch:
        events = await take(watch, 2)
        equal([event.kind for event in events], ["put", "delete"], "what came after it")
        await two.set("conformance/w/b", "x")
        equal((await take(watch, 1))[0].key, "conformance/w/b", "and what comes now")
    async with one.watch("conformance/w/", since=events[0].version) as watch:
        equal((await take(watch, 1))[0], events[1], "events after an event")


async def watches_refuse_other_versions(connect: Connect) -> None:
    """Resuming after a version the store never had fails, in the iteration."""
    store = await connect()
    _, version = await store.snapshot("conformance/")
    watch = store.watch("conformance/", since=version + 1000)
    await failing(StoreError, anext(watch))
    await watch.aclose()


CHECKS: tuple[StoreCheck, ...] = (
    watches_report_changes,
    watches_stand_from_the_call,
    closed_watches_let_go,
    watches_resume,
    watches_refuse_other_versions,
)
