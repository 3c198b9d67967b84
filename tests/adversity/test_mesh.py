"""Ten thousand calls among four workers, with cancels, timeouts and links that are cut.

Whatever happens, every call ends, with its own result or with the truth about it, and afterwards
no table of any worker holds anything.
"""

from __future__ import annotations

import asyncio
import collections
import os
import random
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.adversity import handlers
from tests.agent.groups import ProxiedNetwork, UnevenNetwork, any_network, at_rest

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(120)]

CALLS = 10_000
SEEDS = int(os.environ.get("MESH_SEEDS", "1"))
"""Schedules per kind of link: one takes about 10 s; `make soak` runs more."""
RETRY = rpc.RetryPolicy(100, initial=0.002, multiplier=1, per_attempt_timeout=1)
ALLOWED = ("CancelledError", "RpcTimeoutError", "PeerLostError")


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", ["memory", "uneven", "tcp", "proxied"])
async def test_mesh(kind: str, seed: int) -> None:
    """Every call has its own result or the truth, and all tables are empty in the end."""
    limits = rpc.Limits(max_inflight=64)
    handlers.RUNS.clear()
    async with any_network(kind) as base:
        network: Any = UnevenNetwork(seed) if kind == "uneven" else base
        async with cluster(4, network=network, options=rpc.RpcOptions(limits=limits)) as agents:
            mesh = Mesh(agents, network, seed)
            await mesh.run()
            left = await at_rest(agents)
            heaps = [len(agent._agent.caller.deadlines) for agent in agents]
            servers = [len(agent._agent.servers) for agent in agents]

    assert {} == left
    assert [] == mesh.wrong[:5]
    assert CALLS == sum(mesh.outcomes.values())
    assert mesh.outcomes["result"] > CALLS / 10
    assert {1} == set(handlers.RUNS.values()) | {1}  # nothing that may not ran twice
    assert max(heaps) <= 3 * 1024 + CALLS / 10
    assert max(servers) <= 3 + 2


class Mesh:
    """The load and the trouble of one test."""

    def __init__(self, agents: list[Any], network: Any, seed: int) -> None:
        self.agents = agents
        self.network = network
        self.random = random.Random(seed)
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.wrong: list[object] = []

    async def run(self) -> None:
        """Make all calls, in waves, while links break."""
        trouble = asyncio.create_task(self.trouble())
        numbers = iter(range(CALLS))
        await asyncio.gather(*[self.caller(numbers) for _ in range(400)])
        trouble.cancel()
        await asyncio.wait([trouble])

    async def caller(self, numbers: Any) -> None:
        """Make one call after the other."""
        for number in numbers:
            agent = self.random.choice(self.agents)
            try:
                future = self.start(agent, number)
                if self.random.random() < 0.1:
                    asyncio.get_running_loop().call_later(
                        self.random.random() * 0.005, future.cancel
                    )
                value = await asyncio.shield(future)
            except BaseException as error:
                # a worker that was given up meanwhile ends the attempts to reach it
                is_exhausted = isinstance(error, rpc.RetriesExhaustedError)
                why = (error.__cause__ if is_exhausted else None) or error
                # what a nested call failed with comes as a RemoteError that names it
                name = getattr(why, "type_name", "") or type(why).__name__
                self.outcomes[name] += 1
                if not name.endswith(ALLOWED):
                    self.wrong.append(error)
            else:
                self.outcomes["result"] += 1
                if value != handlers.expected(number):
                    self.wrong.append((number, value))

    def start(self, agent: Any, number: int) -> Any:
        """Start a call of some kind."""
        to = self.random.randrange(4)
        timeout = self.random.choice([None, 5, 5, 5, 0.001, 0.003])
        kind = number % 10
        func: Any
        args: tuple[Any, ...]
        if kind < 5:
            func, args = handlers.small, (number,)
        elif kind < 7:
            func, args = handlers.slow, (number, self.random.random() * 0.004)
        elif kind == 7:
            func, args = handlers.nested, (number, self.random.randrange(4))
        elif kind == 8:
            func, args = handlers.threaded, (number,)
        else:
            func, args = handlers.large, (number, bytes(self.random.choice([5_000, 400_000])))
        is_idempotent = kind == 6
        if is_idempotent:
            func = handlers.repeatable
        retry = RETRY if number % 20 in (4, 5, 8, 9) else None
        return agent.rpc_async(
            to, func, args=args, timeout=timeout, retry=retry, idempotent=is_idempotent
        )

    async def trouble(self) -> None:
        """Cut links, one after the other, however slow the machine: but never before it got on."""
        done = 0
        while True:
            await asyncio.sleep(0.005 + self.random.random() * 0.02)
            while self.outcomes.total() < done + 4:
                await asyncio.sleep(0.001)
            done = self.outcomes.total()
            if isinstance(self.network, ProxiedNetwork) and self.network.proxies:
                proxy = self.random.choice([*self.network.proxies.values()])
                proxy.disconnect_all(reset=self.random.random() < 0.5)
                continue
            links = [c for c in self.random.choice(self.agents)._agent.connections() if c.hello]
            if links:
                stream = self.random.choice(links).stream
                if self.random.random() < 0.5:
                    stream.abort()
                else:
                    stream.close()
