"""Every store passes the one conformance suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from asyncrpc.store import MemoryStore, PrefixStore, Store, TCPStore, TCPStoreServer
from asyncrpc.testing.conformance import SLOW_STORE_CHECKS, STORE_CHECKS, Connect, StoreCheck

SECRET = b"0123456789abcdef"


@asynccontextmanager
async def memory() -> AsyncIterator[Connect]:
    """One store in memory; all clients are the same object."""
    async with MemoryStore() as store:

        async def connect() -> Store:
            return store

        yield connect


@asynccontextmanager
async def tcp() -> AsyncIterator[Connect]:
    """A server and any number of clients."""
    async with TCPStoreServer(secret=SECRET) as server, AsyncExitStack() as stack:

        async def connect() -> Store:
            client = await TCPStore.connect(server.host, server.port, secret=SECRET)
            return await stack.enter_async_context(client)

        yield connect
        await stack.aclose()


@asynccontextmanager
async def prefix_of_memory() -> AsyncIterator[Connect]:
    """Prefixes in a prefix."""
    async with memory() as below:

        async def connect() -> Store:
            return PrefixStore("outer", PrefixStore("", await below()))

        yield connect


@asynccontextmanager
async def prefix_of_tcp() -> AsyncIterator[Connect]:
    """A prefix of each client."""
    async with tcp() as below:

        async def connect() -> Store:
            return PrefixStore("p", await below())

        yield connect


BACKENDS = {backend.__name__: backend for backend in (memory, tcp, prefix_of_memory, prefix_of_tcp)}


@pytest.mark.asyncio
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
async def test_store_conforms(backend: str, check: StoreCheck) -> None:
    """Each rule of the suite holds for each store."""
    async with BACKENDS[backend]() as connect:
        await check(connect)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("check", SLOW_STORE_CHECKS, ids=lambda check: check.__name__)
async def test_store_conforms_in_time(backend: str, check: StoreCheck) -> None:
    """Each rule about time holds for each store."""
    async with BACKENDS[backend]() as connect:
        await check(connect)
