"""What the agent's tests share: groups over proxies and with bad timing, and a look at tables."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Self

from asyncrpc.testing import ChaosProxy
from asyncrpc.transport import (
    Address,
    Listener,
    MemoryNetwork,
    Network,
    SocketNetwork,
    Stream,
    StreamHandler,
)


class UnevenNetwork(MemoryNetwork):
    """A network in memory on which opening a link takes a random number of loop turns."""

    def __init__(self, seed: int, most: int = 8) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._most = most
        self.opened = 0

    async def connect(self, address: Address, handler: StreamHandler, *, timeout: float) -> Stream:
        await self.turns()
        stream = await super().connect(address, handler, timeout=timeout)
        self.opened += 1
        await self.turns()
        return stream

    async def turns(self) -> None:
        for _ in range(self._random.randrange(self._most)):
            await asyncio.sleep(0)


class ProxiedNetwork:
    """Sockets on which every link to a listener goes through a `ChaosProxy` of its own."""

    def __init__(self) -> None:
        self._network = SocketNetwork()
        self._stack = contextlib.AsyncExitStack()
        self.proxies: dict[Address, ChaosProxy] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def connect(self, address: Address, handler: StreamHandler, *, timeout: float) -> Stream:
        proxy = self.proxies.get(address)
        if proxy is None:
            proxy = self.proxies[address] = ChaosProxy(address.host, address.port)
            await self._stack.enter_async_context(proxy)
        while not proxy.port:
            await asyncio.sleep(0)
        through = Address("tcp", proxy.host, proxy.port)
        return await self._network.connect(through, handler, timeout=timeout)

    async def listen(
        self,
        address: Address,
        make_handler: Callable[[Stream], StreamHandler],
        *,
        max_connections: int,
    ) -> Listener:
        return await self._network.listen(address, make_handler, max_connections=max_connections)

    def cut(self, *, reset: bool = True) -> None:
        """End every link."""
        for proxy in self.proxies.values():
            proxy.disconnect_all(reset=reset)


@contextlib.asynccontextmanager
async def any_network(kind: str) -> AsyncIterator[Network]:
    """Give a network by name."""
    if kind == "proxied":
        async with ProxiedNetwork() as network:
            yield network
    else:
        yield SocketNetwork() if kind == "tcp" else MemoryNetwork()


def link(agent: Any, name: str) -> Any:
    """Return an agent's open connection to a worker, or ``None``."""
    return agent._agent.members.known(name).connection


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Let the loop turn until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        await asyncio.sleep(0.0005)


async def at_rest(agents: Iterable[Any], seconds: float = 5.0) -> dict[str, int]:
    """Wait until no table holds anything any more; return what is left in them."""
    deadline = time.monotonic() + seconds
    while any(left := tables(agents).values()) and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
    del left
    return {name: size for name, size in tables(agents).items() if size}


def tables(agents: Iterable[Any]) -> dict[str, int]:
    """Return how much is in each of the agents' tables that must be empty when all is quiet."""
    sizes: dict[str, int] = {}
    for agent in (a._agent for a in agents):
        name = agent.info.name
        open_servers = {c.server for c in agent.connections()}
        sizes |= {
            f"{name} pending": len(agent.pending),
            f"{name} served": sum(len(s.calls) for s in agent.servers),
            f"{name} inflight": sum(p.inflight for p in agent.members.all()),
            f"{name} queue": sum(len(p.queue) for p in agent.members.all()),
            f"{name} waiting": sum(p.waiting for p in agent.members.all()),
            f"{name} retries due": len(agent.retrier._due),
            f"{name} arriving": sum(p.arriving for p in agent.members.all()),
            f"{name} bulk": sum(len(c.bulk) for c in agent.connections()),
            f"{name} shared": sum(c.bulk.arena.taken for c in agent.connections() if c.bulk.arena),
            # the far end of the link to itself has a server too
            f"{name} servers": max(0, len(agent.servers) - len(open_servers) - 1),
            f"{name} ready": len(agent.executor._ready),
            f"{name} threads' queue": agent.executor.threads.queued,
        }
    return sizes
