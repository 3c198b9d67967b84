"""Handlers of one run that meet in a place of some kind: what the conformance tests run over."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from asyncrpc.store import MemoryStore, Store
from launcher.errors import RendezvousConnectionError
from launcher.rendezvous import (
    RendezvousHandler,
    RendezvousParameters,
    endpoint,
    get_rendezvous_handler,
)
from launcher.rendezvous.dynamic import DynamicRendezvous
from launcher.rendezvous.settings import read_settings
from launcher.testing import EtcdCluster

__all__ = ("KINDS", "Make", "free_endpoint", "free_port", "meet_on_etcd")

SECRET = b"s" * 32
_numbers = itertools.count()

SHARED: dict[str, Any] = {"last_call_timeout": 600, "join_timeout": 600, "join_debounce": 0}
"""Settings with which nothing happens because of the time, unless a test wants it to."""

Make = Callable[..., RendezvousHandler]
"""Makes one more handler of the run; settings by name."""


class MemoryPlace:
    """A store within the process, which nobody hosts.

    Args:
        store: that all places of the run share.
    """

    is_host = False
    address = "127.0.0.1"
    url = "memory://"

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def open(self, timeout: float) -> Store:
        """Return the store."""
        return self._store

    async def close(self) -> None:
        """Leave the store to the others."""

    def lost(self, error: Exception, host: str) -> RendezvousConnectionError:
        """Say that the store was lost."""
        return RendezvousConnectionError(f"the store {host}was lost: {error}")


def free_endpoint() -> str:
    """Return an endpoint of loopback that nobody listens at, nor at the port next to it."""
    return f"127.0.0.1:{free_port()}"


def free_port() -> int:
    """Return a port of loopback that is free, as is the next one, and stays so.

    Not one that the kernel may give to any connection that is made meanwhile.
    """
    while True:
        port = endpoint.free_port("127.0.0.1")
        with socket.socket() as other:
            if port < 65535 and other.connect_ex(("127.0.0.1", port + 1)):
                return port


@asynccontextmanager
async def memory(min_nodes: int, max_nodes: int) -> AsyncIterator[Make]:
    """Let handlers meet in a store within this process."""
    handlers: list[RendezvousHandler] = []
    async with MemoryStore() as store:

        def make(**settings: Any) -> RendezvousHandler:
            parameters = RendezvousParameters(
                "memory", "", "run", min_nodes, max_nodes, **{**SHARED, **settings}
            )
            handlers.append(
                DynamicRendezvous(parameters, read_settings(parameters), MemoryPlace(store))
            )
            return handlers[-1]

        try:
            yield make
        finally:
            await asyncio.gather(*(handler.close() for handler in handlers))


@asynccontextmanager
async def tcp(min_nodes: int, max_nodes: int) -> AsyncIterator[Make]:
    """Let handlers meet in a store that the first of them hosts."""
    endpoint = free_endpoint()
    handlers: list[RendezvousHandler] = []

    def make(**settings: Any) -> RendezvousHandler:
        parameters = RendezvousParameters(
            "tcp",
            endpoint,
            "run",
            min_nodes,
            max_nodes,
            secret=SECRET,
            **{**SHARED, **settings},
        )
        handlers.append(get_rendezvous_handler(parameters))
        return handlers[-1]

    try:
        yield make
    finally:
        await asyncio.gather(*(handler.close() for handler in handlers))


@asynccontextmanager
async def meet_on_etcd(
    cluster: EtcdCluster, min_nodes: int, max_nodes: int, **options: Any
) -> AsyncIterator[Make]:
    """Let handlers meet in an etcd, where nobody of another test is."""
    handlers: list[RendezvousHandler] = []
    prefix = f"test{next(_numbers)}"

    def make(**settings: Any) -> RendezvousHandler:
        parameters = RendezvousParameters(
            "etcd",
            cluster.endpoint,
            "run",
            min_nodes,
            max_nodes,
            secret=SECRET,
            **{**SHARED, "prefix": prefix, **options, **settings},
        )
        handlers.append(get_rendezvous_handler(parameters))
        return handlers[-1]

    try:
        yield make
    finally:
        await asyncio.gather(*(handler.close() for handler in handlers))


KINDS = {"memory": memory, "tcp": tcp}
"""What a conformance test runs over, beside a real etcd; a new backend joins here."""
