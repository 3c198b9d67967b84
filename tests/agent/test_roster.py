"""One verdict per group: leases that lapse, stores out of reach, fencing, and who is right."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc import RpcAgent, RpcOptions
from asyncrpc.agent import PeerState
from asyncrpc.discovery import Record, Verdict, decode_entry, worker_key
from asyncrpc.store import MemoryStore, PrefixStore, StoreConnectionError, TCPStore, TCPStoreServer
from asyncrpc.testing import ChaosProxy, VirtualClock, cluster
from asyncrpc.transport import MemoryNetwork
from tests.agent import targets
from tests.agent.groups import until

pytestmark = pytest.mark.asyncio

SECRET = b"a secret of the tests"
GROUP = "asyncrpc//0/0"


@contextlib.asynccontextmanager
async def virtual(n: int) -> AsyncIterator[tuple[VirtualClock, PrefixStore, list[Any]]]:
    """Run a static group whose clock, store and network are the test's."""
    clock = VirtualClock()
    store = MemoryStore(clock=clock)
    async with cluster(n, clock=clock, store=store) as agents:
        yield clock, PrefixStore(GROUP, store), agents
        await asyncio.gather(*[agent.shutdown(graceful=False) for agent in agents])
    await store.close()


def state(agent: Any, name: str) -> str:
    """Return what an agent thinks of a worker."""
    return str(agent._agent.members.known(name).state.value)


def roster(agent: Any) -> Any:
    """Return an agent's roster."""
    return agent._agent.members.roster


async def fall_silent(agent: Any) -> None:
    """Let an agent die as far as others can see: no lease, no listener, no words."""
    agent._agent.members.roster._place.lease.abandon()
    agent._agent.members.roster.stop()
    await agent._agent._acceptor.close()
    agent._agent.detector.stop()


async def entry(store: PrefixStore, rank: int) -> Record | Verdict:
    """Return what lies under a worker's key."""
    return decode_entry(await store.get(worker_key(rank), 0))


async def test_long_start_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A rank that does not come is named in the log while the others wait, and no more then."""
    clock = VirtualClock()
    given: dict[str, Any] = {"store": MemoryStore(clock=clock), "network": MemoryNetwork()}
    given |= {"clock": clock, "environ": {}, "options": RpcOptions(secret=SECRET), "world_size": 3}
    starts = [asyncio.create_task(RpcAgent.start(rank=rank, **given)) for rank in (0, 2)]
    await clock.advance(9)
    early = list(caplog.messages)
    await clock.advance(62)
    agents = await asyncio.gather(*starts, RpcAgent.start(rank=1, **given))
    await clock.advance(100)
    await asyncio.gather(*[agent.shutdown() for agent in agents])

    told = [r.getMessage() for r in caplog.records if r.name == "asyncrpc.members"]
    text = "{} waits for its group: only 2 of 3 workers came within {} s; missing rank 1"
    assert [] == early
    assert sorted(text.format(n, s) for n in ("worker0", "worker2") for s in (10, 70)) == sorted(
        told
    )


async def test_lapsed_lease() -> None:
    """A worker that nobody has a link to is lost when its lease lapses and it does not answer."""
    async with virtual(3) as (clock, store, (a, b, c)):
        monitors = [a.monitor("worker2"), b.monitor("worker2")]
        await fall_silent(c)
        await clock.advance(30)
        events = [[await anext(m) for _ in range(2)] for m in monitors]
        verdict = await entry(store, 2)

        assert [["joined", "lost"]] * 2 == [[event.kind for event in each] for each in events]
        assert ["its lease lapsed and it does not answer"] * 2 == [e[1].reason for e in events]
        assert isinstance(verdict, Verdict)
        assert c._agent.incarnation == verdict.incarnation
        with pytest.raises(rpc.PeerLostError, match="lease lapsed"):
            a.rpc_async("worker2", targets.who)


async def test_lapsed_lease_of_one_that_lives() -> None:
    """A worker that answers is not lost, and puts its record back."""
    async with virtual(3) as (clock, store, agents):
        for agent in agents:
            await store.underlying_store.revoke_lease(roster(agent)._place.lease)  # type: ignore[attr-defined]
        await clock.advance(1)
        back = [await entry(store, rank) for rank in range(3)]
        await clock.advance(60)

        assert [agent._agent.incarnation for agent in agents] == [e.incarnation for e in back]
        assert [state(agents[0], f"worker{n}") for n in range(3)] == ["present"] * 3
        results = await asyncio.gather(*[a.rpc_async(0, targets.add, args=(1,)) for a in agents])
        assert [11] * 3 == results


async def test_one_verdict_for_all() -> None:
    """What one finds out all act on, each once, with its reason; and it stays."""
    async with virtual(4) as (clock, store, agents):
        a, b, c, d = agents
        call = c.rpc_async("worker3", targets.sleep, args=(1000,), timeout=None)
        await clock.advance(0)
        a._agent.members.lose(a._agent.members.route("worker3"), "a said so")
        b._agent.members.lose(b._agent.members.route("worker3"), "b said so")
        await clock.advance(1)
        verdict = await entry(store, 3)
        with pytest.raises(rpc.PeerLostError, match="worker3 was lost: a said so"):
            await call

        assert isinstance(verdict, Verdict)
        assert ("lost", "a said so") == (verdict.kind, verdict.reason)
        assert ["lost"] * 3 == [state(agent, "worker3") for agent in (a, b, c)]
        assert "a said so" == d._agent.members.fenced
        await clock.advance(60)
        assert ["worker0", "worker1", "worker2"] == [i.name for i in a.get_worker_infos()]


async def test_fenced() -> None:
    """A worker that was declared lost is told: its calls fail, and so do those to it."""
    async with virtual(2) as (clock, _, (a, b)):
        monitor = b.monitor()
        gone: list[str] = []
        b._agent.members.listeners.append(lambda peer: gone.append(peer.info.name))
        out = b.rpc_async("worker0", targets.sleep, args=(1000,), timeout=None)
        served = a.rpc_async("worker1", targets.sleep, args=(1000,), timeout=None)
        own = b.rpc_async("worker1", targets.sleep, args=(1000,), timeout=None)
        await clock.advance(0)
        a._agent.members.lose(a._agent.members.route("worker1"), "the test says so")
        await clock.advance(1)
        told = "worker1 itself was declared lost by its group: the test says so"
        for call, text in ((out, f"{told}|connection to worker0 broke"), (own, told)):
            with pytest.raises(rpc.PeerLostError, match=text) as caught:
                await call
            assert rpc.Delivery.UNKNOWN is caught.value.delivery
        with pytest.raises(rpc.PeerLostError, match="worker1 was lost: the test says so"):
            await served
        with pytest.raises(rpc.PeerLostError, match=told) as caught:
            b.rpc_async("worker0", targets.who)
        assert rpc.Delivery.NOT_SENT is caught.value.delivery
        with pytest.raises(rpc.PeerLostError, match=told):
            b.get_worker_info("worker0")
        events = [event async for event in monitor]
        await b.shutdown()  # alone: it waits for nobody

        assert ["joined", "joined", "lost"] == [event.kind for event in events]
        assert (b.info, "the test says so") == (events[-1].worker, events[-1].reason)
        assert ["worker0"] == gone


async def test_fenced_by_a_link() -> None:
    """Where the store tells it nothing, the next link does."""
    async with virtual(2) as (clock, _, (a, b)):
        roster(b).stop()
        a._agent.members.lose(a._agent.members.route("worker1"), "the test says so")
        await clock.advance(1)
        early = b._agent.members.fenced
        with pytest.raises(rpc.PeerLostError, match="worker1 itself was declared lost"):
            await b.rpc_async("worker0", targets.who)

        assert "" == early
        assert "the test says so" == b._agent.members.fenced
        assert "present" == state(a, "worker0")


async def test_each_holds_the_other_for_lost() -> None:
    """Of two verdicts against each other the first one stands; the second is void."""
    async with virtual(3) as (clock, store, (a, b, c)):
        for one, other in ((a, b), (b, a)):
            one.partition([other.info])
        a._agent.members.lose(a._agent.members.route("worker1"), "a said so")
        b._agent.members.lose(b._agent.members.route("worker0"), "b said so")
        await clock.advance(5)
        own = await entry(store, 0)
        views = [[info.name for info in agent.get_worker_infos()] for agent in (a, c)]
        result = await c.rpc_async("worker0", targets.add, args=(1,))

        assert "a said so" == b._agent.members.fenced
        assert "" == a._agent.members.fenced
        assert [["worker0", "worker2"]] * 2 == views
        assert isinstance(own, Record)  # put back
        assert 11 == result


async def test_rejoin_of_a_static_rank() -> None:
    """A rank of a static group that comes back is another worker, which calls reach."""
    clock = VirtualClock()
    store, network = MemoryStore(clock=clock), MemoryNetwork()
    options = RpcOptions(secret=SECRET)
    async with cluster(3, clock=clock, store=store, network=network, options=options) as (a, b, c):
        arrived: list[str] = []
        a._agent.members.arrivals.append(lambda peer: arrived.append(peer.info.name))
        monitor = a.monitor("worker2")
        old = c._agent.incarnation
        out = a.rpc_async("worker2", targets.sleep, args=(1000,), timeout=None)
        await clock.advance(0)
        await fall_silent(c)
        again = await RpcAgent.start(
            "worker2", rank=2, world_size=3, options=options, store=store, network=network,
            clock=clock, environ={},
        )  # fmt: skip
        with pytest.raises(rpc.PeerLostError, match="another run of worker2 took its place"):
            await out
        events = [await anext(monitor) for _ in range(3)]
        results = [await x.rpc_async("worker2", targets.who) for x in (a, b)]
        back = await again.rpc_async("worker0", targets.who)
        await c.shutdown(graceful=False)
        await asyncio.gather(*[agent.shutdown() for agent in (a, b, again)])

    assert ["joined", "lost", "joined"] == [event.kind for event in events]
    assert [("worker2", "worker0"), ("worker2", "worker1")] == results
    assert ("worker0", "worker2") == back
    assert ["worker2"] == arrived
    assert old != again._agent.incarnation
    assert [] == await store.list_keys()


async def test_rank_of_a_living_worker() -> None:
    """A rank or a name of a static group that runs cannot be taken; the group goes on."""
    store, network = MemoryStore(), MemoryNetwork()
    options = RpcOptions(secret=SECRET)
    common: dict[str, Any] = {"options": options, "store": store, "network": network}
    async with cluster(2, **common) as (a, b):
        for name, rank in (("worker1", 1), ("other", 1), ("worker0", 1)):
            with pytest.raises(rpc.DuplicateNameError, match="is not unique"):
                await RpcAgent.start(name, rank=rank, world_size=2, environ={}, **common)
        assert 11 == await a.rpc_async("worker1", targets.add, args=(1,))
        assert 11 == await b.rpc_async("worker0", targets.add, args=(1,))

    assert [] == await store.list_keys()


async def test_groups_of_other_names_on_one_store() -> None:
    """One store serves one group after the other, whatever their workers are called."""
    store = MemoryStore()
    for names in (("a", "b"), ("a", "c"), ("c", "a"), ("b", "c")):
        starts = [
            RpcAgent.start(
                name, rank=rank, world_size=2, store=store, network=MemoryNetwork(), environ={},
                options=RpcOptions(secret=SECRET, init_timeout=5),
            )
            for rank, name in enumerate(names)
        ]  # fmt: skip
        agents = await asyncio.gather(*starts)
        await asyncio.gather(*[agent.shutdown() for agent in agents])

    assert [] == await store.list_keys()


async def test_store_out_of_reach() -> None:
    """Without the store a verdict is the observer's own; when it is back all hear of it."""
    async with (
        TCPStoreServer(secret=SECRET) as server,
        ChaosProxy(server.host, server.port) as proxy,
        await TCPStore.connect(proxy.host, proxy.port, secret=SECRET, reconnect_timeout=30) as far,
        await TCPStore.connect(server.host, server.port, secret=SECRET) as near,
    ):
        network, options = MemoryNetwork(), RpcOptions(secret=SECRET, heartbeat_interval=0.1)
        starts = [
            RpcAgent.start(
                f"worker{rank}", rank=rank, world_size=3, options=options, environ={},
                store=far if rank == 0 else near, network=network,
            )
            for rank in range(3)
        ]  # fmt: skip
        a, b, c = await asyncio.gather(*starts)
        proxy.pause()
        proxy.disconnect_all()
        await until(lambda: far._exchange.outlet.stream is None)
        a._agent.members.lose(a._agent.members.route("worker2"), "the test says so")
        await asyncio.sleep(0.3)
        meanwhile = [state(agent, "worker2") for agent in (a, b)]
        proxy.resume()
        await until(lambda: state(b, "worker2") == "lost", 15)
        await until(lambda: c._agent.members.fenced, 15)
        await asyncio.gather(*[agent.shutdown(graceful=False) for agent in (a, b, c)])

    assert ["lost", "present"] == meanwhile


async def test_store_gone_for_good() -> None:
    """A store that ends takes nobody with it: calls, losses and the end go on without."""
    store, network = MemoryStore(), MemoryNetwork()
    options = RpcOptions(secret=SECRET, heartbeat_interval=0.05)
    async with cluster(3, store=store, network=network, options=options) as (a, b, c):
        await store.close()
        await asyncio.sleep(0.2)
        results = await asyncio.gather(*[x.rpc_async(0, targets.add, args=(1,)) for x in (a, b)])
        a._agent.members.lose(a._agent.members.route("worker2"), "the test says so")
        lost = state(a, "worker2")
        await c.shutdown(graceful=False)

    assert [11, 11] == results
    assert "lost" == lost


async def test_overgrown_watch() -> None:
    """A member that fell behind the store's events looks at the whole again."""
    async with virtual(3) as (clock, store, (a, b, c)):
        watch = roster(a)._watch
        watch._inner._feed.end(StoreConnectionError("the test says so"))
        await fall_silent(c)
        await store.delete_key(worker_key(2))
        b._agent.members.lose(b._agent.members.route("worker2"), "b said so")
        await clock.advance(10)

        assert "lost" == state(a, "worker2")
        assert watch is not roster(a)._watch


async def test_gone_workers_are_forgotten_in_the_end() -> None:
    """Of workers that went long ago nothing is kept."""
    async with cluster(1) as (a,):
        members = a._agent.members
        template = members.route("worker0").record
        for number in range(3000):
            incarnation = number.to_bytes(16, "big")
            info = rpc.WorkerInfo(f"w{number}", number % 1000 + 1)
            peer = members.join(Record(info, incarnation, template.addresses, template.host))
            members.gone(peer, PeerState.LEFT, "it left")

        assert 1024 == members.gone_count()
        assert ["worker0"] == [peer.info.name for peer in members.all()]
        assert len(members._routes) < 3 * 1100
        with pytest.raises(rpc.UnknownWorkerError, match="w2999 left the group"):
            a.rpc_async("w2999", targets.who)
        with pytest.raises(rpc.UnknownWorkerError, match="could not find destination w0"):
            a.rpc_async("w0", targets.who)


async def test_successor_of_a_fenced_worker() -> None:
    """A worker that was fenced but runs on keeps neither its rank nor its name from a new run."""
    store, network = MemoryStore(), MemoryNetwork()
    common: dict[str, Any] = {"options": RpcOptions(secret=SECRET), "store": store}
    a, b = [await RpcAgent.start(**common, network=network, environ={}) for _ in range(2)]
    await a.rpc_async("worker1", targets.who)
    a._agent.members.lose(a._agent.members.route("worker1"), "the test says so")
    await until(lambda: b._agent.members.fenced)
    again = await RpcAgent.start("worker1", rank=1, network=network, environ={}, **common)
    await until(lambda: again.info in a.get_worker_infos())

    assert ("worker1", "worker0") == await a.rpc_async("worker1", targets.who)
    assert "" == again._agent.members.fenced
    await asyncio.gather(*[agent.shutdown() for agent in (a, b, again)])


async def test_lapse_and_verdict_at_once() -> None:
    """A worker that finds its lease lapsed and the verdict on it in one turn stays responsive."""
    async with virtual(2) as (_, store, (a, b)):
        monitor = b.monitor("worker1")
        await anext(monitor)
        roster(b)._place.lease.mark_lost()
        b._agent.members.fence("the test says so")
        event = await anext(monitor)
        await until(lambda: roster(b)._place.lease is None)

        assert ("lost", "the test says so") == (event.kind, event.reason)
        assert not await store.check([worker_key(1)])
        assert "present" == state(a, "worker0")


async def test_store_that_fails_while_the_record_is_put_back() -> None:
    """A store that fails in the middle of putting a record back is asked again."""
    async with virtual(1) as (clock, store, (a,)):
        place = roster(a)._place
        group, failures = place.group, []

        class Failing(PrefixStore):
            async def compare_set(self, *_: Any, **__: Any) -> bytes:
                failures.append(1)
                raise StoreConnectionError("the test says so")

        place.group = Failing(GROUP, store.underlying_store)
        place.lease.mark_lost()
        await clock.advance(5)
        early = len(failures)
        place.group = group
        await clock.advance(5)
        back = await entry(store, 0)

        assert 2 <= early <= 4
        assert a._agent.incarnation == back.incarnation
        assert not place.lease.lost.is_set()
