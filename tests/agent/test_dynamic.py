"""Dynamic groups: workers join and leave at any time, and no rank is special."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc import RpcAgent, RpcOptions
from asyncrpc.store import MemoryStore, TCPStoreServer
from asyncrpc.testing import VirtualClock
from asyncrpc.transport import MemoryNetwork
from tests.agent import targets
from tests.agent.groups import at_rest, link, until

pytestmark = pytest.mark.asyncio

SECRET = b"a secret of the tests"
OPTIONS = RpcOptions(secret=SECRET)

Join = Callable[..., Any]


@contextlib.asynccontextmanager
async def group(**common: Any) -> AsyncIterator[Join]:
    """Give a function that joins one more worker; those that are left are cut off in the end."""
    agents: list[RpcAgent] = []
    given: dict[str, Any] = {"store": MemoryStore(), "network": MemoryNetwork(), "options": OPTIONS}
    given |= {"environ": {}, **common}

    async def join(name: str | None = None, rank: int | None = None, **more: Any) -> RpcAgent:
        agents.append(await RpcAgent.start(name, rank=rank, **{**given, **more}))
        return agents[-1]

    try:
        yield join
    finally:
        await asyncio.gather(*[agent.shutdown(graceful=False) for agent in agents])


def names(agent: RpcAgent) -> list[tuple[str, int]]:
    """Return who an agent knows to be there."""
    return [(info.name, info.id) for info in agent.get_worker_infos()]


def be_deaf(agent: Any) -> None:
    """Let an agent hear of nobody any more that joins: it has to look them up."""
    agent._agent.members.roster.stop()


async def test_ids_and_names_by_default() -> None:
    """Without a rank a worker gets the next free id and the name that goes with it."""
    async with group() as join:
        agents = [await join() for _ in range(3)]

        assert [("worker0", 0), ("worker1", 1), ("worker2", 2)] == names(agents[2])
        assert [agent.info.name for agent in agents] == ["worker0", "worker1", "worker2"]


async def test_ids_beside_given_ones() -> None:
    """Ids and names that others were given are passed over."""
    async with group() as join:
        await join("alice", rank=0)
        await join("worker2", rank=7)
        first, second = await join(), await join("bob")
        third = await join(rank=5)

        assert ("worker1", 1) == (first.info.name, first.info.id)
        assert ("bob", 3) == (second.info.name, second.info.id)  # 2 is what worker2 might have
        assert ("worker5", 5) == (third.info.name, third.info.id)


async def test_many_join_at_once() -> None:
    """Of many that join at the same moment each gets an id of its own, and all meet."""
    async with group() as join:
        agents = await asyncio.gather(*[join() for _ in range(20)])
        await until(lambda: all(len(agent.get_worker_infos()) == 20 for agent in agents))
        calls = [a.rpc_async(b.info, targets.add, args=(1,)) for a in agents for b in agents]

        assert [11] * 400 == await asyncio.gather(*calls)


async def test_environment() -> None:
    """RANK and ASYNCRPC_NAME count without WORLD_SIZE too."""
    async with group(environ={"RANK": "4", "ASYNCRPC_NAME": "carol"}) as join:
        agent = await join()

    assert ("carol", 4) == (agent.info.name, agent.info.id)


async def test_calls_both_ways() -> None:
    """Who is there can call a new worker, and the new one can call who is there."""
    async with group() as join:
        a = await join()
        be_deaf(a)
        b = await join()
        to_new = a.rpc_async("worker1", targets.who)
        to_old = b.rpc_async(0, targets.who)

        assert ("worker1", "worker0") == await to_new
        assert ("worker0", "worker1") == await to_old
        assert {} == await at_rest([a, b])


async def test_unknown_is_looked_up() -> None:
    """A name that nobody has fails through the future; one that nobody can have at once."""
    async with group() as join:
        a = await join()
        call = a.rpc_async("nobody", targets.who)
        by_id = a.rpc_async(99, targets.who)
        by_info = a.rpc_async(rpc.WorkerInfo("worker0", 3), targets.who)
        a.rpc_notify("nobody", targets.who)
        for future in (call, by_id, by_info):
            with pytest.raises(rpc.UnknownWorkerError, match="could not find destination") as e:
                await future
            assert rpc.Delivery.NOT_SENT is e.value.delivery
        with pytest.raises(rpc.UnknownWorkerError, match="could not find destination no body"):
            a.rpc_async("no body", targets.who)
        with pytest.raises(rpc.UnknownWorkerError):
            a.get_worker_info("nobody")
        assert {} == await at_rest([a])


async def test_order_of_calls_that_had_to_wait() -> None:
    """Calls to a worker that is being looked up keep their order, one-way ones included."""
    targets.log.clear()
    async with group() as join:
        a = await join()
        be_deaf(a)
        await join()
        calls = []
        for n in range(0, 20, 2):
            calls.append(a.rpc_async("worker1", targets.note_and_wait, args=(n, 0)))
            a.rpc_notify("worker1", targets.note_and_wait, args=(n + 1, 0))
        await asyncio.gather(*calls)
        await until(lambda: len(targets.log) == 20)

    assert [*range(20)] == targets.log


async def test_calls_that_give_up_while_they_wait() -> None:
    """A call that is cancelled or timed out before its destination is found is over."""
    async with group(clock=(clock := VirtualClock())) as join:
        a = await join()
        cancelled = a.rpc_async("worker1", targets.who)
        late = a.rpc_async("worker2", targets.who, timeout=1e-9)
        cancelled.cancel()
        await clock.advance(0.1)
        with pytest.raises((rpc.RpcTimeoutError, rpc.UnknownWorkerError)):
            await late
        assert {} == await at_rest([a])


async def test_leave() -> None:
    """A worker that shuts down has left, for those with a link to it and for the others."""
    async with group() as join:
        a, b, c = [await join() for _ in range(3)]
        await a.rpc_async(b.info, targets.who)
        monitors = [agent.monitor("worker1") for agent in (a, c)]
        await b.shutdown()
        events = [[await anext(m), await anext(m)] for m in monitors]
        with pytest.raises(rpc.UnknownWorkerError, match="worker1 left the group"):
            a.rpc_async("worker1", targets.who)
        with pytest.raises(rpc.UnknownWorkerError, match="worker1 left the group"):
            c.rpc_async("worker1", targets.who)

        assert [["joined", "left"]] * 2 == [[e.kind for e in each] for each in events]
        assert ["it shut down"] * 2 == [each[1].reason for each in events]
        assert [("worker0", 0), ("worker2", 2)] == names(a) == names(c)


async def test_leave_waits_for_own_calls_only() -> None:
    """Who leaves answers what it serves and awaits what it called, and nothing else."""
    clock = VirtualClock()
    async with group(clock=clock) as join:
        a, b, c = [await join() for _ in range(3)]
        others = a.rpc_async(c.info, targets.sleep, args=(1000,), timeout=None)
        served = a.rpc_async(b.info, targets.note_and_wait, args=(1, 0.05))
        out = b.rpc_async(c.info, targets.note_and_wait, args=(2, 0.05))
        await clock.advance(0)
        leaving = asyncio.create_task(b.shutdown())
        await leaving

        assert (1, 2) == (served.result(), out.result())
        assert others.cancel()


async def test_new_calls_to_a_leaver_are_turned_away() -> None:
    """A worker under a steady stream of calls can leave; what it took in is answered."""
    async with group() as join:
        a, b = await join(), await join()
        results: list[object] = []

        async def stream() -> None:
            while True:
                results.append(await a.rpc_async(b.info, targets.note_and_wait, args=(1, 0.01)))

        streams = [asyncio.create_task(stream()) for _ in range(20)]
        await until(lambda: len(results) > 20)
        await b.shutdown(timeout=10)
        errors = await asyncio.gather(*streams, return_exceptions=True)

    assert {rpc.UnknownWorkerError} == {type(error) for error in errors}
    assert {rpc.Delivery.NOT_SENT} == {error.delivery for error in errors}  # type: ignore[union-attr]


async def test_leave_in_time() -> None:
    """A leaver whose call does not end names who has it, and goes all the same."""
    clock = VirtualClock()
    async with group(clock=clock) as join:
        a, b = await join(), await join()
        call = b.rpc_async(a.info, targets.sleep, args=(1000,), timeout=None)
        await clock.advance(0)
        leaving = asyncio.create_task(b.shutdown(timeout=5))
        await clock.advance(5.1)
        with pytest.raises(rpc.ShutdownTimeoutError, match="in phase calls, waiting for worker0"):
            await leaving
        with pytest.raises(rpc.NotInitializedError):
            await call
        await until(lambda: names(a) == [("worker0", 0)])


async def test_not_graceful() -> None:
    """A worker that just goes is lost for that reason, without a link too."""
    async with group() as join:
        a, b = await join(), await join()
        monitor = a.monitor("worker1")
        await anext(monitor)
        await b.shutdown(graceful=False)
        event = await anext(monitor)
        with pytest.raises(rpc.PeerLostError, match="it shut down without waiting"):
            a.rpc_async("worker1", targets.who)

    assert ("lost", "it shut down without waiting") == (event.kind, event.reason)


async def test_rejoin() -> None:
    """A worker that comes back under its name is another one, which calls reach."""
    async with group() as join:
        a, b = await join(), await join()
        monitor = a.monitor("worker1")
        await b.shutdown()
        again = await join("worker1")
        kinds = [(await anext(monitor)).kind for _ in range(3)]
        result = await a.rpc_async("worker1", targets.who)

        assert ["joined", "left", "joined"] == kinds
        assert ("worker1", "worker0") == result
        assert [("worker0", 0), ("worker1", again.info.id)] == names(a)
        assert await again.rpc_async("worker0", targets.who) == ("worker0", "worker1")


@pytest.mark.parametrize("rank", [None, 1])
async def test_one_name_twice(rank: int | None) -> None:
    """A name whose worker lives cannot be taken, at once; nor can an id."""
    async with group() as join:
        a, b = await join(), await join()
        with pytest.raises(rpc.DuplicateNameError, match="worker1 is not unique"):
            await join("worker1", rank=7 if rank else None)
        with pytest.raises(rpc.DuplicateNameError, match="id 1 is not unique: worker1 has it"):
            await join("other", rank=1)
        c = await join()

        assert await c.rpc_async("worker1", targets.who) == ("worker1", c.info.name)
        await until(lambda: len(a.get_worker_infos()) == 3)
        assert b.info in a.get_worker_infos()


async def test_superseded() -> None:
    """A worker that does not answer any more loses its name to one that does."""
    async with group() as join:
        a, b = await join(), await join()
        monitor = a.monitor("worker1")
        await b._agent._acceptor.close()  # as if it were cut off: nobody reaches it
        again = await join("worker1")
        events = [await anext(monitor) for _ in range(3)]
        told = [event async for event in b.monitor()]
        with pytest.raises(rpc.PeerLostError, match="worker1 itself was declared lost"):
            b.rpc_async("worker0", targets.who)

        assert ["joined", "lost", "joined"] == [event.kind for event in events]
        assert "another run of worker1 took its place" in events[1].reason
        assert [("worker1", "lost")] == [(event.worker.name, event.kind) for event in told]
        assert await a.rpc_async("worker1", targets.who) == ("worker1", "worker0")
        assert again.info in a.get_worker_infos()


async def test_static_and_dynamic() -> None:
    """A group is of one kind, and static ones of one size."""
    async with group() as join:
        await join()
        with pytest.raises(rpc.RpcError, match="mixes statically and dynamically") as caught:
            await join("b", rank=1, world_size=2)
        assert isinstance(caught.value, RuntimeError)
    async with group() as join:
        await join("a", rank=0, world_size=1)
        with pytest.raises(RuntimeError, match="mixes statically and dynamically"):
            await join("b")


async def test_gather_and_barrier() -> None:
    """Collectives are over who is present, and count anew when a worker has come back."""
    async with group() as join:
        a, b = await join(), await join()
        await until(lambda: len(a.get_worker_infos()) == 2)
        for _ in range(3):
            await asyncio.gather(a.barrier(), b.barrier())
        await b.shutdown()
        alone = await a.all_gather(1)
        again = await join("worker1")
        await until(lambda: len(a.get_worker_infos()) == 2)
        both = list(await asyncio.gather(a.all_gather("a"), again.all_gather("b")))

    assert {"worker0": 1} == alone
    assert [{"worker0": "a", "worker1": "b"}] * 2 == both


async def test_nothing_left_in_the_store() -> None:
    """Who left or was cut off leaves nothing behind but the count of ids."""
    store = MemoryStore()
    async with group(store=store) as join:
        a, b, _ = await join(), await join(), await join()
        await a.shutdown()
        await b.shutdown(graceful=False)

    assert ["next"] == [key.rpartition("/")[2] for key in await store.list_keys()]
    assert 0 == store.debug_info()["waiting"]
    assert 0 == store.debug_info()["leases"]


async def test_cost_of_joining() -> None:
    """A join costs the store the same number of operations in a small group and in a large one."""
    counts = []
    store = MemoryStore()
    async with group(store=store) as join:
        for size in (2, 20):
            while len(await store.list_keys("asyncrpc//0/0/worker/")) < size:
                await join()
            before = next(store._numbers)
            agent = await join()
            joined = next(store._numbers)
            await agent.shutdown()
            counts.append((joined - before, next(store._numbers) - joined))

    assert counts[0] == counts[1]
    assert max(counts[0]) < 12


@pytest.mark.parametrize("kind", ["tcp", "file"])
async def test_whoever_binds_serves(kind: str, free_port: int, tmp_path: Path) -> None:
    """Without ranks the first worker serves the store; when it leaves the group goes on."""
    methods = {"tcp": f"tcp://127.0.0.1:{free_port}", "file": f"file://{tmp_path}/meet"}
    options = RpcOptions(secret=SECRET, init_method=methods[kind])
    async with group(options=options, store=None, network=None) as join:
        a, b, c = [await join() for _ in range(3)]
        await until(lambda: len(a.get_worker_infos()) == 3)
        await a.shutdown()
        await until(lambda: b._started.link.server is not None or c._started.link.server)
        await until(lambda: not b._agent.members.roster._place._mending.locked())
        d = await join("late", rank=9)
        await until(lambda: len(d.get_worker_infos()) == 3)
        await until(lambda: len(b.get_worker_infos()) == len(c.get_worker_infos()) == 3)
        results = [await x.rpc_async(y.info, targets.add, args=(1,)) for x in (b, c) for y in (d,)]
        await asyncio.gather(*[agent.shutdown() for agent in (b, c, d)])

    assert [11, 11] == results


async def test_ranks_do_not_say_who_serves(free_port: int) -> None:
    """With ranks too whoever comes first serves the store, and rank 0 may leave like any other."""
    options = RpcOptions(secret=SECRET, init_method=f"tcp://127.0.0.1:{free_port}")
    async with group(options=options, store=None, network=None) as join:
        one, zero = await join(rank=1), await join(rank=0)
        result = await one.rpc_async(0, targets.add, args=(1,))
        await one.shutdown()
        await until(lambda: zero._started.link.server is not None)
        await until(lambda: not zero._agent.members.roster._place._mending.locked())
        two = await join(rank=2)
        await until(lambda: names(two) == names(zero) == [("worker0", 0), ("worker2", 2)])
        again = await two.rpc_async(0, targets.add, args=(2,))
        await asyncio.gather(zero.shutdown(), two.shutdown())

    assert (11, 12) == (result, again)


async def test_last_word_that_does_not_come() -> None:
    """Of a worker that has left by the store's word the broken link does not make a lost one."""
    async with group() as join:
        a, b = await join(), await join()
        await a.rpc_async(b.info, targets.who)
        monitor = a.monitor("worker1")
        await anext(monitor)
        link(b, "worker0").upkeep.goaway("leaving", "it shuts down")
        await link(b, "worker0").upkeep.fence()
        await b._started.roster.leave("left", "it shut down")
        await until(lambda: a._agent.members.known("worker1").is_judged)
        early = names(a)
        await b._agent._acceptor.close()
        link(b, "worker0").stream.abort()
        event = await anext(monitor)

    assert [("worker0", 0), ("worker1", 1)] == early
    assert ("left", "it shut down") == (event.kind, event.reason)


async def test_store_of_its_own(tmp_path: Path) -> None:
    """A store that the user serves works the same over sockets."""
    async with TCPStoreServer(secret=SECRET) as server:
        environ = {"LAUNCHER_STORE": f"tcp://{server.host}:{server.port}"}
        async with group(store=None, network=None, environ=environ) as join:
            a, b = await join(), await join()
            result = await b.rpc_async("worker0", targets.add, args=(1,))
            await b.shutdown()
            await until(lambda: len(a.get_worker_infos()) == 1)

    assert 11 == result


async def test_leaver_releases_its_references() -> None:
    """Who leaves lets go of what it holds; what it owns is lost to the others."""
    async with group() as join:
        a, b = await join(), await join()
        await until(lambda: len(a.get_worker_infos()) == 2)
        held = b.remote("worker0", targets.echo, args=(1,))
        owned = a.remote("worker1", targets.echo, args=(2,))
        await held.to_here()
        await owned.to_here()
        await b.shutdown()
        with pytest.raises(rpc.OwnerLostError):
            await owned.to_here()
        await until(lambda: a.debug_info()["num_owner_rrefs"] == "0")


async def test_context_of_calls_that_were_looked_up() -> None:
    """A context ends on a worker too that was looked up for its call."""
    async with group() as join:
        a = await join()
        be_deaf(a)
        b = await join()
        async with a.context():
            assert await a.rpc_async("worker1", targets.who) == ("worker1", "worker0")
        assert {} == await at_rest([a, b])


async def test_stream_to_a_worker_that_is_looked_up() -> None:
    """A stream goes to a worker that was not known yet, too."""
    async with group() as join:
        a = await join()
        be_deaf(a)
        await join()
        items = [item async for item in a.rpc_stream("worker1", targets.count_up, args=(3,))]
        with pytest.raises(rpc.UnknownWorkerError):
            await anext(a.rpc_stream("nobody", targets.count_up, args=(3,)))

    assert [0, 1, 2] == items
