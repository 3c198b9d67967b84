"""Large buffers between workers on one host go through memory that both see, unnoticed."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asyncrpc as rpc
from asyncrpc.agent import sharing
from asyncrpc.testing import cluster
from asyncrpc.transport import IS_POSSIBLE, SocketNetwork
from asyncrpc.wire import ERROR, MessageType, encode_frame
from tests.agent import targets
from tests.agent.groups import at_rest, link, until
from tests.agent.processes import dynamic_group

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(not IS_POSSIBLE, reason="needs memfd of the system"),
]

MIB = 1 << 20
ARENA, BUFFER_ACK = int(MessageType.ARENA), int(MessageType.BUFFER_ACK)


@asynccontextmanager
async def pair(**settings: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Run two workers over sockets; nothing may be left in their tables."""
    options = rpc.RpcOptions(**settings)
    async with cluster(2, options=options, network=SocketNetwork()) as (a, b):
        yield a, b
        gc.collect()
        assert {} == await at_rest((a, b))


@asynccontextmanager
async def sharing_pair(**settings: Any) -> AsyncIterator[tuple[Any, Any]]:
    """Run two workers that have agreed on memory in both directions."""
    async with pair(**settings) as (a, b):
        await a.rpc_async("worker1", targets.echo, args=(bytes(2 * MIB),))
        await until(lambda: arena(a, "worker1") and arena(b, "worker0"))
        yield a, b


def arena(agent: Any, name: str) -> Any:
    """Return the memory in which an agent puts buffers for another one, if there is any."""
    return link(agent, name).bulk.arena


def sent(agent: Any, name: str) -> int:
    """Return how many bytes went through the stream to another worker."""
    return int(link(agent, name).stream.sent)


async def numbers(count: int, size: int) -> AsyncIterator[Any]:
    """Give arrays."""
    for number in range(count):
        yield np.full(size, number, np.int32)


async def total(array: Any) -> float:
    """Return the sum of an array."""
    return float(array.sum())


def touch(array: Any) -> Any:
    """Write to an argument and return it."""
    array[0] = 7
    return array


@pytest.mark.parametrize("listen", ["tcp://127.0.0.1:0", "unix://{}"])
async def test_arguments_and_results(listen: str, tmp_path: Path) -> None:
    """Arrays and bytes go there and back without passing the socket, equal and writable."""
    async with sharing_pair(listen=listen.format(tmp_path)) as (a, b):
        before = sent(a, "worker1") + sent(b, "worker0")
        array = np.arange(3 * MIB, dtype=np.float64).reshape(3, -1)
        answer = await a.rpc_async("worker1", targets.echo, args=(array,))
        text = await a.rpc_async("worker1", targets.echo, args=(b"x" * (2 * MIB),))
        buffer = await a.rpc_async("worker1", targets.echo, args=(bytearray(b"y" * (2 * MIB)),))
        view = await a.rpc_async("worker1", targets.echo, args=(memoryview(text),))
        fortran = await a.rpc_async("worker1", targets.echo, args=(np.asfortranarray(array),))

        assert np.array_equal(array, answer)
        assert np.array_equal(array, fortran)
        assert fortran.flags.f_contiguous
        assert b"x" * (2 * MIB) == text == view
        assert isinstance(text, bytes)
        assert bytearray(b"y" * (2 * MIB)) == buffer
        assert isinstance(view, memoryview)
        assert view.readonly
        assert answer.flags.writeable
        answer += 1
        assert array[0, 0] == 0
        assert sent(a, "worker1") + sent(b, "worker0") - before < 64 * 1024
        del answer, view, fortran


async def test_what_is_sent_is_a_copy() -> None:
    """Neither side sees what the other does to its array, as if it had come over the network."""
    async with sharing_pair() as (a, _):
        array = np.zeros(MIB, np.int32)
        answer = await a.rpc_async("worker1", touch, args=(array,))
        again = await a.rpc_async("worker1", touch, args=(array,))
        answer[1] = 5

        assert [0, 0] == array[:2].tolist()
        assert [7, 5] == answer[:2].tolist()
        assert [7, 0] == again[:2].tolist()
        del answer, again


async def test_torch_tensors() -> None:
    """Tensors go the same way; what requires grad still does."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")
    async with sharing_pair() as (a, b):
        before = sent(a, "worker1") + sent(b, "worker0")
        tensor = torch.arange(MIB, dtype=torch.float32, requires_grad=True)
        answer = await a.rpc_async("worker1", targets.echo, args=(tensor,))

        assert torch.equal(tensor, answer)
        assert answer.requires_grad
        assert sent(a, "worker1") + sent(b, "worker0") - before < 64 * 1024
        del answer


async def test_streams() -> None:
    """Items of a stream go through memory too, each released when it is dropped."""
    async with sharing_pair() as (a, b):
        before = sent(b, "worker0")
        seen = [
            int(item[-1])
            async for item in a.rpc_stream("worker1", numbers, args=(10, MIB), window=2)
        ]

        assert list(range(10)) == seen
        assert sent(b, "worker0") - before < 64 * 1024


async def test_memory_is_used_again() -> None:
    """However many buffers come and go, they take the same few places, and no descriptors."""
    async with sharing_pair() as (a, _):
        array = np.ones(MIB, np.float32)
        files = len(os.listdir("/proc/self/fd"))
        pages = []
        for _ in range(100):
            assert MIB == await a.rpc_async("worker1", total, args=(array,))
            pages.append(sum(arena(a, "worker1")._committed))

        assert files == len(os.listdir("/proc/self/fd"))
        assert pages[-1] * MIB <= 8 * array.nbytes


async def test_idle_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that was not used for a while goes back to the system, and later calls go on."""
    monkeypatch.setattr(sharing, "_KEEP", 0.0)
    async with sharing_pair(heartbeat_interval=0.02) as (a, b):
        for _ in range(2):
            array = np.ones(MIB, np.float32)
            assert MIB == await a.rpc_async("worker1", total, args=(array,))
            await until(lambda: a._agent.pool.left >= sharing.POOL - MIB)
            assert b._agent.pool.left <= sharing.POOL


async def test_pool_of_all_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """All links of a worker together take a bounded amount; the rest goes through the stream."""
    monkeypatch.setattr("asyncrpc.agent.agent.POOL", 6 * MIB)
    async with cluster(3, network=SocketNetwork()) as (a, b, c):
        array = np.arange(4 * MIB, dtype=np.uint8)
        for name in ("worker1", "worker2", "worker1", "worker2"):
            assert np.array_equal(array, await a.rpc_async(name, targets.echo, args=(array,)))
            await asyncio.sleep(0.01)
        assert a._agent.pool.left < 2 * MIB
        for agent in (a, b, c):
            assert agent._agent.pool.left >= 0


async def test_full_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the receiver keeps all that there is, buffers go through the stream, then back."""
    monkeypatch.setattr(sharing, "_SIZE", 8 * MIB)
    async with sharing_pair() as (a, b):
        before = sent(b, "worker0")
        kept = [
            await a.rpc_async("worker1", targets.echo, args=(np.full(MIB // 2, n),))
            for n in range(4)
        ]

        assert 2 * 4 * MIB <= sent(b, "worker0") - before < 3 * 4 * MIB
        assert [0, 1, 2, 3] == [int(array[-1]) for array in kept]
        del kept
        gc.collect()
        await until(lambda: not arena(b, "worker0").taken)
        before = sent(b, "worker0")
        await a.rpc_async("worker1", targets.echo, args=(np.ones(MIB // 2),))
        assert sent(b, "worker0") - before < 64 * 1024


async def test_what_stays_below_the_threshold() -> None:
    """Buffers below the threshold, and those of small messages, take the stream."""
    async with sharing_pair(shared_memory_threshold=2 * MIB) as (a, b):
        before = sent(b, "worker0")
        await a.rpc_async("worker1", targets.echo, args=([bytes(2 * MIB - 1)] * 2,))
        assert sent(b, "worker0") - before > 4 * MIB - 16
        before = sent(b, "worker0")
        await a.rpc_async("worker1", targets.echo, args=([bytes(2 * MIB)] * 2,))
        assert sent(b, "worker0") - before < 64 * 1024
    async with pair(shared_memory_threshold=1) as (a, _):
        assert bytes(100_000) == await a.rpc_async("worker1", targets.echo, args=(bytes(100_000),))
        assert arena(a, "worker1") is None


@pytest.mark.parametrize("first", [None, MIB])
async def test_either_side_turns_it_off(first: int | None) -> None:
    """With ``None`` on one side, neither offers memory to the other."""
    second = MIB if first is None else None
    options = [rpc.RpcOptions(shared_memory_threshold=least) for least in (first, second)]
    async with cluster(2, options=options, network=SocketNetwork()) as (a, b):
        for near, far in ((a, "worker1"), (b, "worker0")):
            content = bytes(4 * MIB)
            assert content == await near.rpc_async(far, targets.echo, args=(content,))
            assert link(near, far).sharing is None
    assert "memfd:asyncrpc" not in maps()


async def test_other_hosts() -> None:
    """Workers whose hosts are not the same, or that meet in memory, do not try."""
    async with cluster(2) as (a, _):
        assert link(a, "worker0").sharing is None
        await a.rpc_async("worker1", targets.echo, args=(bytes(2 * MIB),))
        assert link(a, "worker1").sharing is None
    async with pair() as (a, b):
        b._agent.host = bytes(16)
        await a.rpc_async("worker1", targets.echo, args=(bytes(2 * MIB),))
        assert link(a, "worker1").sharing is None


@pytest.mark.parametrize("problem", ["peer", "system"])
async def test_memory_that_cannot_be_had(problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a peer cannot see the memory, or the system gives none, the stream does it."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    if problem == "peer":
        monkeypatch.setattr("asyncrpc.transport.shm._map", refuse)
    else:
        monkeypatch.setattr(os, "memfd_create", refuse)
    async with pair() as (a, b):
        for _ in range(3):
            content = bytes(4 * MIB)
            assert content == await a.rpc_async("worker1", targets.echo, args=(content,))
        assert arena(a, "worker1") is arena(b, "worker0") is None
        assert sent(a, "worker1") > 12 * MIB


async def test_cancelled_on_the_way() -> None:
    """A call that is cancelled while its argument is copied leaves no place taken."""
    async with sharing_pair() as (a, _):
        array = np.zeros(16 * MIB, np.uint8)
        for turns in range(12):
            call = a.rpc_async("worker1", targets.echo, args=(array,))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
        assert 5 == await a.rpc_async("worker1", targets.echo, args=(5,))
        gc.collect()
        await until(lambda: not arena(a, "worker1").taken)


async def test_deadlines_and_small_calls() -> None:
    """Small calls pass between the pieces of a large one; a deadline ends it as ever."""
    async with sharing_pair() as (a, _):
        array = np.zeros(128 * MIB, np.uint8)
        large = a.rpc_async("worker1", total, args=(array,))
        order: list[str] = []
        large.add_done_callback(lambda _: order.append("large"))
        await a.rpc_async("worker1", targets.echo, args=(1,))
        order.append("small")
        await large
        await asyncio.sleep(0)

        assert ["small", "large"] == order
        with pytest.raises(rpc.RpcTimeoutError):
            await a.rpc_async("worker1", total, args=(array,), timeout=1e-4)


async def test_limits_hold() -> None:
    """A message above ``max_message_size`` is refused where it is made, as over the stream."""
    async with sharing_pair(limits=rpc.Limits(max_message_size=4 * MIB)) as (a, _):
        with pytest.raises(rpc.MessageTooLargeError):
            await a.rpc_async("worker1", targets.echo, args=(bytes(5 * MIB),))
        with pytest.raises(rpc.MessageTooLargeError):
            await a.rpc_async("worker1", bytes, args=(5 * MIB,))
        assert 3 * MIB == len(await a.rpc_async("worker1", bytes, args=(3 * MIB,)))


async def test_values_outlive_the_link() -> None:
    """An array that was received stays as it is when both workers are gone."""
    async with sharing_pair() as (a, _):
        answer = await a.rpc_async("worker1", targets.echo, args=(np.arange(MIB),))
        await until(lambda: arena(a, "worker1").taken == 0)
        link(a, "worker1").stream.abort()
        await until(lambda: link(a, "worker1") is None)
    gc.collect()

    assert np.array_equal(np.arange(MIB), answer)
    assert "memfd:asyncrpc" in maps()
    del answer
    assert "memfd:asyncrpc" not in maps()


async def test_links_that_break() -> None:
    """A link that breaks takes its memory with it; the next one has its own, and calls go on."""
    async with sharing_pair() as (a, b):
        array = np.arange(8 * MIB, dtype=np.uint8)
        for _ in range(3):
            calls = [
                a.rpc_async("worker1", targets.echo, args=(array,), idempotent=True)
                for _ in range(3)
            ]
            for _ in range(10):
                await asyncio.sleep(0)
            link(b, "worker0").stream.abort()
            for answer in await asyncio.gather(*calls):
                assert np.array_equal(array, answer)
            del answer, calls
        await until(lambda: arena(a, "worker1"))


async def test_partition() -> None:
    """Memory that was released during a partition is there after it."""
    async with sharing_pair() as (a, b):
        answer = await a.rpc_async("worker1", targets.echo, args=(np.ones(MIB),))
        await until(lambda: arena(b, "worker0").taken == 1)
        a.partition(["worker1"])
        del answer
        gc.collect()
        await asyncio.sleep(0.01)
        assert arena(b, "worker0").taken == 1
        a.heal()
        await until(lambda: arena(b, "worker0").taken == 0)


@pytest.mark.parametrize(
    ("kind", "flags", "body"),
    [
        (BUFFER_ACK, 0, struct.pack("<Q", 4096)),
        (BUFFER_ACK, 0, b"abc"),
        (BUFFER_ACK, 0, struct.pack("<Q", (1 << 64) - 1)),
        (ARENA, 0, bytes(40)),
        (ARENA, 0, b"x"),
        (ARENA, 0, b""),
        (ARENA, ERROR, b""),
    ],
)
@pytest.mark.parametrize("is_shared", [True, False])
async def test_hostile_frames(is_shared: bool, kind: int, flags: int, body: bytes) -> None:
    """A peer that says nonsense about memory loses its own link, and nothing else happens."""
    async with pair() as (a, b):
        await a.rpc_async("worker1", targets.echo, args=(bytes(2 * MIB if is_shared else 1),))
        if is_shared:
            await until(lambda: arena(a, "worker1") and arena(b, "worker0"))
        near, far = link(b, "worker0"), link(a, "worker1")
        near.write(encode_frame(kind, 0, body, flags=flags))
        await until(lambda: far.stream.is_closed)

        content = bytes(2 * MIB)
        assert content == await a.rpc_async("worker1", targets.echo, args=(content,))


async def test_killed_worker(tmp_path: Path) -> None:
    """A worker that is killed leaves no memory behind, but for what somebody here still has."""
    names = os.listdir("/dev/shm")
    async with dynamic_group(tmp_path, 1, heartbeat_interval=0.5) as (a, (worker,), _):
        await a.rpc_async("worker1", targets.echo, args=(bytes(2 * MIB),))
        await until(lambda: arena(a, "worker1"))
        before = sent(a, "worker1")
        array = np.arange(4 * MIB, dtype=np.float64)
        answer = await a.rpc_async("worker1", targets.echo, args=(array,))
        call = a.rpc_async("worker1", targets.echo, args=(array,))
        for _ in range(5):
            await asyncio.sleep(0)

        assert sent(a, "worker1") - before < 64 * 1024
        assert maps().count("memfd:asyncrpc") == 2  # its own, and the worker's
        worker.signal(signal.SIGKILL)
        with pytest.raises(rpc.PeerLostError):
            await call
        assert np.array_equal(array, answer)
        assert maps().count("memfd:asyncrpc") == 1
        del answer
        assert maps().count("memfd:asyncrpc") == 0
    assert names == os.listdir("/dev/shm")


def maps() -> str:
    """Return this process's mappings of memory."""
    return Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    "kind", ["drop", "fail", "duplicate", "delay", "reorder", "corrupt", "disconnect"]
)
async def test_faults(kind: str) -> None:
    """What goes wrong with a message goes wrong whichever way its buffers take, and no worse."""
    plan = rpc.FaultPlan(
        [
            rpc.Fault(kind, message, probability=0.2, delay=0.02)  # type: ignore[arg-type]
            # a reply that fails says that the call ran: that is no reason to try again
            for message in ("PYTHON_CALL", "PYTHON_RET")[: 1 if kind == "fail" else 2]
        ],
        seed=5,
    )
    policy = rpc.RetryPolicy(max_retries=20, per_attempt_timeout=0.25, initial=0.001)
    async with pair(faults=plan) as (a, _):
        for number in range(8):
            array = np.full(2 * MIB, number, np.uint8)
            answer = await a.rpc_async("worker1", targets.echo, args=(array,), retry=policy)
            assert np.array_equal(array, answer)
            del answer
