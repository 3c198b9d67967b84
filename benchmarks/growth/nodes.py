"""Nodes of one run that meet over a TCP store, all of their rendezvous in this process."""

from __future__ import annotations

import asyncio
import socket
from time import perf_counter

import asyncrpc as rpc
from growth.point import Held
from launcher.rendezvous import RendezvousHandler, RendezvousParameters, get_rendezvous_handler

__all__ = ("measure",)


def measure(size: int) -> dict[str, float]:
    """Let `size` nodes form their first round; the seconds are until all of them know it."""
    return rpc.run(_measure(size))


async def _measure(size: int) -> dict[str, float]:
    held = Held()
    endpoint = f"127.0.0.1:{_free_port()}"
    handlers = [_handler(endpoint, size) for _ in range(size)]
    try:
        start = perf_counter()
        rounds = await asyncio.gather(*(handler.next_rendezvous() for handler in handlers))
        seconds = perf_counter() - start
        if sorted(each.rank for each in rounds) != list(range(size)):
            raise RuntimeError("the ranks of the round are not 0 to size - 1")
        return {"seconds": seconds, "bytes": held.bytes()}
    finally:
        await asyncio.gather(*(handler.close() for handler in handlers))


def _handler(endpoint: str, size: int) -> RendezvousHandler:
    return get_rendezvous_handler(
        RendezvousParameters(
            "tcp", endpoint, "growth", size, size, secret=b"s" * 32, join_timeout=120
        )
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
