"""Busy polling keeps the loop awake for a while after traffic, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from asyncrpc import RpcOptions
from asyncrpc.agent import polling
from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork
from tests.agent import targets

SPAN = 1.0
TURN = 0.125


class FakeLoop:
    """Runs one callback a turn, each of which takes `TURN` seconds; other threads use some."""

    def __init__(self) -> None:
        self.now = 100.0
        self.own = 0.0
        self.others = 0.0
        self.yields: list[float] = []
        self.taken = 0.0  # seconds that another process takes of each offered core
        self.threads = SimpleNamespace(size=3, idle=3)
        self.ready: list[Callable[[], object]] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.ready.append(callback)

    def turn(self) -> bool:
        """Run what is ready; false if there was nothing, so that the loop would sleep."""
        ready, self.ready = self.ready, []
        self.now += TURN
        self.own += TURN
        for callback in ready:
            callback()
        return bool(ready)

    def turns(self) -> int:
        """Turn until it would sleep; return how many times it did not."""
        count = 0
        while self.turn():
            count += 1
            assert count < 1000
        return count


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> FakeLoop:
    """A loop with clocks of its own."""
    fake = FakeLoop()

    def offer() -> None:
        fake.yields.append(fake.now)
        fake.now += fake.taken

    monkeypatch.setattr(polling, "monotonic", lambda: fake.now)
    monkeypatch.setattr(polling, "process_time", lambda: fake.own + fake.others)
    monkeypatch.setattr(polling, "thread_time", lambda: fake.own)
    monkeypatch.setattr(polling, "os", SimpleNamespace(sched_yield=offer))
    return fake


def poller(loop: FakeLoop) -> tuple[polling.Poller, Callable[[int], int]]:
    """Return a poller and what stands for traffic."""
    made = polling.Poller(loop, SPAN, loop.threads)  # type: ignore[arg-type]  # all that it uses
    return made, made.waking(lambda number: -number)


def test_it_polls_for_the_span(loop: FakeLoop) -> None:
    """After traffic the loop does not sleep for the span, then it does."""
    _, traffic = poller(loop)

    assert not loop.turn()  # nothing came yet
    assert -7 == traffic(7)  # what is wrapped does what it did
    # one turn in which the traffic is seen, one that takes the time, then the span
    assert 2 + SPAN / TURN == loop.turns()
    assert not loop.turn()


def test_traffic_prolongs_it(loop: FakeLoop) -> None:
    """The span is counted from the last traffic, and a later one begins another."""
    _, traffic = poller(loop)
    traffic(1)
    for _ in range(20):
        traffic(1)
        assert loop.turn()
        assert loop.turn()
    traffic(1)

    assert 2 + SPAN / TURN == loop.turns()
    traffic(1)
    assert 2 + SPAN / TURN == loop.turns()


def test_one_callback_at_a_time(loop: FakeLoop) -> None:
    """However much traffic there is, it takes one place in the loop's queue."""
    _, traffic = poller(loop)
    for _ in range(50):
        traffic(1)

    assert 1 == len(loop.ready)
    loop.turn()
    assert 1 == len(loop.ready)


def test_it_offers_the_core(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes get the core now and then while nothing comes, at once if they want it."""
    monkeypatch.setattr(polling, "_SWITCH", TURN / 2)
    _, traffic = poller(loop)

    def offers() -> list[int]:
        """Return in which turns after traffic the core was offered, by the time they began."""
        begin = loop.now
        traffic(1)
        loop.turns()
        return [round((when - begin) / TURN) for when in loop.yields if when > begin]

    assert [9] == offers()  # the first turn sees the traffic
    loop.taken = TURN
    assert [9] == offers()
    assert [2, 4, 6, 8] == offers()
    loop.taken = 0.0
    assert [2, 4, 8] == offers()
    assert [9] == offers()


def test_it_rests_while_threads_work(loop: FakeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the interpreter to other threads that are at work, and comes back after them."""
    monkeypatch.setattr(polling, "_REST", SPAN)
    _, traffic = poller(loop)
    traffic(1)
    assert loop.turn()
    loop.others += TURN
    assert loop.turn()
    assert loop.turn()  # it looks at the others when nothing comes

    assert not loop.turn()
    traffic(1)
    assert not loop.turn()  # still resting
    loop.now += SPAN
    traffic(1)
    assert 2 + SPAN / TURN == loop.turns()


def test_it_waits_for_the_pool(loop: FakeLoop) -> None:
    """It does not hold up the agent's own functions, and comes back with what they send."""
    _, traffic = poller(loop)
    traffic(1)
    assert loop.turn()
    loop.threads.idle = 2
    assert loop.turn()
    assert loop.turn()

    assert not loop.turn()
    loop.threads.idle = 3
    traffic(1)
    assert 2 + SPAN / TURN == loop.turns()


def test_it_stops(loop: FakeLoop) -> None:
    """Once stopped it leaves the loop, and no traffic brings it back."""
    made, traffic = poller(loop)
    traffic(1)
    loop.turn()
    made.stop()

    assert loop.turns() <= 2
    traffic(1)
    assert not loop.turn()


@pytest.mark.asyncio
async def test_calls_with_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls, timers, threads and other tasks go on as ever while the loop polls."""
    turns = 0
    polls = asyncio.Event()

    def offer() -> None:
        nonlocal turns
        turns += 1
        if turns >= 10:
            polls.set()

    monkeypatch.setattr(polling, "os", SimpleNamespace(sched_yield=offer))
    options = RpcOptions(busy_poll=30.0, listen="tcp://127.0.0.1:0")
    async with cluster(2, options=options, network=SocketNetwork()) as (a, _):
        while not polls.is_set():  # it may rest at first: threads have just begun
            assert 3 == await a.rpc_async("worker1", targets.echo, args=(3,))
            await asyncio.sleep(0.001)
        assert "seen" == await asyncio.to_thread(lambda: "seen")
        answers: list[Any] = await asyncio.gather(
            *[a.rpc_async("worker1", targets.add, args=(n, 1)) for n in range(200)]
        )
        assert list(range(1, 201)) == answers
        big = bytes(1 << 20)
        assert big == await a.rpc_async("worker1", targets.echo, args=(big,))


@pytest.mark.asyncio
async def test_no_poller_unless_asked() -> None:
    """Without the option there is nothing in the way of a call."""
    async with cluster(2) as (a, b):
        assert 3 == await a.rpc_async("worker1", targets.add, args=(1, 2))

        assert a._agent.poller is b._agent.poller is None
        for link in a._agent.connections():
            assert link.write == link.stream.write
            assert "write" not in vars(link.stream)
