"""Start and end of a worker: what one does must not take from another what it still needs."""

from __future__ import annotations

import asyncio
from typing import Self

import anyio
import pytest

from asyncrpc.options import RpcOptions
from asyncrpc.runtime import RpcAgent
from asyncrpc.store import MemoryStore, PrefixStore, Store, StoreEvent, StoreWatch
from asyncrpc.transport import MemoryNetwork

pytestmark = pytest.mark.asyncio


class SlowStore(PrefixStore):
    """A store whose watches are read only when they may be."""

    def __init__(self, store: Store) -> None:
        super().__init__("job", store)
        self.may_read = asyncio.Event()

    def watch(self, prefix: str = "", since: int | None = None) -> StoreWatch:
        return SlowWatch(super().watch(prefix, since), self.may_read)


class SlowWatch:
    """What such a store gives."""

    def __init__(self, watch: StoreWatch, may_read: asyncio.Event) -> None:
        self._watch = watch
        self._may_read = may_read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoreEvent:
        await self._may_read.wait()
        return await anext(self._watch)

    async def aclose(self) -> None:
        await self._watch.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def test_a_worker_that_ends_at_once_is_found_by_one_that_reads_late() -> None:
    """The records stay until all workers of the group have started and shut down."""
    network, store = MemoryNetwork(), MemoryStore()
    slow = SlowStore(store)
    options = RpcOptions(secret=b"0123456789abcdef", init_timeout=1.0)

    def start(rank: int, store: Store) -> asyncio.Task[RpcAgent]:
        return asyncio.create_task(
            RpcAgent.start(
                rank=rank, world_size=2, options=options, store=store, network=network, environ={}
            )
        )

    late = start(1, slow)
    early = await start(0, PrefixStore("job", store))
    ending = asyncio.create_task(early.shutdown())
    for _ in range(100):  # turns of the loop, more than it takes to announce the end
        await asyncio.sleep(0)
    slow.may_read.set()
    await asyncio.gather((await late).shutdown(), ending)

    assert [] == await store.list_keys()
    await store.close()


async def test_start_in_a_scope_of_anyio() -> None:
    """A start that anyio's scope cancels, anew in each turn of the loop, closes all it opened."""
    options = RpcOptions(secret=b"0123456789abcdef")
    with anyio.move_on_after(0.05) as scope:
        await RpcAgent.start(rank=0, world_size=2, options=options, store=MemoryStore(), environ={})

    assert scope.cancelled_caught


async def test_start_that_is_cancelled_as_it_ends() -> None:
    """A worker that came up in the very moment of the cancel is ended again."""
    options = RpcOptions(secret=b"0123456789abcdef")
    for turns in range(40):
        start = asyncio.create_task(
            RpcAgent.start(
                rank=0,
                world_size=1,
                options=options,
                store=MemoryStore(),
                network=MemoryNetwork(),
                environ={},
            )
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        await asyncio.wait([start])
        if not start.cancelled():
            await start.result().shutdown()


async def test_shutdown_in_a_scope_of_anyio() -> None:
    """A shutdown that anyio's scope cancels while it waits for others closes everything first."""
    network, store = MemoryNetwork(), MemoryStore()
    options = RpcOptions(secret=b"0123456789abcdef")
    agents = await asyncio.gather(
        *[
            RpcAgent.start(
                rank=rank, world_size=2, options=options, store=store, network=network, environ={}
            )
            for rank in range(2)
        ]
    )
    with anyio.move_on_after(0.05) as scope:
        await agents[0].shutdown()
    is_closed = agents[0].is_closed
    await agents[1].shutdown(graceful=False)

    assert scope.cancelled_caught
    assert is_closed
