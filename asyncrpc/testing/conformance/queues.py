"""What queues and barriers of every store do."""

from __future__ import annotations

import asyncio

from asyncrpc.errors import QueueEmptyError, StoreError, StoreTimeoutError
from asyncrpc.store import Store
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


async def queues_are_first_in_first_out(connect: Connect) -> None:
    """A queue gives values in the order they came, and exists while it holds any."""
    store = await connect()
    key = "conformance/queue"
    await failing(QueueEmptyError, store.queue_pop(key, block=False))
    for number in range(3):
        await store.queue_push(key, str(number))
    equal(await store.queue_len(key), 3, "length")
    equal(await store.check([key]), True, "a queue that holds something exists")
    equal([await store.queue_pop(key) for _ in range(3)], [b"0", b"1", b"2"], "order")
    equal(await store.queue_len(key), 0, "nothing is left")
    equal(await store.check([key]), False, "an empty queue does not exist")
    await store.queue_push(key, "x")
    equal(await store.delete_key(key), True, "delete_key removes a queue")
    equal(await store.queue_len(key), 0, "and what was in it")


async def queue_pop_waits(connect: Connect) -> None:
    """A blocking `queue_pop` waits its turn; its time-out names the queue."""
    one, two = await connect(), await connect()
    error = await failing(StoreTimeoutError, one.queue_pop("conformance/q", timeout=SHORT))
    equal(error.keys, ("conformance/q",), "the error has the key")
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(one.queue_pop("conformance/q", True, 5)) for _ in range(3)]
        await settle(one)
        for number in range(3):
            await two.queue_push("conformance/q", str(number))
    equal([task.result() for task in waiting], [b"0", b"1", b"2"], "in order of arrival")


async def queues_deliver_once(connect: Connect) -> None:
    """Every value goes to one of those who pop, also if others are cancelled meanwhile."""
    stores = [await connect() for _ in range(3)]
    popped: list[bytes] = []
    is_done = asyncio.Event()

    async def consume(store: Store) -> None:
        while True:
            popped.append(await store.queue_pop("conformance/jobs"))
            if len(popped) == 60:
                is_done.set()

    lasting = [asyncio.create_task(consume(store)) for store in stores]
    for number in range(60):
        doomed = asyncio.create_task(consume(stores[number % 3]))
        await stores[number % 2].queue_push("conformance/jobs", str(number))
        doomed.cancel()
        await asyncio.gather(doomed, return_exceptions=True)
    async with asyncio.timeout(5):
        await is_done.wait()
    for task in lasting:
        task.cancel()
    await asyncio.gather(*lasting, return_exceptions=True)
    equal(sorted(popped, key=int), [b"%d" % number for number in range(60)], "each came once")


async def barriers_hold_until_all_are_there(connect: Connect) -> None:
    """A barrier opens when all have arrived, and serves again."""
    stores = [await connect() for _ in range(3)]
    for _ in range(3):
        early = [asyncio.create_task(store.barrier("conformance/b", 3, 5)) for store in stores[:2]]
        await settle(stores[0])
        await settle(stores[1])
        true(not any(task.done() for task in early), "two of three wait")
        await stores[2].barrier("conformance/b", 3, 5)
        await asyncio.gather(*early)
    await stores[0].barrier("conformance/alone", 1, 0)


async def barriers_time_out(connect: Connect) -> None:
    """The time-out of a barrier says how many arrived, and takes the arrival back."""
    one, two = await connect(), await connect()
    error = await failing(StoreTimeoutError, one.barrier("conformance/b", 3, SHORT))
    true("1 of 3" in str(error), f"the text says 1 of 3: {error}")
    waiting = asyncio.create_task(one.barrier("conformance/b", 2, 5))
    await settle(one)
    await failing(StoreError, two.barrier("conformance/b", 5, 5))
    await two.barrier("conformance/b", 2, 5)
    await waiting


CHECKS: tuple[StoreCheck, ...] = (
    queues_are_first_in_first_out,
    queue_pop_waits,
    queues_deliver_once,
    barriers_hold_until_all_are_there,
    barriers_time_out,
)
