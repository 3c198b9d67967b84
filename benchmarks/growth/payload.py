"""Bytes of one argument that is echoed over TCP, sender and receiver in this process."""

from __future__ import annotations

import os

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork
from growth.point import Held, timed

__all__ = ("echo", "measure")


async def echo(value: bytes) -> bytes:
    """Give the argument back."""
    return value


def measure(size: int) -> dict[str, float]:
    """Echo `size` random bytes; the seconds are there and back."""
    return rpc.run(_measure(size))


async def _measure(size: int) -> dict[str, float]:
    async with cluster(2, network=SocketNetwork()) as (ours, _):
        value = os.urandom(size)
        held = Held()

        async def there_and_back() -> None:
            await ours.rpc_async("worker1", echo, args=(value,))

        return {"seconds": await timed(there_and_back, 5), "bytes": held.bytes()}
