"""How every store lets its clients wait for keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from asyncrpc.errors import StoreTimeoutError
from asyncrpc.testing.conformance.checking import (
    SHORT,
    Connect,
    StoreCheck,
    equal,
    failing,
    settle,
    true,
)

__all__ = ("CHECKS",)


async def get_waits_for_the_key(connect: Connect) -> None:
    """`get` of an absent key waits until somebody writes it."""
    one, two = await connect(), await connect()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(one.get("conformance/late", 5))
        await settle(one)
        await two.set("conformance/late", "now")
    equal(waiting.result(), b"now", "get returns the value it waited for")


async def get_times_out(connect: Connect) -> None:
    """`get` gives up in time with an error that names the key; 0 asks only once."""
    store = await connect()
    for timeout in (0, SHORT):
        error = await failing(StoreTimeoutError, store.get("conformance/absent", timeout))
        equal(error.keys, ("conformance/absent",), "the error has the key")
        true("conformance/absent" in str(error), "the error's text names the key")
        true(isinstance(error, TimeoutError), "the error is a TimeoutError")


async def every_write_wakes_waiters(connect: Connect) -> None:
    """A waiter is woken by each operation that makes a key exist."""
    one, two = await connect(), await connect()
    writes: dict[str, Callable[[str], Awaitable[object]]] = {
        "set": lambda key: two.set(key, "x"),
        "add": lambda key: two.add(key, 1),
        "append": lambda key: two.append(key, "x"),
        "multi_set": lambda key: two.multi_set(["conformance/other", key], ["x", "y"]),
        "compare_set": lambda key: two.compare_set(key, "", "x"),
        "queue_push": lambda key: two.queue_push(key, "x"),
    }
    for name, write in writes.items():
        key = f"conformance/woken by {name}"
        async with asyncio.TaskGroup() as group:
            group.create_task(one.wait([key], 5))
            await settle(one)
            await write(key)


async def wait_wants_all_keys(connect: Connect) -> None:
    """`wait` returns when all keys exist, not before; of none it returns at once."""
    one, two = await connect(), await connect()
    await one.wait([])
    waiting = asyncio.create_task(one.wait(["conformance/a", "conformance/b"], 5))
    await two.set("conformance/a", "")
    await settle(one)
    true(not waiting.done(), "one of two keys does not end the wait")
    await two.set("conformance/b", "")
    await waiting


async def wait_wants_keys_at_one_moment(connect: Connect) -> None:
    """A key that was deleted while others were awaited is awaited again."""
    one, two = await connect(), await connect()
    waiting = asyncio.create_task(one.multi_get(["conformance/a", "conformance/b"], 5))
    await settle(one)
    await two.set("conformance/a", "old")
    await two.delete_key("conformance/a")
    await two.set("conformance/b", "b")
    await settle(one)
    true(not waiting.done(), "a deleted key does not exist")
    await two.set("conformance/a", "new")
    equal(await waiting, [b"new", b"b"], "values are those of one moment")


async def wait_names_missing_keys(connect: Connect) -> None:
    """The time-out of a wait names the keys that are missing, and only those."""
    store = await connect()
    await store.set("conformance/here", "")
    keys = ["conformance/x", "conformance/here", "conformance/y"]
    for wait in (store.wait, store.multi_get):
        error = await failing(StoreTimeoutError, wait(keys, SHORT))
        equal(error.keys, ("conformance/x", "conformance/y"), "the error has the missing keys")


async def cancelled_waits_are_withdrawn(connect: Connect) -> None:
    """Who was cancelled waiting takes nothing from a queue and no place in a barrier."""
    one, two = await connect(), await connect()
    starts: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
        lambda: one.queue_pop("conformance/q"),
        lambda: one.barrier("conformance/b", 2),
    )
    for start in starts:
        task = asyncio.create_task(start())
        await settle(one)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        true(task.cancelled(), "a cancelled wait raises CancelledError")
    await settle(one)
    await two.queue_push("conformance/q", "x")
    equal(await two.queue_len("conformance/q"), 1, "the value is still there")
    await failing(StoreTimeoutError, two.barrier("conformance/b", 2, SHORT))


CHECKS: tuple[StoreCheck, ...] = (
    get_waits_for_the_key,
    get_times_out,
    every_write_wakes_waiters,
    wait_wants_all_keys,
    wait_wants_keys_at_one_moment,
    wait_names_missing_keys,
    cancelled_waits_are_withdrawn,
)
