"""asyncrpc.store over TCP, authenticated, as its users have it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncrpc as rpc
from asyncrpc.store import TCPStore, TCPStoreServer

__all__ = ("connect", "run", "serve")

run = rpc.run

_TIMEOUT = 30.0


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve a store until killed."""

    async def main() -> None:
        async with TCPStoreServer("127.0.0.1", 0, secret=_secret(spec)) as server:
            ready(f"{server.host}:{server.port}")
            await asyncio.Event().wait()

    run(main())


class _Store:
    def __init__(self, store: TCPStore) -> None:
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
    """Open one connection."""
    host, port = str(spec["endpoint"]).rsplit(":", 1)
    return _Store(await TCPStore.connect(host, int(port), timeout=20.0, secret=_secret(spec)))


def _secret(spec: dict[str, object]) -> bytes:
    return (Path(str(spec["folder"])) / "secret").read_bytes()
