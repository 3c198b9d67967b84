"""A lease whose loop is blocked is renewed from a thread, over a connection of its own."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any

import pytest

from asyncrpc.observe import LoopClock
from asyncrpc.store import (
    Keeper,
    LeaseKeeper,
    MemoryStore,
    PrefixStore,
    TCPStore,
    TCPStoreServer,
    keeper_of,
)
from asyncrpc.testing import VirtualClock
from asyncrpc.transport import Address

pytestmark = pytest.mark.asyncio

SECRET = b"a secret of the tests"


class Lease:
    """What a keeper reads of a lease."""

    def __init__(self, ident: int, ttl: float = 6.0) -> None:
        self.id = ident
        self.ttl = ttl
        self.renewed = 0.0
        self.lost = asyncio.Event()


async def drive(
    keeper: Keeper, selector: selectors.BaseSelector, until: Callable[[], object], now: float
) -> None:
    """Turn the keeper as its thread would, and let the loop's server answer."""
    deadline = time.monotonic() + 5
    while not until():
        assert time.monotonic() < deadline, "it did not come to be"
        keeper.turn(selector, now)
        for _ in selector.select(0) if selector.get_map() else ():
            keeper.ready(selector)
        await asyncio.sleep(0.001)


async def test_renews_when_the_loop_does_not() -> None:
    """Once renewal is overdue it connects, authenticates and renews, and keeps at it."""
    server = TCPStoreServer(secret=SECRET, clock=(clock := VirtualClock()))
    await server.start()
    async with (
        await TCPStore.connect(server.host, server.port, secret=SECRET) as store,
        store.lease(6.0) as lease,
    ):
        await store.set("key", b"value", lease=lease)
        lease.abandon()  # the loop renews no more
        await asyncio.sleep(0)
        now = lease.renewed + 3.1
        keeper = keeper_of(PrefixStore("a", PrefixStore("b", store)), lease)
        assert keeper is not None
        record = server._table._leases._leases[lease.id]
        with selectors.DefaultSelector() as selector:
            for due in (11.0, 16.0, 21.0):
                await clock.advance(5)
                await drive(keeper, selector, lambda due=due: record.deadline == due, now)  # type: ignore[misc]
                now += 1.1
            keeper.close(selector)
            assert not selector.get_map()
        kept = await store.check(["key"])
        await clock.advance(6.1)

        assert kept
        assert not await store.check(["key"])
    await server.close()


async def test_idle_while_the_loop_renews() -> None:
    """As long as the loop does its part, and once the lease is lost, there is no connection."""
    made: list[int] = []

    def handshake() -> Any:
        made.append(1)

    lease = Lease(1)
    keeper = LeaseKeeper(Address("tcp", "127.0.0.1", 1), handshake, lease)  # type: ignore[arg-type]
    with selectors.DefaultSelector() as selector:
        pauses = [keeper.turn(selector, now) for now in (0.0, 1.0, 2.5)]
        lease.renewed = 2.5
        pauses.append(keeper.turn(selector, 3.5))
        lease.lost.set()
        pauses.append(keeper.turn(selector, 100.0))

        assert not selector.get_map()
    assert [3.0, 2.0, 1.0, 2.0, 1.0] == pauses
    assert [] == made


async def test_server_gone() -> None:
    """A server that does not answer costs an attempt now and then, and nothing is left open."""
    async with TCPStoreServer(secret=SECRET) as server:
        async with await TCPStore.connect(server.host, server.port, secret=SECRET) as store:
            make_handshake, address = store.make_handshake, store.address
    lease = Lease(1)
    keeper = LeaseKeeper(address, make_handshake, lease)  # type: ignore[arg-type]
    opened = 0
    with selectors.DefaultSelector() as selector:
        for turn in range(40):
            pause = keeper.turn(selector, 100.0 + turn / 10)
            opened += keeper._socket is not None
            for _ in selector.select(0.01) if selector.get_map() else ():
                keeper.ready(selector)
            assert 0 <= pause <= 1

        assert not selector.get_map()
    assert 3 <= opened <= 5


async def test_other_stores() -> None:
    """A store in memory, or one on a clock of the test's, has no thread to renew its leases."""
    async with MemoryStore() as memory, memory.lease(1) as lease:
        assert keeper_of(PrefixStore("a", memory), lease) is None
    async with TCPStoreServer(secret=SECRET) as server:
        for clock, kept in ((LoopClock(), True), (VirtualClock(), False)):
            store = await TCPStore.connect(server.host, server.port, secret=SECRET, clock=clock)
            async with store, store.lease(1) as lease:
                assert kept == (keeper_of(store, lease) is not None)
