"""`launcher.agent.roles`: what each node brings, known to all."""

from __future__ import annotations

import asyncio

import pytest

from asyncrpc.store import MemoryStore, StoreError
from launcher.agent.ranks import NodeRole
from launcher.agent.roles import IDENTICAL_VARIABLE, exchange_roles
from launcher.errors import RendezvousConnectionError, RendezvousStateError
from launcher.rendezvous import (
    Change,
    Ending,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
)

pytestmark = pytest.mark.asyncio

TRAINER = NodeRole("trainer", 4)
READER = NodeRole("data reader", 1)


class Handler(RendezvousHandler):
    """A handler whose round is over when its `end` says how."""

    def __init__(self) -> None:
        self.end: asyncio.Future[Change | Ending] = asyncio.get_running_loop().create_future()

    def get_backend(self) -> str:
        """Name the backend."""
        return "test"

    def get_run_id(self) -> str:
        """Name the run."""
        return "run"

    async def next_rendezvous(self) -> RendezvousInfo:
        """Form no round."""
        raise AssertionError

    async def is_closed(self) -> bool:
        """Say that the run goes on."""
        return False

    async def set_closed(self) -> None:
        """Change nothing."""

    async def num_nodes_waiting(self) -> int:
        """Count nobody."""
        return 0

    async def shutdown(self) -> bool:
        """Release nothing."""
        return True

    async def round_over(self) -> Change | Ending:
        """Wait for `end`."""
        return await asyncio.shield(self.end)


def info(store: MemoryStore, rank: int, size: int = 2) -> RendezvousInfo:
    """Return what a node was told of a round."""
    where = RendezvousStoreInfo("127.0.0.1", 1)
    return RendezvousInfo(store, rank, size, where)


async def test_nodes_learn_what_each_of_them_brings() -> None:
    """In one round trip each; roles may have blanks."""
    async with MemoryStore() as store:
        found = await asyncio.gather(
            exchange_roles(Handler(), info(store, 0), TRAINER, {}),
            exchange_roles(Handler(), info(store, 1), READER, {}),
        )

    assert list(found) == [[TRAINER, READER], [TRAINER, READER]]


@pytest.mark.parametrize(("size", "environ"), [(1, {}), (3, {IDENTICAL_VARIABLE: "1"})])
async def test_nodes_that_are_alike_need_not_ask(size: int, environ: dict[str, str]) -> None:
    """A node alone, or a promise of the user's."""
    async with MemoryStore() as store:
        found = await exchange_roles(Handler(), info(store, 0, size), TRAINER, environ)

        assert await store.num_keys() == 0
    assert found == [TRAINER] * size


async def test_a_round_that_ends_meanwhile_is_given_up() -> None:
    """A node has died before it told."""
    async with MemoryStore() as store:
        handler = Handler()
        asking = asyncio.create_task(exchange_roles(handler, info(store, 0), TRAINER, {}))
        await asyncio.sleep(0)
        handler.end.set_result(Change("a node was lost"))

        assert await asking is None


async def test_a_lost_place_is_an_error() -> None:
    """In the handler's words rather than the store's."""
    store, handler = MemoryStore(), Handler()
    await store.close()
    handler.end.set_exception(RendezvousConnectionError("lost"))
    with pytest.raises(RendezvousConnectionError, match="lost"):
        await exchange_roles(handler, info(store, 0), TRAINER, {})

    with pytest.raises(StoreError):
        await exchange_roles(Handler(), info(store, 0), TRAINER, {})


@pytest.mark.parametrize("line", ["", "x trainer", "0 trainer", "3", "3 "])
async def test_what_is_no_node_is_refused(line: str) -> None:
    """Another version of the launcher may have written it."""
    async with MemoryStore() as store:
        await store.set("role/1", line)
        with pytest.raises(RendezvousStateError, match="expected workers and role of a node"):
            await exchange_roles(Handler(), info(store, 0), TRAINER, {})
