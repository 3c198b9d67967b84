"""Streams: items in order, as far ahead as the window, and the producer's end in every case."""

from __future__ import annotations

import asyncio
import gc
import signal
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import producers
from tests.agent.groups import any_network, at_rest, link, tables, until
from tests.agent.processes import mixed_group
from tests.agent.producers import log

pytestmark = pytest.mark.asyncio

EVERY_END = ["aclose", "async with", "break", "del", "cancel"]


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    log.clear()


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_items_come_in_order(kind: str) -> None:
    """All of them, from a peer and from oneself, and nothing is left."""
    async with any_network(kind) as network, cluster(2, network=network) as agents:
        a = agents[0]
        near = [i async for i in a.rpc_stream("worker0", producers.count, args=(200, 3))]
        far = [i async for i in a.rpc_stream("worker1", producers.count, args=(200,), window=1)]
        none = [i async for i in a.rpc_stream("worker1", producers.give)]
        method = producers.Source(7).numbers
        bound = [i async for i in a.rpc_stream("worker1", method, kwargs={"count": 2})]
        nested = await a.rpc_async("worker1", producers.read_all, args=("worker0", 5))
        left = await at_rest(agents)

    assert [list(range(0, 600, 3)), list(range(200)), []] == [near, far, none]
    assert [[7, 8], list(range(5)), {}] == [bound, nested, left]


async def test_starts_at_the_call_and_stops_at_the_window() -> None:
    """The producer runs before anybody reads, and never more than the window ahead."""
    async with cluster(2) as (a, _):
        stream = a.rpc_stream("worker1", producers.count, args=(1000,), window=8)
        await until(lambda: len(log) == 8)
        for _ in range(100):
            await asyncio.sleep(0)
        ahead = [len(log)]
        for number in range(50):
            assert number == await anext(stream)
            for _ in range(20):
                await asyncio.sleep(0)
            ahead.append(len(log) - number - 1)
        await stream.aclose()

    assert 8 == ahead[0]
    assert max(ahead) <= 8


@pytest.mark.parametrize("how", EVERY_END)
async def test_every_early_end_runs_the_producers_finally(how: str) -> None:
    """The generator is closed on the callee, and no table keeps anything."""
    async with cluster(2) as agents:
        a = agents[0]
        if how == "async with":
            async with a.rpc_stream("worker1", producers.forever) as stream:
                assert 0 == await anext(stream)
        elif how == "break":
            async for item in a.rpc_stream("worker1", producers.forever):
                assert 0 == item
                break
        elif how == "cancel":

            async def read() -> list[int]:
                return [item async for item in a.rpc_stream("worker1", producers.forever)]

            reader = asyncio.create_task(read())
            await until(lambda: a.debug_info()["agent.client_active_calls"] == "1")
            for _ in range(10):
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait([reader])
        else:
            stream = a.rpc_stream("worker1", producers.forever)
            assert 0 == await anext(stream)
            if how == "aclose":
                await stream.aclose()
                assert [] == [item async for item in stream]
            del stream
            gc.collect()
        await until(lambda: log == ["finally"])
        left = await at_rest(agents)

    assert {} == left


async def test_closed_before_it_was_sent() -> None:
    """A stream that is closed at once never reaches the callee."""
    async with cluster(2) as agents:
        async with agents[0].rpc_stream("worker1", producers.count, args=(3,)):
            pass
        left = await at_rest(agents)
        await agents[0].rpc_async("worker1", producers.plain)

    assert ({}, []) == (left, log)


async def test_an_error_comes_after_the_items_before_it() -> None:
    """With its type and traceback; once, then the stream is over."""
    async with cluster(2) as agents:
        stream = agents[0].rpc_stream("worker1", producers.count, args=(9,), kwargs={"fail_at": 3})
        items: list[int] = []
        with pytest.raises(ValueError, match="no 3") as caught:
            async for item in stream:
                items.append(item)  # noqa: PERF401 -- what came before the error is the point
        after = [item async for item in stream]
        left = await at_rest(agents)

    assert ([0, 1, 2], [], {}) == (items, after, left)
    assert "producers:count" in str(caught.value.__cause__)


async def test_an_item_that_cannot_travel_ends_it() -> None:
    """The producer is closed; the error says that it ran, and where the item's part sits."""
    limits = rpc.Limits(max_message_size=10_000)
    async with cluster(2, options=rpc.RpcOptions(limits=limits, allow_pickle=False)) as (a, _):
        large = a.rpc_stream("worker1", producers.big, args=(1, 20_000))
        with pytest.raises(rpc.MessageTooLargeError, match="item has 20008 bytes") as first:
            await anext(large)
        odd = a.rpc_stream("worker1", producers.odd)
        assert 1 == await anext(odd)
        with pytest.raises(rpc.EncodingError, match=r"item\[0\] cannot be encoded") as second:
            await anext(odd)

    assert rpc.Delivery.EXECUTED is first.value.delivery is second.value.delivery


async def test_what_is_no_stream() -> None:
    """A plain function is refused unrun; a generator called as a function says what to use."""
    async with cluster(2) as (a, _):
        with pytest.raises(
            rpc.EncodingError, match=r"plain is no .*: call it with rpc_async$"
        ) as refused:
            await anext(a.rpc_stream("worker1", producers.plain))
        with pytest.raises(TypeError, match="is an async generator: call it with rpc_stream"):
            await a.rpc_async("worker1", producers.count, args=(1,))
        with pytest.raises(rpc.FunctionNotFoundError):
            await anext(a.rpc_stream("worker1", "tests.agent.producers:nothing"))

        with pytest.raises(rpc.EncodingError, match=r"steps is no .*: make it an async def$"):
            await anext(a.rpc_stream("worker1", producers.steps, args=(3,)))

    assert rpc.Delivery.NOT_SENT is refused.value.delivery


@pytest.mark.parametrize("window", [0, -1, True, 1.0, "8", None, (1 << 20) + 1])
async def test_bad_windows(window: Any) -> None:
    """They raise at the call."""
    async with cluster(1) as (a,):
        with pytest.raises(ValueError, match="window must be an int from 1 to 1048576, got"):
            a.rpc_stream("worker0", producers.count, args=(1,), window=window)
        with pytest.raises(ValueError, match="timeout must be at least 0"):
            a.rpc_stream("worker0", producers.count, args=(1,), timeout=-1)
        with pytest.raises(rpc.UnknownWorkerError):
            a.rpc_stream("nobody", producers.count)


async def test_the_timeout_is_for_each_item() -> None:
    """Time spent between reads does not count; an item that does not come in time ends it."""
    clock = VirtualClock()
    options = rpc.RpcOptions(heartbeat_interval=1e6)
    async with cluster(2, clock=clock, options=options) as agents:
        stream = agents[0].rpc_stream("worker1", producers.forever, timeout=2)
        assert 0 == await anext(stream)
        await clock.advance(100)
        waiting = asyncio.ensure_future(anext(stream))
        await clock.advance(1.9)
        early = waiting.done()
        await clock.advance(0.2)
        with pytest.raises(rpc.RpcTimeoutError, match=r"set timeout \(2 s\).* item 1 of the"):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await until(lambda: log == ["finally"])
        left = await at_rest(agents)

    assert (False, {}) == (early, left)


async def test_the_deadline_of_the_call_that_reads_it_holds() -> None:
    """A stream made by a served call knows how long that has, and ends with it."""
    async with cluster(2) as (a, _):
        left = await a.rpc_async("worker1", _first_of, args=("worker0",), timeout=30)

    assert 0 < left <= 30


async def _first_of(to: str) -> float | None:
    first: float | None = await anext(rpc.rpc_stream(to, producers.remaining, timeout=0))
    return first


async def test_two_readers() -> None:
    """Only one task may wait for an item."""
    async with cluster(2) as (a, _):
        stream = a.rpc_stream("worker1", producers.forever)
        await anext(stream)
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks wait for items"):
            await anext(stream)
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await first


@pytest.mark.parametrize("seed", range(5))
async def test_copies_and_changes_of_place_do_no_harm(seed: int) -> None:
    """Whatever comes twice or late, the reader gets each item once and in order."""
    kinds = ("STREAM_CALL", "STREAM_ITEM", "STREAM_CREDIT", "STREAM_END")
    rules = [
        rpc.Fault(kind, message=message, probability=0.3)
        for message in kinds
        for kind in ("duplicate", "reorder")
    ]
    plans = [rpc.FaultPlan(rules, seed=seed), rpc.FaultPlan(rules, seed=seed + 100)]
    async with cluster(2, faults=plans) as agents:
        reading = [i async for i in agents[0].rpc_stream(1, producers.count, args=(60,), window=6)]
        left = await at_rest(agents)

    assert (list(range(60)), {}) == (reading, left)
    assert any(event.message == "STREAM_ITEM" for event in plans[1].events)


@pytest.mark.parametrize(
    ("message", "side"), [("STREAM_ITEM", 1), ("STREAM_END", 1), ("STREAM_CALL", 0)]
)
async def test_sends_that_fail_on_purpose(message: str, side: int) -> None:
    """They end the stream with the injected error, and its producer with it."""
    plan = rpc.FaultPlan([rpc.Fault("fail", message=message)])
    plans = [plan if side == 0 else None, plan if side == 1 else None]
    async with cluster(2, faults=plans) as agents:
        stream = agents[0].rpc_stream("worker1", producers.count, args=(3,))
        with pytest.raises(rpc.InjectedFaultError) as caught:
            async for _ in stream:
                pass
        left = await at_rest(agents)

    expected = rpc.Delivery.EXECUTED if side else rpc.Delivery.NOT_SENT
    assert (expected, {}) == (caught.value.delivery, left)
    assert (side == 0) == (not log)


async def test_large_items_do_not_pile_up() -> None:
    """A producer of large items waits for the link, whatever its window."""
    async with any_network("tcp") as network, cluster(2, network=network) as agents:
        a, b = agents
        stream = a.rpc_stream("worker1", producers.big, args=(40, 1 << 20), window=40)
        sizes, most = [], 0
        async for item in stream:
            sizes.append(len(item))
            most = max(most, len(link(b, "worker0").bulk))
        left = await at_rest(agents)

    assert ([1 << 20] * 40, {}) == (sizes, left)
    assert most <= 2


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_slow_reader_keeps_memory_flat() -> None:
    """Of 100 000 items never more than the window are there at once."""
    async with cluster(2) as agents:
        stream = agents[0].rpc_stream("worker1", producers.give, args=tuple(range(100_000)))
        expected, most = 0, 0
        async for item in stream:
            assert expected == item
            expected += 1
            most = max(most, len(stream._inlet.items))
        left = await at_rest(agents)

    assert (100_000, {}) == (expected, left)
    assert most <= 64


@pytest.mark.parametrize("reset", [True, False])
async def test_a_link_that_breaks_ends_it(reset: bool) -> None:
    """After the items that came; the producer's finally runs, other calls go on."""
    async with any_network("proxied") as network, cluster(2, network=network) as agents:
        proxied: Any = network
        stream = agents[0].rpc_stream("worker1", producers.forever)
        assert 0 == await anext(stream)
        proxied.cut(reset=reset)
        with pytest.raises(rpc.PeerLostError) as caught:
            await anext(stream)
        await until(lambda: log == ["finally"])
        assert 1 == await agents[0].rpc_async("worker1", producers.plain)
        left = await at_rest(agents)

    assert (rpc.Delivery.UNKNOWN, {}) == (caught.value.delivery, left)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["delay", "reorder"])
async def test_closing_while_credit_waits(kind: Any) -> None:
    """A message about the stream that waits to go out is not its request: the producer hears."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault(kind, message="STREAM_CREDIT", delay=100)])
    async with cluster(2, clock=clock, faults=plan) as (a, _):
        stream = a.rpc_stream("worker1", producers.count, args=(1000,), window=2)
        assert [0, 1] == [await anext(stream), await anext(stream)]
        await until(lambda: plan.events)
        await stream.aclose()
        await until(lambda: "finally" in producers.log)


async def test_a_producer_that_is_killed(tmp_path: Path) -> None:
    """Kill -9 of its worker is a PeerLostError, not a silent end."""
    async with mixed_group(tmp_path, 1) as (agent, (worker,)):
        stream = agent.rpc_stream("worker1", producers.forever)
        assert 0 == await anext(stream)
        worker.signal(signal.SIGKILL)
        with pytest.raises(rpc.PeerLostError):
            await anext(stream)


async def test_shutdown_ends_it() -> None:
    """A worker that leaves at once ends the streams it reads and those it produces."""
    async with cluster(3) as agents:
        a, b, c = agents
        reading = a.rpc_stream("worker1", producers.forever)
        produced = c.rpc_stream("worker0", producers.forever)
        await anext(reading)
        await anext(produced)
        await a.shutdown(graceful=False)
        with pytest.raises(rpc.NotInitializedError):
            await anext(reading)
        with pytest.raises(rpc.PeerLostError):
            await anext(produced)
        await until(lambda: log == ["finally", "finally"])
        await asyncio.gather(b.shutdown(), c.shutdown())

    assert {} == {k: v for k, v in tables([b, c]).items() if v and "servers" not in k}
