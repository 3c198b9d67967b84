"""A loop that is blocked is reported once, with the code that blocks it; nothing else is."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

import asyncrpc as rpc
from asyncrpc.observe import LoopWatch
from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork


class Time:
    """A clock that tests move on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of blocked loops."""
    return [r.getMessage() for r in caplog.records if r.name == "asyncrpc.loop"]


def block(clock: Time, watch: LoopWatch, looks: int) -> None:
    """Keep the loop from turning, while another thread would look."""
    for _ in range(looks):
        watch.look()
        clock.now += 0.5


@pytest.mark.asyncio
async def test_a_blocked_loop_is_reported_once_with_its_stack(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a second without an answer; and again the next time."""
    clock = Time()
    watch = LoopWatch("worker7", clock)
    block(clock, watch, 2)
    early = reports(caplog)
    block(clock, watch, 4)
    once = reports(caplog)
    await asyncio.sleep(0.001)
    block(clock, watch, 3)
    twice = reports(caplog)

    assert [] == early
    assert [1, 2] == [len(once), len(twice)]
    assert once[0].startswith("the loop of worker7 has been blocked for 1.0 s")
    assert "test_blocking.py" in once[0]
    assert ", in block" in once[0]
    assert logging.WARNING == caplog.records[0].levelno


@pytest.mark.asyncio
async def test_a_loop_that_turns_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """However long it is watched, idle or busy with short things."""
    clock = Time()
    watch = LoopWatch("worker7", clock)
    for _ in range(50):
        await asyncio.to_thread(watch.look)
        await asyncio.sleep(0)
        clock.now += 0.5

    assert [] == reports(caplog)


@pytest.mark.asyncio
async def test_a_process_that_stood_still_is_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A look that comes late itself begins anew: nobody knows who had the time."""
    clock = Time()
    watch = LoopWatch("worker7", clock)
    watch.look()
    clock.now += 60
    watch.look()
    block(clock, watch, 2)
    early = reports(caplog)
    block(clock, watch, 1)

    assert [0, 1] == [len(early), len(reports(caplog))]


def test_a_loop_that_does_not_run_is_not_blocked(caplog: pytest.LogCaptureFixture) -> None:
    """Between two runs of it, and after its end."""
    clock = Time()
    loop = asyncio.new_event_loop()

    async def make() -> LoopWatch:
        return LoopWatch("worker7", clock)

    watch = loop.run_until_complete(make())
    block(clock, watch, 10)
    loop.close()
    block(clock, watch, 10)
    del loop
    block(clock, watch, 10)

    assert [] == reports(caplog)


@pytest.mark.slow
@pytest.mark.asyncio
async def test_an_agent_reports_what_blocks_its_loop(caplog: pytest.LogCaptureFixture) -> None:
    """By the thread that it has with real sockets, while the loop is blocked."""
    async with cluster(1, network=SocketNetwork()) as (a,):
        await a.rpc_async("worker0", block_the_loop)
        during = reports(caplog)

    assert 1 == len(during)
    assert "the loop of worker0" in during[0]
    assert "block_the_loop" in during[0]


@rpc.inline
def block_the_loop() -> None:
    """Be no function for the loop."""
    time.sleep(2.2)
