"""`launcher.rendezvous.base`: what a handler gets that knows no more than torch's interface."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from asyncrpc.store import MemoryStore, Store
from launcher.agent import LocalElasticAgent, WorkerSpec, WorkerState
from launcher.logs import DefaultLogsSpecs
from launcher.rendezvous import (
    Change,
    Ending,
    Outcome,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
)

pytestmark = pytest.mark.asyncio


class Plain(RendezvousHandler):
    """Forms rounds of one node, and says that as many nodes wait as it is told."""

    def __init__(self) -> None:
        self.waiting = 0
        self.rounds = 0
        self.is_shut_down = False

    def get_backend(self) -> str:
        """Name the backend."""
        return "plain"

    def get_run_id(self) -> str:
        """Name the run."""
        return "run"

    async def next_rendezvous(self) -> RendezvousInfo:
        """Form the next round."""
        number, self.rounds, self.waiting = self.rounds, self.rounds + 1, 0
        where = RendezvousStoreInfo("127.0.0.1", 1)
        return RendezvousInfo(no_store, 0, 1, where, number)

    async def is_closed(self) -> bool:
        """Say that the run goes on."""
        return False

    async def set_closed(self) -> None:
        """Change nothing."""

    async def num_nodes_waiting(self) -> int:
        """Count as told."""
        return self.waiting

    async def shutdown(self) -> bool:
        """Note it."""
        self.is_shut_down = True
        return True


def no_store() -> Store:
    """Have none."""
    raise AssertionError


async def test_success_ends_the_run() -> None:
    """There is nobody to be asked; a round may be reported before it is waited for."""
    handler = Plain()
    await handler.report(Outcome())

    assert await handler.round_over() == Ending(is_success=True)
    assert await handler.missing() == ()


async def test_failures_use_up_the_restarts_of_the_node() -> None:
    """The next one ends the run, with its status."""
    handler, failure = Plain(), Outcome("x", 7, max_restarts=2)
    ends = []
    for _ in range(3):
        await handler.report(failure)
        ends.append(await handler.round_over())

    assert ends == [Change("x"), Change("x"), Ending(is_success=False, exitcode=7)]
    assert handler.restarts == 2


async def test_restarts_expire() -> None:
    """One outside the window does not count."""
    handler, failure = Plain(), Outcome("x", 7, max_restarts=1, restart_window=1e-9)
    for _ in range(3):
        await handler.report(failure)

        assert await handler.round_over() == Change("x")


async def test_nodes_that_wait_end_the_round() -> None:
    """They are asked for again and again."""
    handler = Plain()
    waiting = asyncio.create_task(handler.round_over())
    await asyncio.sleep(0)
    handler.waiting = 1

    assert isinstance(await waiting, Change)


async def test_nothing_else_need_be_done() -> None:
    """Leaving and closing are for those who have something to leave and close."""
    handler = Plain()
    await handler.leave()
    await handler.close()

    assert not handler.is_shut_down
    assert handler.alive_until() == math.inf


@pytest.mark.slow
async def test_an_agent_runs_on_a_plain_handler(tmp_path: Path) -> None:
    """It restarts for nodes that wait, and for failures as often as allowed."""
    handler = Plain()
    script = f"""
        echo $LAUNCHER_ROUND $TORCHELASTIC_RESTART_COUNT >> {tmp_path}/rounds
        case $LAUNCHER_ROUND in 0) exit 1;; 1) exec sleep 60;; esac
    """
    spec = WorkerSpec(
        role="r",
        local_world_size=1,
        rdzv_handler=handler,
        entrypoint="sh",
        args=("-c", script),
        max_restarts=1,
    )
    agent = LocalElasticAgent(spec, DefaultLogsSpecs(), secret=b"s" * 32)
    running = asyncio.create_task(agent.run())
    rounds = tmp_path / "rounds"
    while not (rounds.exists() and rounds.read_text().count("\n") == 2):
        await asyncio.sleep(0.02)
    handler.waiting = 1
    result = await running

    assert result.state is WorkerState.SUCCEEDED
    assert rounds.read_text().split("\n")[:3] == ["0 0", "1 1", "2 1"]
    assert result.restarts == 1


async def test_what_a_round_agreed_on_is_torchs() -> None:
    """Torch's fields by position, ours after them; the store itself, or what opens it."""
    store, where = MemoryStore(), RendezvousStoreInfo("h", 1)
    given = RendezvousInfo(store, 0, 2, where)

    assert (given.store, given.rank, given.world_size) == (store, 0, 2)
    assert (given.bootstrap_store_info, given.round, given.store_url) == (where, 0, "")
    assert RendezvousInfo(lambda: store, 0, 2, where, round=3).store is store


class Slow(Plain):
    """Waits for another node, which is done when `done` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.done = asyncio.Event()

    async def round_over(self) -> Change | Ending:
        """Wait for the other node."""
        await self.done.wait()
        return await super().round_over()

    async def missing(self) -> tuple[str, ...]:
        """Name the other node."""
        return ("node b",)


@pytest.mark.slow
async def test_an_agent_that_is_done_says_whom_it_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Again and again, until all are done."""
    handler = Slow()
    spec = WorkerSpec(
        role="r", local_world_size=1, rdzv_handler=handler, entrypoint="sh", args=("-c", ":")
    )
    agent = LocalElasticAgent(spec, DefaultLogsSpecs(), secret=b"s" * 32, exit_barrier_timeout=0.05)
    running = asyncio.create_task(agent.run())
    while caplog.text.count("the workers here are done; waiting for node b") < 2:
        await asyncio.sleep(0.02)
    handler.done.set()

    assert (await running).state is WorkerState.SUCCEEDED
