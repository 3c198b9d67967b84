"""A store on an etcd whose members die, stand still and come back: nothing is lost or doubled.

``ETCD_SEEDS`` says how many schedules of that are tried.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest

from asyncrpc.store import EtcdStore, Store
from asyncrpc.testing.linearizability import History, Kind, Recorder, find_violation
from launcher.testing import EtcdCluster
from tests.etcd import needs_etcd, on_one_loop

pytestmark = [*on_one_loop, pytest.mark.timeout(120), needs_etcd]

SEEDS = int(os.environ.get("ETCD_SEEDS", "1"))
MEMBERS = 3
KINDS: tuple[Kind, ...] = ("set", "get", "get", "add", "compare_set", "delete_key")


async def work(recorder: Recorder, number: int, stop: asyncio.Event) -> None:
    """Do one operation after the other on a few keys."""
    source = random.Random(number)
    for step in range(2000):
        if stop.is_set():
            return
        kind = source.choice(KINDS)
        fresh = b"%d" % (number * 10_000 + step)
        arguments: dict[str, tuple[bytes | int, ...]] = {
            "set": (fresh,),
            "add": (1,),
            "compare_set": (source.choice((b"", b"1")), fresh),
        }
        await recorder.run(kind, f"{source.randrange(4)}", *arguments.get(kind, ()))
        await asyncio.sleep(source.uniform(0, 0.02))


async def produce(store: Store, stop: asyncio.Event) -> int:
    """Count, and put each number into a queue; return how many."""
    for number in range(2000):
        if stop.is_set():
            return number
        await store.queue_push("queue", str(number))
        assert await store.add("count", 1) == number + 1
        await asyncio.sleep(0.01)
    return 2000


async def harm(cluster: EtcdCluster, source: random.Random, rounds: int) -> None:
    """Let members die or stand still for a moment, the leader for one."""
    for number in range(rounds):
        leader = await asyncio.to_thread(cluster.leader)
        kinds: list[tuple[Callable[[], None], Callable[[], None]]] = [
            (partial(cluster.kill, leader), partial(cluster.start, leader)),
            (partial(cluster.pause, leader), partial(cluster.resume, leader)),
            (cluster.kill_all, cluster.start_all),
        ]
        begin, end = kinds[0] if number == 0 else source.choice(kinds)
        begin()
        await asyncio.sleep(source.uniform(0.5, 1.5))
        end()
        await asyncio.sleep(source.uniform(0.5, 1.5))


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_store_stays_whole_while_members_of_etcd_die(seed: int) -> None:
    """Operations can be explained by one order, no value of a queue is lost or comes twice."""
    source = random.Random(seed)
    history, stop = History(), asyncio.Event()
    with EtcdCluster(MEMBERS) as cluster:
        async with AsyncExitStack() as stack:
            stores = [
                await stack.enter_async_context(await EtcdStore.connect(cluster.url("p"), 60))
                for _ in range(5)
            ]
            working = [
                asyncio.create_task(work(Recorder(store, history), n, stop))
                for n, store in enumerate(stores[:3])
            ]
            producing = asyncio.create_task(produce(stores[3], stop))
            watch = stores[4].watch("count")
            await anext(watch)
            await harm(cluster, source, 1 if SEEDS == 1 else 4)
            await anext(watch)  # it goes on
            stop.set()
            await asyncio.gather(*working)
            count = await producing
            popped = [await stores[4].queue_pop("queue", False) for _ in range(count)]
            left = await stores[4].queue_len("queue")
            counted = [int((await anext(watch)).value) for _ in range(2, count)]
            await watch.aclose()

    assert find_violation(history.operations) is None
    assert popped == [b"%d" % number for number in range(count)]
    assert left == 0
    assert counted == list(range(3, count + 1))
