"""Peers that are linked to one worker and have nothing to do.

The peers are what an agent sees of them: a record in the store and an authenticated stream in
memory that takes signs of life and gives none. So one process holds thousands, and what grows is
the one worker's, not the sum of what all know of all as in `peers`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import Any

import asyncrpc as rpc
from asyncrpc.discovery import Record, worker_key
from asyncrpc.store import MemoryStore, Store
from asyncrpc.transport import Greeter, MemoryNetwork, Stream
from asyncrpc.wire import Handshake
from growth.point import Held, timed

__all__ = ("measure",)

_BATCH = 500  # links that are opened at once
_TURNS = 5  # of the loop, after which what was sent has come and was dropped
_room = memoryview(bytearray(1 << 16))  # where all idlers put what they drop


class _Idler:
    """A handler that takes whatever comes."""

    def get_buffer(self, _size_hint: int) -> memoryview:
        return _room

    def buffer_updated(self, count: int) -> None:
        """Drop it."""

    def stream_closed(self, error: Exception | None) -> None:
        """Let it go."""

    def write_ready(self) -> None:
        """Want nothing."""


def measure(size: int) -> dict[str, float]:
    """Link `size` peers to a worker; the seconds are for one sign of life to each of them."""
    return rpc.run(_measure(size))


async def _measure(size: int) -> dict[str, float]:
    store, network = MemoryStore(), MemoryNetwork()
    options = rpc.RpcOptions(
        secret=os.urandom(32),
        heartbeat_interval=1e6,  # signs of life are given when the measurement wants them
        heartbeat_misses=1_000,
        limits=rpc.Limits(max_connections=size + 8, handshake_timeout=60.0),
    )
    worker = await rpc.RpcAgent.start(
        "worker0", rank=0, options=options, store=store, network=network
    )
    try:
        agent = worker._agent
        held = Held()
        peers = await _join(agent, store, size)
        streams: list[Stream] = []
        for start in range(0, size, _BATCH):
            links = [_link(agent, network, peer) for peer in peers[start : start + _BATCH]]
            streams += await asyncio.gather(*links)
        linked = len(agent.connections()) - 1  # without the one to itself
        if linked != size:
            raise RuntimeError(f"{linked} of {size} peers are linked")

        async def give_signs() -> None:
            agent.detector._tick()
            for _ in range(_TURNS):
                await asyncio.sleep(0)

        fullest = held.bytes()
        seconds = await timed(give_signs)
        for stream in streams:
            stream.abort()
        return {"seconds": seconds, "bytes": fullest}
    finally:
        await worker.shutdown(graceful=False)


async def _join(agent: Any, store: Store, size: int) -> list[Record]:
    """Publish the records of all peers as they would do, and wait until the worker knows them."""
    (key,) = [key for key in await store.list_keys("") if key.endswith(worker_key(0))]
    own = Record.decode(await store.get(key, 0))
    peers = [
        dataclasses.replace(own, info=rpc.WorkerInfo(f"worker{n}", n), incarnation=os.urandom(16))
        for n in range(1, size + 1)
    ]
    all_known = asyncio.Event()
    agent.members.arrivals.append(
        lambda peer: all_known.set() if peer.info == peers[-1].info else None
    )
    for peer in peers:
        await store.set(key.removesuffix("0") + str(peer.info.id), peer.encode())
    await all_known.wait()
    return peers


async def _link(agent: Any, network: MemoryNetwork, peer: Record) -> Stream:
    """Open a link as the peer would do, and leave it to itself."""
    shake = agent.make_handshake(is_client=True)
    hello = dataclasses.replace(
        shake._ours, name=peer.info.name, worker_id=peer.info.id, incarnation=peer.incarnation
    )
    greeter = Greeter(Handshake(key=agent._key, hello=hello, is_client=True))
    stream = await network.connect(peer.addresses[0], greeter, timeout=30.0)
    await greeter.greet(stream, 30.0)
    stream.attach(_Idler(), greeter.handshake.leftover)
    return stream
