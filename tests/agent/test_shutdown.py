"""How a group ends: together, in time, and with nothing left over."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc import RpcAgent, RpcOptions
from asyncrpc.store import MemoryStore
from asyncrpc.testing import VirtualClock, cluster
from asyncrpc.transport import MemoryNetwork, SocketNetwork
from tests.agent import targets
from tests.agent.groups import UnevenNetwork, link, until
from tests.agent.processes import mixed_group

pytestmark = pytest.mark.asyncio

SECRET = b"a secret of the tests"


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    targets.log.clear()


async def test_collective() -> None:
    """Nobody leaves before everybody wants to."""
    async with cluster(3) as (a, b, c):
        first = [asyncio.create_task(agent.shutdown()) for agent in (a, c)]
        for _ in range(200):
            await asyncio.sleep(0)
        early = [task.done() for task in first]
        still = await asyncio.gather(*[b.rpc_async(i, targets.add, args=(i,)) for i in range(3)])
        await asyncio.gather(b.shutdown(), *first)

    assert [False, False] == early
    assert [10, 11, 12] == still


@pytest.mark.slow
@pytest.mark.parametrize("base", range(0, 60, 20))
async def test_chain_of_one_way_calls(base: int) -> None:
    """A chain of 20 one-way calls that was started just before the end runs to its end."""
    for seed in range(base, base + 20):
        targets.log.clear()
        async with cluster(3, network=UnevenNetwork(seed)) as agents:
            names = [agent.info.name for agent in agents]
            agents[seed % 3].rpc_notify(names[(seed + 1) % 3], targets.chain, args=(20, names))

        assert [*range(20, -1, -1)] == targets.log, seed


async def test_chain_over_sockets() -> None:
    """The same over sockets, where bytes take their time."""
    async with cluster(3, network=SocketNetwork()) as agents:
        names = [agent.info.name for agent in agents]
        agents[0].rpc_notify("worker1", targets.chain, args=(20, names))

    assert [*range(20, -1, -1)] == targets.log


async def test_uneven_work() -> None:
    """An idle worker serves until the last call of the others is over."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (a, b, c):
        idle = [asyncio.create_task(agent.shutdown()) for agent in (b, c)]
        first = [a.rpc_async("worker1", targets.sleep, args=(0.01,)) for _ in range(5)]
        await asyncio.gather(*first)
        second = [a.rpc_async("worker2", targets.sleep, args=(0.01,)) for _ in range(5)]
        last = asyncio.create_task(a.shutdown())
        await asyncio.gather(*idle, last)
        results = [call.result() for call in second]

    assert ["slept"] * 5 == results


async def test_calls_in_flight() -> None:
    """A graceful end waits for calls that are out, also those that wait for a place or a link."""
    limits = rpc.Limits(max_inflight=2)
    async with cluster(2, options=RpcOptions(limits=limits)) as (a, b):
        calls = [a.rpc_async("worker1", targets.note_and_wait, args=(i, 0.001)) for i in range(20)]
        for i in range(5):
            b.rpc_notify("worker0", targets.note, args=(-i,))
        await asyncio.gather(a.shutdown(), b.shutdown())
        results = [call.result() for call in calls]

    assert [*range(20)] == results
    assert 25 == len(targets.log)


@pytest.mark.slow
async def test_many_calls_in_flight() -> None:
    """Waiting for 20 000 calls takes about as long as they take."""
    async with cluster(2) as (a, b):
        calls = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(20_000)]
        start = time.monotonic()
        await asyncio.gather(a.shutdown(), b.shutdown())
        span = time.monotonic() - start
        results = [call.result() for call in calls]

    assert [*range(20_000)] == results
    assert span < 15


async def test_large_messages_under_way() -> None:
    """A large one-way call that is on its way when the end begins arrives."""
    async with cluster(2) as (a, b):
        a.rpc_notify("worker1", targets.note, args=(bytes(8 << 20),))
        await asyncio.gather(a.shutdown(), b.shutdown())

    assert [8 << 20] == [len(data) for data in targets.log]  # type: ignore[arg-type]


async def test_functions_in_threads() -> None:
    """A plain function that its caller gave up still ends before the group does."""
    DONE.clear()
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", run_slow)
        await until(lambda: b.debug_info()["agent.server_active_calls"] == "1")
        call.cancel()
        await asyncio.gather(a.shutdown(), b.shutdown())

        assert DONE.is_set()


DONE = threading.Event()


def run_slow() -> None:
    """Take some time, and say when that is over."""
    time.sleep(0.1)
    DONE.set()


async def test_timeout() -> None:
    """A graceful end that takes too long names phase and workers, and closes all the same."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (a, b, c):
        waiting = [asyncio.create_task(agent.shutdown(timeout=5)) for agent in (a, b)]
        await clock.advance(4.9)
        early = [task.done() for task in waiting]
        await clock.advance(0.2)
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        with pytest.raises(rpc.NotInitializedError):
            a.rpc_async("worker1", targets.who)
        with pytest.raises(rpc.NotInitializedError):
            b.rpc_async("worker0", targets.who)
        infos = c.get_worker_infos()
        await c.shutdown()

    assert [False, False] == early
    assert [rpc.ShutdownTimeoutError] * 2 == [type(error) for error in errors]
    assert [("worker2",)] * 2 == [error.workers for error in errors]  # type: ignore[union-attr]
    assert "longer than 5 s; in phase announce, waiting for worker2" in str(errors[0])
    assert ["worker2"] == [info.name for info in infos] or len(infos) == 3


async def test_long_wait_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """An end without a limit says what it waits for: the phase, the workers and the functions."""
    clock = VirtualClock()
    release = threading.Event()
    HELD.append(release)
    async with cluster(2, clock=clock) as (a, b):
        call = a.rpc_async("worker1", hold, timeout=1)
        await until(lambda: b.debug_info()["agent.server_active_calls"] == "1")
        await clock.advance(2)
        with pytest.raises(rpc.RpcTimeoutError):
            await call
        ends = [asyncio.create_task(agent.shutdown()) for agent in (a, b)]
        await clock.advance(9)
        early = list(caplog.messages)
        await clock.advance(62)
        release.set()
        await asyncio.gather(*ends)

    told = [r.getMessage() for r in caplog.records if r.name == "asyncrpc.shutdown"]
    text = "the graceful shutdown of {} has waited for {} s, in phase calls, for worker1"
    running = "; still running here: tests.agent.test_shutdown:hold"
    assert not any("graceful" in message for message in early)
    assert sorted(
        text.format(name, n) + more
        for name, more in (("worker0", ""), ("worker1", running))
        for n in (10, 70)
    ) == sorted(told)


@pytest.mark.parametrize("size", [2, 3])
async def test_who_does_not_come_to_the_end_is_told(
    caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """A worker that never shuts down is named by all that wait for it, not only by the leader."""
    clock = VirtualClock()
    async with cluster(size, clock=clock) as agents:
        ends = [asyncio.create_task(agent.shutdown()) for agent in agents[:-1]]
        await clock.advance(11)
        told = [r.getMessage() for r in caplog.records if r.name == "asyncrpc.shutdown"]
        await asyncio.gather(agents[-1].shutdown(), *ends)

    assert [
        f"the graceful shutdown of worker{n} has waited for 10 s, in phase announce, "
        f"for worker{size - 1}"
        for n in range(size - 1)
    ] == sorted(told)


async def test_long_leave_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A worker that leaves a dynamic group says whose calls it still serves, and which."""
    clock = VirtualClock()
    release = threading.Event()
    HELD.append(release)
    common: Any = {"store": MemoryStore(clock=clock), "network": MemoryNetwork(), "environ": {}}
    common |= {"clock": clock, "options": RpcOptions(secret=SECRET)}
    a, b = [await RpcAgent.start(name, **common) for name in ("a", "b")]
    a.rpc_notify("b", hold)
    await until(lambda: b.debug_info()["agent.server_active_calls"] == "1")
    end = asyncio.create_task(b.shutdown())
    await clock.advance(11)
    release.set()
    await end
    await a.shutdown()

    (told,) = [r.getMessage() for r in caplog.records if r.name == "asyncrpc.shutdown"]
    assert (
        "the graceful shutdown of b has waited for 10 s, in phase calls, for a; "
        "still running here: tests.agent.test_shutdown:hold"
    ) == told


HELD: list[threading.Event] = []


def hold() -> None:
    """Block a thread until the test lets go."""
    HELD.pop().wait(15)


async def test_timeout_in_a_call() -> None:
    """A call that does not end is named by the worker that still serves it."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        call = b.rpc_async("worker0", targets.sleep, args=(1000,), timeout=None)
        await clock.advance(0)
        waiting = [asyncio.create_task(agent.shutdown(timeout=t)) for agent, t in ((a, 1), (b, 0))]
        await clock.advance(2)
        with pytest.raises(
            rpc.ShutdownTimeoutError, match="in phase calls, waiting for worker"
        ) as e:
            await waiting[0]
        with pytest.raises(rpc.PeerLostError, match="its graceful shutdown timed out"):
            await call
        await waiting[1]  # alone now

    assert "calls" == e.value.phase


async def test_twice() -> None:
    """A second shutdown waits for the first and does nothing; so does one after the end."""
    async with cluster(2) as (a, b):
        await asyncio.gather(a.shutdown(), a.shutdown(), b.shutdown(), b.shutdown())
        await a.shutdown()
        await a.shutdown(graceful=False)


async def test_not_graceful() -> None:
    """Not graceful waits for nobody and nothing; the others see a lost worker."""
    async with cluster(3) as (a, b, c):
        await b.rpc_async("worker0", targets.who)
        served = b.rpc_async("worker0", targets.sleep, args=(1000,))
        out = a.rpc_async("worker2", targets.sleep, args=(1000,))
        await a.rpc_async("worker2", targets.who)
        start = time.monotonic()
        await a.shutdown(graceful=False)
        span = time.monotonic() - start
        with pytest.raises(rpc.NotInitializedError):
            await out
        with pytest.raises(rpc.PeerLostError, match="it shut down without waiting"):
            await served
        await until(lambda: len(c.get_worker_infos()) == 2)

    assert span < 0.5
    assert "cancelled" in targets.log


async def test_hurry() -> None:
    """Not graceful after graceful ends the wait of the first."""
    async with cluster(2) as (a, _):
        first = asyncio.create_task(a.shutdown())
        await asyncio.sleep(0)
        await a.shutdown(graceful=False)
        with pytest.raises(rpc.RpcError, match="cut short"):
            await first


async def test_cancelled() -> None:
    """A graceful shutdown that is cancelled closes everything before it ends."""
    async with cluster(2) as (a, b):
        await a.rpc_async("worker1", targets.who)
        task = asyncio.create_task(a.shutdown())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: len(b.get_worker_infos()) == 1)
        with pytest.raises(rpc.NotInitializedError):
            a.rpc_async("worker1", targets.who)


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_from_a_served_call(kind: str) -> None:
    """A worker may be told by a call to go at once: the caller sees it lost, the call goes on."""
    network = MemoryNetwork() if kind == "memory" else SocketNetwork()
    async with cluster(2, network=network) as (a, b):
        start = time.monotonic()
        with pytest.raises(rpc.PeerLostError, match="it shut down without waiting"):
            await a.rpc_async("worker1", go_away)
        await until(lambda: targets.log == ["gone"])
        span = time.monotonic() - start
        await b.shutdown()

    assert span < 0.5


async def go_away() -> None:
    """Shut down the worker that serves this."""
    await rpc.shutdown(graceful=False)
    targets.log.append("gone")


async def test_graceful_from_a_served_call() -> None:
    """A graceful shutdown that would wait for the call that awaits it is refused at once."""
    async with cluster(2) as (a, b):
        for function in (go_gracefully, go_gracefully_detached):
            with pytest.raises(
                RuntimeError, match=rf"waits for all calls, so for .*{function.__name__}"
            ):
                await a.rpc_async("worker1", function)
        assert 11 == await a.rpc_async("worker1", targets.add, args=(1,))
        assert not b.is_closed


async def go_gracefully() -> None:
    """Wait for oneself."""
    await rpc.shutdown()


async def go_gracefully_detached() -> None:
    """Wait for oneself, free of the caller's deadline."""
    with rpc.detached():
        await rpc.current_agent().shutdown()


async def test_graceful_after_a_served_call() -> None:
    """A call may start the graceful shutdown of its worker as a task of its own."""
    async with cluster(2) as (a, b):
        answer = await a.rpc_async("worker1", go_afterwards)
        await a.shutdown()
        await until(lambda: b.is_closed)
        await asyncio.gather(*goers)
        goers.clear()

    assert "going" == answer


goers: list[asyncio.Task[None]] = []


async def go_afterwards() -> str:
    """Start a shutdown, and stay for a moment."""
    goers.append(asyncio.create_task(rpc.shutdown()))
    await asyncio.sleep(0)
    return "going"


async def test_refused_shutdown_ends_nothing() -> None:
    """After a shutdown with a bad timeout the agent of the process is still there."""
    store = MemoryStore()
    async with rpc.init_rpc("solo", rank=0, world_size=1, options=OPTIONS, store=store) as agent:
        with pytest.raises(ValueError, match="timeout"):
            await rpc.shutdown(timeout=-1)
        assert agent is rpc.current_agent()
        with pytest.raises(RuntimeError, match="waits for all calls"):
            await rpc.rpc_async("solo", go_gracefully)
        assert agent is rpc.current_agent()


async def test_error_in_the_body() -> None:
    """An exception in the body of init_rpc ends the worker at once; the others see it lost."""
    store = MemoryStore()

    async def other() -> RpcAgent:
        return await RpcAgent.start("b", rank=1, world_size=2, options=OPTIONS, store=store)

    joining = asyncio.create_task(other())
    with pytest.raises(KeyError, match="body"):
        async with rpc.init_rpc("a", rank=0, world_size=2, options=OPTIONS, store=store):
            await joining
            await rpc.rpc_async("b", targets.who)
            raise KeyError("body")
    b = joining.result()
    await until(lambda: len(b.get_worker_infos()) == 1)
    await b.shutdown()

    with pytest.raises(rpc.NotInitializedError, match="RPC has not been initialized"):
        rpc.current_agent()


OPTIONS = RpcOptions(secret=SECRET)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["store", "file", "tcp"])
async def test_again_and_again(kind: str, tmp_path: Path, free_port: int) -> None:
    """Init, shutdown, init again: with one store, with one file, with one port."""
    method = {"file": f"file://{tmp_path}/store", "tcp": f"tcp://127.0.0.1:{free_port}"}
    options = RpcOptions(secret=SECRET, init_timeout=10, init_method=method.get(kind, "env://"))
    store = MemoryStore() if kind == "store" else None

    async def worker(rank: int) -> list[Any]:
        results = []
        for number in range(5):
            agent = await RpcAgent.start(
                f"worker{rank}", rank=rank, world_size=3, options=options, store=store, environ={}
            )
            results.append(await agent.rpc_async((rank + 1) % 3, targets.add, args=(number,)))
            await agent.shutdown()
        return results

    start = time.monotonic()
    results = await asyncio.gather(*[worker(rank) for rank in range(3)])

    assert [[10, 11, 12, 13, 14]] * 3 == results
    assert time.monotonic() - start < 10


@pytest.mark.slow
async def test_empty_body() -> None:
    """Workers that do nothing at all find each other and end, whoever is first."""
    for seed in range(50):
        async with cluster(4, network=UnevenNetwork(seed)):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["leader", "follower"])
async def test_killed_during_the_end(tmp_path: Path, victim: str) -> None:
    """A worker that dies while the group ends does not hold up the others, nor does its leader."""
    async with mixed_group(tmp_path, 3) as (agent, workers):
        if victim == "leader":
            for worker in workers[:2]:
                await worker.tell("graceful")
                assert await worker.line() == "leaving"
            await agent.rpc_async("worker3", targets.who)
            await agent.shutdown(graceful=False)  # worker0 led; nobody has a link to worker3
            await workers[2].tell("graceful")
            assert await workers[2].line() == "leaving"
        else:
            for worker in workers[1:]:
                await worker.tell("graceful")
                assert await worker.line() == "leaving"
            ending = asyncio.create_task(agent.shutdown())
            await asyncio.sleep(0.1)
            workers[0].signal(signal.SIGKILL)  # it had no link to anybody but the leader's
            await ending
        left = workers if victim == "leader" else workers[1:]
        lines = [await worker.line() for worker in left]

    assert ["left"] * len(left) == lines


@pytest.mark.slow
async def test_killed_leader(tmp_path: Path) -> None:
    """When the leader's process dies, the next worker leads on."""
    async with mixed_group(tmp_path, 3) as (agent, workers):
        async with cluster(1):
            pass
        await agent.rpc_async("worker1", targets.who)
        for worker in workers[1:]:
            await worker.tell("graceful")
            assert await worker.line() == "leaving"
        await agent.shutdown(graceful=False)
        workers[0].signal(signal.SIGKILL)
        lines = [await worker.line() for worker in workers[1:]]

    assert ["left", "left"] == lines


@pytest.mark.slow
async def test_stuck_peer_does_not_hold_the_close(tmp_path: Path) -> None:
    """A shutdown does not wait long for a peer that takes no bytes."""
    async with mixed_group(tmp_path, 1) as (agent, (worker,)):
        await agent.rpc_async("worker1", targets.who)
        worker.signal(signal.SIGSTOP)
        call = agent.rpc_async("worker1", targets.echo, args=(bytes(64 << 20),))
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await agent.shutdown(graceful=False)
        span = time.monotonic() - start
        with pytest.raises(rpc.NotInitializedError):
            await call

    assert span < 3


async def test_link_that_breaks_during_the_end() -> None:
    """The end of a group survives links that break meanwhile."""
    async with cluster(3, network=MemoryNetwork()) as agents:
        a, b, c = agents
        await asyncio.gather(b.rpc_async(0, targets.who), c.rpc_async(0, targets.who))
        call = b.rpc_async(2, targets.sleep, args=(0.05,))
        ends = [asyncio.create_task(agent.shutdown()) for agent in agents]
        for _ in range(5):
            await asyncio.sleep(0.002)
            for name in ("worker1", "worker2"):
                if (open_link := link(a, name)) is not None:
                    open_link.stream.abort()
        await asyncio.gather(*ends)

    assert "slept" == call.result()
