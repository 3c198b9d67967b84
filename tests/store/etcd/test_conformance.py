"""A store on a real etcd passes the conformance suite of all stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from asyncrpc.store import EtcdStore, Store
from asyncrpc.testing.conformance import SLOW_STORE_CHECKS, STORE_CHECKS, Connect, StoreCheck
from tests.etcd import etcd, needs_etcd, new_url, on_one_loop

__all__ = ("etcd", "new_url")

pytestmark = [*on_one_loop, needs_etcd]


@asynccontextmanager
async def clients_of(url: str) -> AsyncIterator[Connect]:
    """Any number of clients of one store."""
    async with AsyncExitStack() as stack:

        async def connect() -> Store:
            return await stack.enter_async_context(await EtcdStore.connect(url, 20.0))

        yield connect


@pytest.mark.parametrize(
    "check", STORE_CHECKS + SLOW_STORE_CHECKS, ids=lambda check: check.__name__
)
async def test_store_conforms(new_url: Callable[[], str], check: StoreCheck) -> None:
    """Each rule of the suite holds; leases last 2 s at least."""
    async with clients_of(new_url()) as connect:
        await check(connect)
