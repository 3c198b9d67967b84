"""References among four workers while every message about them fails, comes twice, late, reordered.

Nothing goes early: what somebody holds can always be read, and reads as what it is. Nothing stays:
in the end all tables are empty. Nothing hangs.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import os
import random

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.adversity import rref_users
from tests.adversity.rref_users import Token
from tests.rref.workers import empty

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(60)]

SEEDS = int(os.environ.get("RREF_SEEDS", "6"))
"""Schedules per kind of trouble: one takes about half a second; `make soak` runs 500."""
CONTROL = ("RREF_FORK_REQUEST", "RREF_CHILD_ACCEPT", "RREF_USER_DELETE", "RREF_SYNC")
USERS = 6
STEPS = 12


def bad_weather(seed: int) -> rpc.FaultPlan:
    """Fail each control message three times, and double, delay and reorder them and the answers."""
    failing = [rpc.Fault("fail", m, times=3, each_message=True) for m in CONTROL]
    troubled = (*CONTROL, "RREF_ACK", "RREF_TAKEN")
    return rpc.FaultPlan(
        [
            *failing,
            *(rpc.Fault("duplicate", m, probability=0.2) for m in troubled),
            *(rpc.Fault("delay", m, probability=0.3, delay=0.3) for m in troubled),
            *(rpc.Fault("reorder", m, probability=0.3) for m in troubled),
        ],
        seed=seed,
    )


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut"])
async def test_nothing_early_nothing_left(seed: int, is_cut: bool) -> None:
    """Users see their own values or, where links are cut, the truth; the tables end empty."""
    rref_users.held.clear()
    rref_users.failed.clear()
    clock = VirtualClock()
    async with cluster(4, clock=clock, faults=bad_weather(seed)) as agents:
        mesh = Mesh(agents, clock, seed, is_cut=is_cut)
        time = asyncio.create_task(pass_time(clock))
        await mesh.run()
        await asyncio.gather(*[agent._agent.wait_idle() for agent in agents])  # one-way calls, too
        rref_users.held.clear()
        gc.collect()
        left = await empty(agents, 20)
        await asyncio.gather(*[agent.shutdown() for agent in agents])
        time.cancel()

    assert [] == mesh.wrong[:3]
    assert {} == left
    assert mesh.seen["read"] > USERS
    assert is_cut or not mesh.seen["cut off"]


async def pass_time(clock: VirtualClock) -> None:
    """Let virtual time go on."""
    while True:
        await clock.advance(0.05)
        await asyncio.sleep(0)


class Mesh:
    """The users of one test."""

    def __init__(
        self, agents: list[rpc.RpcAgent], clock: VirtualClock, seed: int, *, is_cut: bool
    ) -> None:
        self.agents = agents
        self.random = random.Random(seed)
        self.seen: collections.Counter[str] = collections.Counter()
        self.wrong: list[object] = []
        self.clock = clock
        self.is_cut = is_cut

    async def run(self) -> None:
        """Let all users work, while links break."""
        trouble = asyncio.create_task(self.trouble())
        await asyncio.gather(*[self.user(number) for number in range(USERS)])
        trouble.cancel()
        await asyncio.wait([trouble])

    async def user(self, number: int) -> None:
        """Do one thing after the other with references of one's own."""
        agent = self.agents[number % 4]
        mine: list[tuple[int, rpc.RRef]] = []  # what each is, and the reference
        for step in range(STEPS):
            try:
                await self.act(agent, mine, 1000 * (number * STEPS + step))
            except Exception as error:
                # what a nested call failed with comes as a RemoteError that names it
                name = getattr(error, "type_name", "") or type(error).__name__
                self.seen["cut off"] += 1
                if not (self.is_cut and name.endswith(("PeerLostError", "RRefDeletedError"))):
                    self.wrong.append((name, str(error)))
        mine.clear()

    async def act(self, agent: rpc.RpcAgent, mine: list[tuple[int, rpc.RRef]], number: int) -> None:
        """Do one thing."""
        to = f"worker{self.random.randrange(4)}"
        some = self.random.sample(mine, min(len(mine), self.random.randrange(1, 4)))
        kind = self.random.randrange(11) if mine else self.random.randrange(2)
        if kind == 0:
            mine.append((number, agent.remote(to, Token, args=(number,))))
        elif kind == 1:
            mine.append((number, await agent.rpc_async(to, rref_users.own, args=(number,))))
        elif kind == 2:
            mine.append((some[0][0] + 1, some[0][1].remote().next()))
        elif kind == 3:
            given = [rref for _, rref in some]
            mine += await agent.rpc_async(to, rref_users.swap, args=(given, 2))
        elif kind == 4:
            agent.rpc_notify(to, rref_users.note, args=([rref for _, rref in some],))
        elif kind == 5:
            await agent.rpc_async(to, rref_users.forget, args=(self.random.randrange(3),))
            del mine[: self.random.randrange(2)]
        elif kind == 6:
            names = [f"worker{self.random.randrange(4)}" for _ in range(3)]
            expected, rref = some[0]
            self.check(expected, await agent.rpc_async(to, rref_users.relay, args=(names, rref)))
        elif kind == 7:
            given = [rref for _, rref in some]
            most = self.random.randrange(1, 5)
            async with agent.rpc_stream(to, rref_users.hand_out, args=(given, 4)) as pairs:
                async for pair in pairs:
                    mine.append(pair)
                    most -= 1
                    if not most:
                        break
        elif kind == 8:
            given = [rref for _, rref in some]
            retry = rpc.RetryPolicy(initial=0.2, retry_on=BlockingIOError)
            args = (given, f"{agent.info.name} {number}")
            mine += await agent.rpc_async(to, rref_users.swap_at_last, args=args, retry=retry)
        else:
            for expected, rref in some:
                self.check(expected, (await rref).number)
                self.check(expected, await rref.rpc_async().get())

    def check(self, expected: int, found: object) -> None:
        """Note what was read."""
        self.seen["read"] += 1
        if expected != found:
            self.wrong.append((expected, found))

    async def trouble(self) -> None:
        """Cut links, one after the other."""
        while self.is_cut:
            await self.clock.sleep(self.random.uniform(0.1, 1.0))
            agent = self.random.choice(self.agents)
            links = [c for c in agent._agent.connections() if c.hello]
            if links:
                self.random.choice(links).stream.abort()
