"""`TorchStoreServer` under real torch: its TCPStore and PrefixStore as clients; needs torch."""

from __future__ import annotations

import itertools
import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.store.torch_wire import EXCHANGES, FORGET, RawClient, ping, pong

torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")
distributed = torch.distributed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

SERVER = """
import asyncio, sys
from asyncrpc.store import TorchStoreServer

async def main():
    async with TorchStoreServer() as server:
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(server.debug_info()["waiting"], server.debug_info()["connections"])

asyncio.run(main())
"""
"""A server in a process of its own: torch's clients hold the interpreter while they connect."""

SUM = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank()])
dist.all_reduce(total)
print(total.item())
dist.destroy_process_group()
"""

PREFIX = itertools.count()
RACES = int(os.environ.get("STORE_RACES", "20"))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server for all tests here; at the end nobody waits in it."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        left, _ = process.communicate(timeout=20)
    assert left.split()[0] == "0"


def connect(port: int, timeout: float = 20.0, **options: Any) -> Any:
    """Return a client of torch's."""
    return distributed.TCPStore(
        "127.0.0.1", port, is_master=False, timeout=timedelta(seconds=timeout), **options
    )


def prefixed(port: int) -> Any:
    """Return a client under a prefix of its own; it is gone when its test is."""
    return distributed.PrefixStore(f"test{next(PREFIX)}", connect(port))


def test_values(port: int) -> None:
    """Set, get, append, delete; several at once; bytes of any kind."""
    store = prefixed(port)
    store.set("a", "text")
    store.set("b", bytes(range(256)))
    store.append("a", "+")
    store.multi_set(["c", "d"], ["1", "2"])

    assert b"text+" == store.get("a")
    assert bytes(range(256)) == store.get("b")
    assert [b"1", b"2", b"text+"] == store.multi_get(["c", "d", "a"])
    assert store.delete_key("a")
    assert not store.delete_key("a")
    assert store.check(["b", "c", "d"])
    assert not store.check(["b", "a"])
    assert store.has_extended_api()


def test_large_values(port: int) -> None:
    """As large as torch's own server takes."""
    store = prefixed(port)
    value = b"\xff" * (8 << 20)
    store.set("large", value)

    assert value == store.get("large")


def test_counters_and_exchanges(port: int) -> None:
    """Add and compare_set, as torch's own server does them."""
    store = prefixed(port)
    assert 5 == store.add("n", 5)
    assert 2 == store.add("n", -3)
    assert b"2" == store.get("n")
    assert b"1" == store.compare_set("x", "", "1")
    assert b"2" == store.compare_set("x", "1", "2")
    assert b"2" == store.compare_set("x", "1", "3")
    assert b"old" == store.compare_set("absent", "old", "new")


def test_keys_are_listed(port: int) -> None:
    """The names that a client gave; the counter of workers counts among them, as with torch."""
    store = connect(port)
    before = store.num_keys()
    prefixed = distributed.PrefixStore("listed", store)
    prefixed.set("inner", "1")

    assert before + 1 == store.num_keys()
    assert "listed/inner" in store.list_keys()
    assert ["inner"] == prefixed.list_keys()


def test_queues(port: int) -> None:
    """First in, first out; an empty one is an error, or waited for."""
    store = prefixed(port)
    store.queue_push("q", "1")
    store.queue_push("q", "2")

    assert 2 == store.queue_len("q")
    assert b"1" == store.queue_pop("q")
    assert b"2" == store.queue_pop("q", block=False)
    with pytest.raises(distributed.QueueEmptyError):
        store.queue_pop("q", block=False)
    assert 0 == store.queue_len("q")


def test_clients_wait_for_each_other(port: int) -> None:
    """For a key, for a queue, at a barrier; each with a connection of its own."""
    name = f"wait{next(PREFIX)}"
    got: list[bytes] = []

    def consume() -> None:
        store = distributed.PrefixStore(name, connect(port))
        got.append(store.get("key"))
        got.append(store.queue_pop("queue"))
        store.barrier("barrier", 3, timedelta(seconds=20))

    threads = [threading.Thread(target=consume) for _ in range(2)]
    for thread in threads:
        thread.start()
    store = distributed.PrefixStore(name, connect(port))
    store.set("key", "value")
    store.queue_push("queue", "item")
    store.queue_push("queue", "item")
    store.barrier("barrier", 3, timedelta(seconds=20))
    for thread in threads:
        thread.join()

    assert [b"item", b"item", b"value", b"value"] == sorted(got)


def test_waiting_has_an_end(port: int) -> None:
    """A client takes its wait back when its time is over, and the connection goes on."""
    store = prefixed(port)
    waits: tuple[Callable[[], object], ...] = (
        lambda: store.wait(["nothing"], timedelta(milliseconds=50)),
        lambda: store.barrier("nobody", 2, timedelta(milliseconds=50)),
    )
    for wait in waits:
        with pytest.raises(distributed.DistStoreError, match=r"timeout|timed out"):
            wait()
        store.set("a", "1")

        assert b"1" == store.get("a")


@pytest.mark.timeout(60 + RACES // 5)
def test_a_time_out_that_meets_the_end_of_the_wait(port: int) -> None:
    """Whichever comes first, the client and the server stay in step."""
    waiting, other = connect(port), connect(port)
    name, chance = f"race{next(PREFIX)}", random.Random(1)
    stop = threading.Event()
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    def answer() -> None:
        while not stop.is_set():
            key = asked.get()
            stop.wait(chance.random() * 0.004)
            other.set(key, "1")

    thread = threading.Thread(target=answer)
    thread.start()
    ends = set()
    for turn in range(RACES):
        asked.put(key := f"{name}/{turn}")
        try:
            waiting.wait([key], timedelta(milliseconds=2))
            ends.add("there")
        except distributed.DistStoreError:
            ends.add("time is over")
        assert turn + 1 == waiting.add(f"{name}/turns", 1)
    stop.set()
    asked.put(f"{name}/last")
    thread.join()

    assert {"there", "time is over"} == ends


def test_several_clients_in_one_process(port: int) -> None:
    """A clone, and one with the options of several tenants and of all workers."""
    first = connect(port, multi_tenant=True, wait_for_workers=False, world_size=2)
    second = first.clone()
    first.set("shared", "1")

    assert b"1" == second.get("shared")
    assert (first.host, first.port) == ("127.0.0.1", port)


def test_torchs_helpers_of_agents(port: int) -> None:
    """What torch's elastic launcher does with a store: all tell something, and learn the rest."""
    from torch.distributed.elastic.utils import store as helpers

    name = f"agents{next(PREFIX)}"
    found: dict[int, list[bytes]] = {}

    def meet(rank: int) -> None:
        store = distributed.PrefixStore(name, connect(port))
        found[rank] = helpers.synchronize(store, b"%d" % rank, rank, 3, "data", timeout=20)
        helpers.barrier(store, 3, "end", barrier_timeout=20, rank=rank)

    threads = [threading.Thread(target=meet, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(found.values()) == [[b"0", b"1", b"2"]] * 3


@pytest.mark.skipif("TORCH_SOAK" not in os.environ, reason="long: make soak")
def test_agents_of_torchrun_meet_in_it(port: int, tmp_path: Path) -> None:
    """Its rendezvous of two nodes, with this store for the one that they would share."""
    script = tmp_path / "sum.py"
    script.write_text(SUM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--rdzv-backend=c10d"]
    command += [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-conf=is_host=0", str(script)]
    agents = [
        subprocess.Popen(
            [*command[:-1], "--local-addr=127.0.0.1", command[-1]],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    assert [agent.communicate(timeout=50)[0] for agent in agents] == ["1\n"] * 2


@pytest.fixture(scope="module")
def torchs_own() -> Any:
    """A server of torch's own."""
    return distributed.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20)
    )


@pytest.mark.asyncio
async def test_torchs_own_server_answers_alike(torchs_own: Any) -> None:
    """What our tests on the wire expect is what torch's clients are used to."""
    answers = {}
    async with RawClient(torchs_own.port) as client:
        for name, (sent, expected) in EXCHANGES.items():
            client.send(FORGET + ping(6))
            await client.skip_to(pong(6))
            client.send(sent)
            answers[name] = await client.receive(len(expected))
            client.send(ping(7))
            assert pong(7) == await client.receive(4), name

    answers["list_keys"] = EXCHANGES["list_keys"][1]  # it keeps no order among them
    assert {name: expected for name, (_, expected) in EXCHANGES.items()} == answers
