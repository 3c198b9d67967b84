"""A real etcd of one member, never synced to the disk, with asyncrpc's own client."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable

import asyncrpc as rpc
from asyncrpc.store.etcd import EtcdStore
from launcher.testing.etcd import EtcdCluster

__all__ = ("BARRIERS", "connect", "run", "serve")

run = rpc.run

BARRIERS = (64,)
"""Each client watches all others: 256 of them in one process are work for their square."""

_TIMEOUT = 30.0


def serve(_spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Run an etcd until killed; it ends with this process."""
    with EtcdCluster() as etcd:
        ready(etcd.endpoint)
        threading.Event().wait()


class _Store:
    def __init__(self, store: EtcdStore) -> None:
        self._store = store
        self.set, self.add, self.compare_set = store.set, store.add, store.compare_set
        self.close = store.close

    def get(self, key: str) -> Awaitable[object]:
        return self._store.get(key, _TIMEOUT)

    def wait(self, key: str) -> Awaitable[object]:
        return self._store.wait([key], _TIMEOUT)

    def barrier(self, key: str, world_size: int) -> Awaitable[object]:
        return self._store.barrier(key, world_size, _TIMEOUT)


async def connect(spec: dict[str, object]) -> _Store:
    """Open one client."""
    return _Store(await EtcdStore.connect(f"etcd://{spec['endpoint']}/bench", timeout=20.0))
