"""`launcher.rendezvous.agreement`: what the first node wrote down counts for all."""

from __future__ import annotations

import pytest

from asyncrpc.store import MemoryStore
from launcher.errors import RendezvousError, RendezvousStateError
from launcher.rendezvous.agreement import agree

pytestmark = pytest.mark.asyncio


async def test_the_first_decides() -> None:
    """Who agrees may come again and again; who does not is told both values."""
    async with MemoryStore() as store:
        await agree(store, "a (agent 1)", {"nnodes": "1:2", "x": "1"})
        await agree(store, "b (agent 2)", {"nnodes": "1:2", "x": "1"})
        await agree(store, "c (agent 3)", {"nnodes": "1:2", "y": "3"})
        with pytest.raises(RendezvousError, match=r"^x=2: expected 1, which a \(agent 1\) was "):
            await agree(store, "d (agent 4)", {"nnodes": "1:2", "x": "2"})


@pytest.mark.parametrize("data", [b"x", b"\xc1", b"\x92\x01\x80"])
async def test_something_else_in_its_place_is_told(data: bytes) -> None:
    """It is of another version, or of no launcher."""
    async with MemoryStore() as store:
        await store.set("terms", data)
        with pytest.raises(RendezvousStateError, match="holds no settings of a run"):
            await agree(store, "a (agent 1)", {"nnodes": "1:2"})
