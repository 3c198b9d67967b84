"""`launcher.process.termination`: who is signalled when, and what people are told of it."""

from __future__ import annotations

import asyncio
import signal
from typing import cast

import pytest

from launcher.process.guardian import Exit, GuardedProcess, Guardian
from launcher.process.termination import Termination

pytestmark = pytest.mark.asyncio


class FakeGuardian:
    """Lets processes end on the signals that are said to end them."""

    def __init__(self, *fatal: int) -> None:
        self.fatal = fatal
        self.sent: list[int] = []

    def signal(self, process: GuardedProcess, signum: int) -> None:
        """Note the signal, and end the process if that ends it."""
        self.sent.append(signum)
        if signum in self.fatal and process.is_running:
            end(process, -signum)


def end(process: GuardedProcess, code: int) -> None:
    """Let a process have ended."""
    process.exited.set_result(Exit(code, was_signalled=True, at=0.0))


def workers(count: int) -> dict[int, GuardedProcess]:
    """Return running processes with ids from 100."""
    loop = asyncio.get_running_loop()
    processes = {rank: GuardedProcess(rank, loop.create_future()) for rank in range(count)}
    for rank, process in processes.items():
        process.pid = 100 + rank
    return processes


def terminate(guardian: FakeGuardian, processes: dict[int, GuardedProcess]) -> Termination:
    """Return the termination of processes by a guardian."""
    return Termination(cast("Guardian", guardian), processes)


async def told(caplog: pytest.LogCaptureFixture) -> str:
    """Return the first message when it has come."""
    while not caplog.messages:
        await asyncio.sleep(0)
    return caplog.messages[0]


async def test_who_ends_at_once_is_not_talked_about(caplog: pytest.LogCaptureFixture) -> None:
    """A stop in order is silent."""
    guardian = FakeGuardian(signal.SIGTERM)
    termination = terminate(guardian, workers(2))
    termination.request(signal.SIGTERM, 30)
    await termination.run()

    assert caplog.messages == []
    assert guardian.sent.count(signal.SIGTERM) == 2
    assert signal.SIGKILL not in guardian.sent


async def test_a_wait_that_lasts_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whom for, how long at most, and how to shorten it; not those that have ended."""
    monkeypatch.setattr("launcher.process.termination.SILENCE", 0.0)
    processes = workers(3)
    termination = terminate(FakeGuardian(), processes)
    termination.request(signal.SIGINT, 300)
    end(processes[1], 0)
    running = asyncio.create_task(termination.run())
    message = await told(caplog)
    end(processes[0], 0)
    end(processes[2], 0)
    await running

    assert message == (
        "waiting for worker 0 (pid 100), worker 2 (pid 102) to end on SIGINT; SIGKILL in 300 s, "
        "or at once when told a second time (another signal, Ctrl-C)"
    )
    assert len(caplog.messages) == 1


async def test_a_wait_that_is_over_soon_is_not_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL comes before anybody has read that it will."""
    monkeypatch.setattr("launcher.process.termination.SILENCE", 0.0)
    termination = terminate(FakeGuardian(signal.SIGKILL), workers(1))
    termination.request(signal.SIGTERM, 0.2)
    await termination.run()

    assert caplog.messages == ["killed with SIGKILL 0.2 s after SIGTERM: worker 0 (pid 100)"]


async def test_who_had_to_be_killed_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Those alone that outlived the grace."""
    processes = workers(2)
    termination = terminate(FakeGuardian(signal.SIGKILL), processes)
    termination.request(signal.SIGTERM, 0.01)
    end(processes[0], 0)
    await termination.run()

    assert caplog.messages == ["killed with SIGKILL 0.0 s after SIGTERM: worker 1 (pid 101)"]


async def test_a_hurry_is_a_kill_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The grace was there, but somebody cut it short."""
    termination = terminate(FakeGuardian(signal.SIGKILL), workers(1))
    termination.request(signal.SIGTERM, 300)
    termination.hurry()
    await termination.run()

    assert caplog.messages == ["killed with SIGKILL 0.0 s after SIGTERM: worker 0 (pid 100)"]


async def test_the_time_of_a_kill_is_counted_from_the_first_signal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Somebody may lose patience while a failure stops the others."""
    termination = terminate(FakeGuardian(signal.SIGKILL), workers(1))
    termination.request(signal.SIGTERM, 300)
    termination.request(signal.SIGINT, 300)
    termination.hurry()
    await termination.run()

    assert caplog.messages == ["killed with SIGKILL 0.0 s after SIGTERM: worker 0 (pid 100)"]


@pytest.mark.parametrize(("signum", "grace"), [(signal.SIGTERM, 0), (signal.SIGKILL, 300)])
async def test_a_kill_that_was_asked_for_is_no_news(
    signum: signal.Signals, grace: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a grace, everybody is killed."""
    termination = terminate(FakeGuardian(signal.SIGKILL), workers(1))
    termination.request(signum, grace)
    await termination.run()

    assert caplog.messages == []


async def test_of_many_workers_some_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """A line stays a line."""
    termination = terminate(FakeGuardian(signal.SIGKILL), workers(100))
    termination.request(signal.SIGTERM, 0.01)
    await termination.run()
    (message,) = caplog.messages

    assert message.count("worker") == 8
    assert message.endswith(" and 92 more")


async def test_who_outlives_sigkill_is_reported_with_its_state(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not killed, and is not said to be."""
    monkeypatch.setattr("launcher.process.termination.KILL_TIMEOUT", 0.01)
    termination = terminate(FakeGuardian(), workers(1))
    termination.request(signal.SIGTERM, 0.01)
    await termination.run()

    assert list(termination.stuck) == [0]
    assert ["is still there" in message for message in caplog.messages] == [True]
