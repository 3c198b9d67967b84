"""rpc_test.py, groups: barriers side by side, the end of uneven work, and what is shown.

Elsewhere: `all_gather` and `rpc_barrier_subset` (tests/agent/test_collectives.py),
`graceful_shutdown` and `local_shutdown` in all forms (tests/agent/test_shutdown.py),
`shutdown_followed_by_rpc` (tests/test_api.py, ``test_before_and_after``), dynamic groups
(tests/agent/test_dynamic.py), `my_parameter_server` and `rl_rpc` (tests/examples).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import targets
from tests.reference.functions import add
from tests.rref import workers
from tests.rref.workers import empty

pytestmark = pytest.mark.asyncio

TORCH_KEYS = {
    "num_owner_rrefs",
    "num_pending_futures",
    "num_pending_users",
    "num_forks",
    "agent.thread_pool_size",
    "agent.num_idle_threads",
    "agent.client_active_calls",
    "agent.server_active_calls",
    "agent.server_active_async_calls",
}


class BatchUpdateParameterServer:
    """Answers all trainers at once, as soon as the last gradient of a step has come."""

    def __init__(self, trainers: int) -> None:
        self.weight = 0.0
        self._trainers = trainers
        self._gradients: list[float] = []
        self._step: asyncio.Future[float] | None = None

    @staticmethod
    @rpc.functions.async_execution
    def update_and_fetch(server: rpc.RRef, gradient: float) -> asyncio.Future[float]:
        """Take a gradient; return the future that all callers of this step share."""
        self = server.local_value()
        step = self._step or asyncio.get_running_loop().create_future()
        self._step = step
        self._gradients.append(gradient)
        if len(self._gradients) == self._trainers:
            self.weight += sum(self._gradients) / self._trainers
            self._gradients, self._step = [], None
            step.set_result(self.weight)
        return step


async def run_trainer(server: rpc.RRef, steps: int) -> list[float]:
    """Send a gradient in each step; return the weights that came back."""
    gradient = float(rpc.get_worker_info().id)
    return [
        await rpc.rpc_async(
            server.owner(), BatchUpdateParameterServer.update_and_fetch, args=(server, gradient)
        )
        for _ in range(steps)
    ]


async def test_batch_updating_parameter_server() -> None:
    """One future for all callers, released by the n-th; with one thread on each worker."""
    async with cluster(4, options=rpc.RpcOptions(num_worker_threads=1)) as agents:
        server = agents[0].rref(BatchUpdateParameterServer(3))
        trainers = [
            agents[0].rpc_async(f"worker{rank}", run_trainer, args=(server, 20))
            for rank in (1, 2, 3)
        ]
        weights = await asyncio.gather(*trainers)
        del server, trainers
        assert {} == await empty(agents)

    assert [[2.0 * step for step in range(1, 21)]] * 3 == weights


async def test_shutdown_errors() -> None:
    """One worker's shutdown runs out of time: it says for whom, and all end all the same."""
    clock = VirtualClock()
    async with cluster(4, clock=clock) as agents:
        hasty = asyncio.ensure_future(agents[3].shutdown(timeout=1))
        others = [asyncio.ensure_future(agent.shutdown()) for agent in agents[:2]]
        await clock.advance(1.001)
        with pytest.raises(rpc.ShutdownTimeoutError, match="worker2"):
            await hasty
        await agents[2].shutdown()
        await asyncio.gather(*others)
        for agent in agents:
            with pytest.raises(rpc.NotInitializedError):
                agent.rpc_async("worker0", add, args=(1, 2))


async def test_rpc_barrier_partial_subset() -> None:
    """One worker has a barrier with itself, the others have theirs, and then all together."""
    async with cluster(4) as agents:
        names = [agent.info.name for agent in agents]
        await asyncio.gather(
            agents[0].barrier(names[:1]), *[agent.barrier(names[1:]) for agent in agents[1:]]
        )
        last = asyncio.gather(*[agent.barrier() for agent in agents[:3]])
        await agents[0].rpc_async("worker3", add, args=(1, 2))
        assert not last.done()
        await agents[3].barrier()
        await last


async def test_rpc_barrier_multithreaded() -> None:
    """Three barriers of one set at once neither hang nor mix, also when threads ask for them."""
    async with cluster(4) as agents:
        loop = asyncio.get_running_loop()

        def in_thread(agent: rpc.RpcAgent) -> None:
            asyncio.run_coroutine_threadsafe(agent.barrier(), loop).result(10)

        with ThreadPoolExecutor(12) as pool:
            threads = [
                loop.run_in_executor(pool, in_thread, agent) for agent in agents for _ in range(3)
            ]
            await asyncio.gather(*threads)


async def test_wait_all_workers_twice() -> None:
    """All wait for all, work, and wait again; the graceful end comes after that."""
    async with cluster(4) as agents:
        for _ in range(2):
            await asyncio.gather(*[agent.barrier() for agent in agents])
            calls = [agent.rpc_async("worker1", add, args=(1, 2)) for agent in agents]
            assert [3] * 4 == await asyncio.gather(*calls)


async def test_graceful_shutdown_with_uneven_workload() -> None:
    """Idle workers do not leave while others still send them work: first one, then another."""

    async def run(agent: rpc.RpcAgent) -> list[int]:
        calls = []
        for to in ("worker1", "worker2"):
            if agent.info.name not in ("worker1", "worker2"):
                calls += [agent.rpc_async(to, targets.note, args=(n,)) for n in range(20)]
                await asyncio.wait(calls)
        await agent.shutdown()
        return [call.result() for call in calls]

    async with cluster(4) as agents:
        results = await asyncio.gather(*[run(agent) for agent in agents])

    assert [[*range(20)] * 2, [], [], [*range(20)] * 2] == results


async def test_debug_info() -> None:
    """All of torch's names that make sense are there, and every value is a number."""
    async with cluster(4) as (a, b, *_):
        call = a.rpc_async("worker1", workers.passed, args=("gate",))
        await a.rpc_async("worker1", add, args=(1, 2))
        busy = (a.debug_info(), b.debug_info())
        workers.open_gate("gate")
        await call
        info = a.debug_info()

    assert set(info) >= TORCH_KEYS
    assert all(isinstance(float(value), float) for value in info.values())
    assert ("1", "1") == (
        busy[0]["agent.client_active_calls"],
        busy[1]["agent.server_active_async_calls"],
    )
    assert {"0"} == {info[name] for name in TORCH_KEYS if "active" in name or "pending" in name}


async def test_set_and_get_num_worker_threads() -> None:
    """What the options say is what is shown, and so many functions run at once."""
    options = rpc.RpcOptions(num_worker_threads=8)
    async with cluster(4, options=options) as (a, *_):
        info = a.debug_info()

    assert ("8", "8") == (info["agent.thread_pool_size"], info["agent.num_idle_threads"])
