"""`asyncrpc.store.etcd.barriers`: what a barrier on etcd costs; conformance says the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asyncrpc.store import EtcdStore
from asyncrpc.store.etcd.gateway import Gateway
from tests.etcd import etcd, needs_etcd, new_url, on_one_loop

__all__ = ("etcd", "new_url")

pytestmark = [*on_one_loop, needs_etcd]

CLIENTS = 16


async def test_a_barrier_costs_each_client_three_requests(
    new_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look, to arrive and to depart: each look is at all who are there."""
    asked: list[str] = []
    call = Gateway.call

    async def counted(self: Gateway, path: str, *args: Any, **kwargs: Any) -> Any:
        asked.append(path)
        return await call(self, path, *args, **kwargs)

    url = new_url()
    stores = [await EtcdStore.connect(url, 20.0) for _ in range(CLIENTS)]
    await asyncio.gather(*(store.barrier("first", CLIENTS) for store in stores))
    monkeypatch.setattr(Gateway, "call", counted)
    await asyncio.gather(*(store.barrier("second", CLIENTS) for store in stores))
    await asyncio.gather(*(store.set("departed", b"") for store in stores))  # in the lane behind
    for store in stores:
        await store.close()

    transactions = asked.count("/v3/kv/txn") - CLIENTS  # of the last line
    # The one who opens it may have to look again, when the others come at the same time.
    assert 3 * CLIENTS <= transactions < 4 * CLIENTS
