"""One link per pair, opened on first use; what a broken one does to the calls that were out."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from asyncrpc.transport import Address, MemoryNetwork, Stream, StreamHandler
from tests.agent import targets
from tests.agent.groups import ProxiedNetwork, UnevenNetwork, any_network, at_rest, link, until
from tests.transport.links import Recorder

pytestmark = pytest.mark.asyncio

MANY = b"x" * (1 << 20)


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    targets.log.clear()


async def test_opened_on_first_use() -> None:
    """No link is opened before the first call, and that opens one for both directions."""
    async with cluster(3) as (a, b, c):
        before = [link(a, "worker1"), link(b, "worker0"), link(c, "worker0")]
        await a.rpc_async("worker1", targets.who)
        await b.rpc_async("worker0", targets.who)
        counts = [agent.debug_info()["agent.connections"] for agent in (a, b, c)]

    assert [None, None, None] == before
    assert ["1", "1", "0"] == counts


@pytest.mark.slow
@pytest.mark.parametrize("base", range(0, 200, 50))
async def test_opened_from_both_sides_at_once(base: int) -> None:
    """Two workers that call each other at the same moment share one link, and no call is lost."""
    for seed in range(base, base + 50):
        network = UnevenNetwork(seed)
        async with cluster(2, network=network) as (a, b):
            results = await call_each_other(network, a, b)
            await until(lambda: at_peace(a, b))
            again = await call_each_other(network, a, b)

        assert [[0, 1, 2]] * 4 == [*results, *again], seed


async def call_each_other(network: UnevenNetwork, a: Any, b: Any) -> list[Any]:
    """Let both call the other one within a few turns."""

    async def call(agent: Any, to: str) -> Any:
        await network.turns()
        calls = [agent.rpc_async(to, targets.echo, args=(i,)) for i in range(3)]
        return await asyncio.gather(*calls)

    return [*await asyncio.gather(call(a, "worker1"), call(b, "worker0"))]


def at_peace(a: Any, b: Any) -> bool:
    """Return whether both use the same link, and it is open."""
    near, far = link(a, "worker1"), link(b, "worker0")
    is_open = near and far and not near.stream.is_closed and not far.stream.is_closed
    return bool(is_open and near.stream._transport.twin is far.stream._transport)


@pytest.mark.parametrize("kind", ["tcp", "proxied"])
async def test_opened_from_all_sides_over_tcp(kind: str) -> None:
    """Over sockets too: a mesh that starts with everybody calling everybody has one link a pair."""
    async with any_network(kind) as network, cluster(4, network=network) as agents:
        calls = [
            a.rpc_async(f"worker{i}", targets.echo, args=(i,))
            for a, i in itertools.product(agents, range(4))
        ]
        results = await asyncio.gather(*calls)
        counts = [agent.debug_info()["agent.connections"] for agent in agents]

    assert [0, 1, 2, 3] * 4 == results
    assert ["3"] * 4 == counts


@pytest.mark.parametrize("kind", ["memory", "tcp", "proxied"])
async def test_written_calls_fail_at_once(kind: str) -> None:
    """A call that was written when its link broke fails UNKNOWN; the next one has a new link."""
    async with any_network(kind) as network, cluster(2, network=network) as (a, b):
        calls = [a.rpc_async("worker1", targets.sleep, args=(1000,)) for _ in range(10)]
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "10")
        if isinstance(network, ProxiedNetwork):
            network.cut()
        else:
            link(b, "worker0").stream.abort()
        errors = await asyncio.gather(*calls, return_exceptions=True)
        after = await a.rpc_async("worker1", targets.add, args=(1,))
        left = await at_rest((a, b))

    assert {rpc.PeerLostError} == {type(error) for error in errors}
    assert {rpc.Delivery.UNKNOWN} == {error.delivery for error in errors}  # type: ignore[union-attr]
    assert "the connection to worker1 broke while" in str(errors[0])
    assert 11 == after
    assert ["cancelled"] * 10 == targets.log
    assert {} == left


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_unwritten_calls_are_sent_again(kind: str) -> None:
    """What had not left when the link broke runs once, over the next link: large ones too."""
    async with any_network(kind) as network, cluster(2, network=network) as (a, b):
        await a.rpc_async("worker1", targets.add, args=(1,))
        small = [a.rpc_async("worker1", targets.note, args=(i,)) for i in range(5)]
        a.rpc_notify("worker1", targets.note, args=("one way",))
        inline = a.rpc_async("worker1", targets.note, args=(b"y" * 5000,))
        link(a, "worker1").stream.abort()
        large = a.rpc_async("worker1", len, args=(MANY,))
        results = await asyncio.gather(*small, inline, large)
        await b._agent.wait_idle()

    assert [0, 1, 2, 3, 4, b"y" * 5000, 1 << 20] == results
    assert {0, 1, 2, 3, 4, "one way", b"y" * 5000} == set(targets.log)
    assert 7 == len(targets.log)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_half_sent_transfer_is_sent_again(kind: str) -> None:
    """A large request of which only a part left cannot have run, so it goes again."""
    async with any_network(kind) as network, cluster(2, network=network) as (a, b):
        await a.rpc_async("worker1", targets.add, args=(1,))
        data = bytes(64 << 20)
        large = a.rpc_async("worker1", len, args=(data,))
        assert link(a, "worker1").bulk._transfers[0].is_started
        link(a, "worker1").stream.abort()

        assert len(data) == await large
        assert {} == await at_rest((a, b))


async def test_idempotent_calls_are_sent_again() -> None:
    """A call that may run twice survives its link, and joins its run that goes on meanwhile."""
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", targets.note_and_wait, args=("x", 0.05), idempotent=True)
        await until(lambda: targets.log == ["x"])
        link(b, "worker0").stream.abort()

        assert "x" == await call
        assert ["x"] == targets.log


async def test_names_are_told_again() -> None:
    """Interned names die with the link: the next one starts afresh."""
    async with cluster(2) as (a, b):
        first = await a.rpc_async("worker1", targets.add, args=(1,))
        link(b, "worker0").stream.abort()
        await until(lambda: link(a, "worker1") is not None and not link(a, "worker1").announced)
        second = await a.rpc_async("worker1", targets.add, args=(2,))
        third = await b.rpc_async("worker0", targets.add, args=(3,))

    assert [11, 12, 13] == [first, second, third]


async def test_break_while_the_link_opens() -> None:
    """Calls made while a link is being opened wait for it, however often that fails."""
    network = StubbornNetwork(failures=4)
    async with cluster(2, network=network) as (a, b):
        results = await asyncio.gather(
            *[a.rpc_async("worker1", targets.note, args=(i,)) for i in range(3)]
        )
        left = await at_rest((a, b))

    assert [0, 1, 2] == results
    assert {0, 1, 2} == set(targets.log)
    assert {} == left


class StubbornNetwork(MemoryNetwork):
    """Refuses the first links."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.attempts = 0

    async def connect(self, address: Address, handler: StreamHandler, *, timeout: float) -> Stream:
        self.attempts += 1
        if self.attempts <= self.failures:
            raise ConnectionError(f"cannot connect to {address}: refused by the test")
        return await super().connect(address, handler, timeout=timeout)


async def test_backoff_and_the_end_of_patience() -> None:
    """Attempts to open a link get rarer; a worker out of reach for all misses is lost."""
    clock = VirtualClock()
    network = StubbornNetwork(failures=10_000)
    async with cluster(2, network=network, clock=clock) as (a, b):
        call = a.rpc_async("worker1", targets.who, timeout=None)
        await clock.advance(1)
        first = network.attempts
        await clock.advance(4)
        then = network.attempts - first
        is_early = call.done()
        await clock.advance(3)
        with pytest.raises(rpc.PeerLostError, match="refused by the test") as caught:
            await call
        with pytest.raises(rpc.PeerLostError, match="worker1 was lost"):
            a.rpc_async("worker1", targets.who)
        await asyncio.gather(a.shutdown(graceful=False), b.shutdown(graceful=False))

    assert 3 <= first <= 40
    assert then <= 4 * 8
    assert not is_early
    assert rpc.Delivery.NOT_SENT is caught.value.delivery


async def test_deadline_while_the_link_opens() -> None:
    """A call whose time is over before there is a link was not sent, and says so."""
    clock = VirtualClock()
    network = StubbornNetwork(failures=10_000)
    async with cluster(2, network=network, clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.who, timeout=1)
        await clock.advance(1.5)
        with pytest.raises(rpc.RpcTimeoutError) as caught:
            await call
        waiting = a._agent.members.route("worker1").waiting
        network.failures = 0

    assert (rpc.Delivery.NOT_SENT, "connect") == (caught.value.delivery, caught.value.phase)
    assert 0 == waiting


@pytest.mark.slow
class MuteNetwork(MemoryNetwork):
    """A network on which a listener takes links and, while told so, never says a word."""

    is_mute = False

    async def listen(self, address: Any, make_handler: Any, *, max_connections: int) -> Any:
        def muted(stream: Any) -> Any:
            return Recorder() if self.is_mute else make_handler(stream)

        return await super().listen(address, muted, max_connections=max_connections)


async def test_handshakes_run_on_the_agents_clock() -> None:
    """A link whose other side is silent is given up, and tried again, by the agent's clock."""
    clock = VirtualClock()
    network = MuteNetwork()
    limits = rpc.Limits(handshake_timeout=50.0)
    options = rpc.RpcOptions(limits=limits, heartbeat_interval=100.0)
    async with cluster(2, clock=clock, network=network, options=options) as (a, _):
        network.is_mute = True
        call = a.rpc_async("worker1", targets.add, args=(1,), timeout=0)
        await clock.advance(49)
        network.is_mute = False
        early = call.done()
        await clock.advance(0.5)
        still = call.done()
        await clock.advance(5)

        assert (False, False, 11) == (early, still, await call)


async def test_strangers_are_cut_off_by_the_agents_clock() -> None:
    """Who connects and says nothing is cut off when the agent's clock says so."""
    clock = VirtualClock()
    network = MemoryNetwork()
    limits = rpc.Limits(handshake_timeout=50.0)
    async with cluster(1, clock=clock, network=network, options=rpc.RpcOptions(limits=limits)) as (
        a,
    ):
        place = a._agent._acceptor._listener.address  # type: ignore[union-attr]  # it listens
        guest = await network.connect(place, Recorder(), timeout=1)
        await clock.advance(49)
        early = guest.is_closed
        await clock.advance(2)
        await guest.wait_closed()

        assert not early


async def test_withdrawn_calls_leave_the_queue() -> None:
    """Calls that are cancelled while they wait do not pile up, and make room for others."""
    limits = rpc.Limits(max_queued=1000, max_inflight=1)
    network = StubbornNetwork(failures=10_000)
    async with cluster(2, network=network, options=rpc.RpcOptions(limits=limits)) as (a, _):
        for _ in range(10):
            calls = [a.rpc_async("worker1", targets.echo, args=(i,)) for i in range(900)]
            for call in calls:
                call.cancel()
        peer = a._agent.members.route("worker1")
        sizes = peer.waiting, len(peer.queue)
        network.failures = 0
        result = await a.rpc_async("worker1", targets.echo, args=(1,))

    assert 0 == sizes[0]
    assert sizes[1] < 200
    assert 1 == result


async def test_control_messages_pass_the_queue() -> None:
    """A gather and a nested call do not wait behind calls without a place in flight."""
    limits = rpc.Limits(max_inflight=1)
    async with cluster(2, options=rpc.RpcOptions(limits=limits)) as (a, b):
        slow = [a.rpc_async("worker1", targets.sleep, args=(1000,)) for _ in range(3)]
        gathered = [*await asyncio.gather(a.all_gather(0), b.all_gather(1))]
        for call in slow:
            call.cancel()

    assert [{"worker0": 0, "worker1": 1}] * 2 == gathered


async def test_gather_over_a_link_that_breaks() -> None:
    """A gather whose message was not written when the link broke completes over the next one."""
    async with cluster(2) as (a, b):
        await b.rpc_async("worker0", targets.who)
        gathers = [asyncio.ensure_future(agent.all_gather(agent.info.id)) for agent in (a, b)]
        await asyncio.sleep(0)
        link(b, "worker0").stream.abort()
        results = await asyncio.gather(*gathers)

    assert [{"worker0": 0, "worker1": 1}] * 2 == results


@pytest.mark.slow
@pytest.mark.timeout(60)
async def test_deadline_while_the_reply_comes_in() -> None:
    """A call whose large reply has begun to come when its time is over says so."""
    clock = VirtualClock()
    options = rpc.RpcOptions(shared_memory_threshold=None, heartbeat_misses=1000)
    async with (
        ProxiedNetwork() as network,
        cluster(2, network=network, clock=clock, options=options) as (a, _),
    ):
        await a.rpc_async("worker1", targets.who)
        for proxy in network.proxies.values():
            proxy.set(bandwidth=4 << 20)
        call = a.rpc_async("worker1", bytes, args=(8 << 20,), timeout=5)
        await until(lambda: link(a, "worker1").received > 1 << 20)
        await clock.advance(5)
        with pytest.raises(rpc.RpcTimeoutError, match=r"in phase reply$") as caught:
            await call
        for proxy in network.proxies.values():
            proxy.heal()
        answer = await a.rpc_async("worker1", targets.add, args=(1,))

    assert ("reply", rpc.Delivery.UNKNOWN) == (caught.value.phase, caught.value.delivery)
    assert 11 == answer


async def test_links_that_break_at_once_are_not_opened_without_a_pause() -> None:
    """What breaks them may last: another try each time would be all that both workers do."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("disconnect", message="PYTHON_CALL")])
    async with cluster(2, faults=plan, clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.echo, args=(1,), idempotent=True, timeout=10)
        await clock.advance(10)
        with pytest.raises(rpc.RpcTimeoutError):
            await call

    assert 10 < len(plan.events) < 60  # 1000 and more without


@pytest.mark.parametrize("side", [0, 1])
async def test_a_thousand_breaks(side: int) -> None:
    """Breaking a link again and again leaves nothing in any table."""
    async with cluster(2) as agents:
        a, b = agents
        outcomes: list[Any] = []
        for number in range(1000):
            calls = [a.rpc_async("worker1", targets.echo, args=(number,)) for _ in range(3)]
            calls.append(b.rpc_async("worker0", targets.add, args=(number,)))
            if number % 3:
                await asyncio.wait(calls[:1])  # the link that was broken may be a late one
            near = link(agents[side], f"worker{1 - side}")
            if near is not None:
                near.stream.abort()
            outcomes += await asyncio.gather(*calls, return_exceptions=True)
        left = await at_rest(agents)
        tasks = [t for t in asyncio.all_tasks() if "connect" in t.get_name()]

    assert {} == left
    assert [] == [t.get_name() for t in tasks if not t.done()]
    assert {int, rpc.PeerLostError} >= {type(outcome) for outcome in outcomes}


@pytest.mark.slow
async def test_a_link_that_only_one_side_misses() -> None:
    """A worker whose link vanished, while the other side still has it, replaces it."""
    async with ProxiedNetwork() as network, cluster(2, network=network) as (a, b):
        await a.rpc_async("worker1", targets.who)
        (proxy,) = network.proxies.values()
        stale = link(b, "worker0")
        proxy.set(blackhole=True)
        link(a, "worker1").stream.abort()
        await until(lambda: link(a, "worker1") is None)
        proxy.set(blackhole=False)
        result = await a.rpc_async("worker1", targets.add, args=(1,))
        fresh = link(b, "worker0")

    assert 11 == result
    assert fresh is not stale
    assert stale.stream.is_closed


async def test_garbage_on_a_link() -> None:
    """Bytes that are no frames end that link only; the call goes on over the next one."""
    async with cluster(2) as (a, b):
        call = a.rpc_async("worker1", targets.sleep, args=(1000,))
        await until(lambda: b.debug_info()["agent.server_active_calls"] == "1")
        link(b, "worker0").stream.write(b"\xff" * 100)
        with pytest.raises(rpc.PeerLostError, match="frame header is damaged") as caught:
            await call
        after = await a.rpc_async("worker1", targets.add, args=(1,))

    assert rpc.Delivery.UNKNOWN is caught.value.delivery
    assert 11 == after


async def test_one_way_calls_outlive_the_link() -> None:
    """A one-way call that has begun runs to its end, whatever becomes of its sender."""
    async with cluster(2) as (a, b):
        a.rpc_notify("worker1", targets.sleep, args=(0.02,))
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "1")
        link(b, "worker0").stream.abort()
        await until(lambda: link(b, "worker0") is None)
        await until(lambda: targets.log)

    assert ["slept"] == targets.log
