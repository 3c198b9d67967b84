"""Start and end of a worker: what one does must not take from another what it still needs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from asyncrpc.options import RpcOptions
from asyncrpc.runtime import RpcAgent
from asyncrpc.store import MemoryStore, PrefixStore, Store
from asyncrpc.store.arguments import UNSET, Timeout
from asyncrpc.transport import MemoryNetwork

pytestmark = pytest.mark.asyncio


class SlowStore(PrefixStore):
    """A store whose `wait` begins only when it may."""

    def __init__(self, store: Store) -> None:
        super().__init__("job", store)
        self.may_wait = asyncio.Event()

    async def wait(self, keys: Iterable[str], timeout: Timeout = UNSET) -> None:
        await self.may_wait.wait()
        await super().wait(keys, timeout)


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
    slow.may_wait.set()
    await asyncio.gather((await late).shutdown(), ending)

    assert [] == await store.list_keys()
    await store.close()
