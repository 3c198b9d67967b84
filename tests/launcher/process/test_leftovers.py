"""`launcher.process.leftovers`: what people are told while, and when, leftovers are ended."""

from __future__ import annotations

import asyncio
import signal
from typing import cast

import pytest

from launcher.errors import GuardianError
from launcher.process.guardian import Cleared, Guardian
from launcher.process.leftovers import clear_leftovers

pytestmark = pytest.mark.asyncio

HINT = "or at once when told a second time (another signal, Ctrl-C)"


class FakeGuardian:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.pid = 7
        self.lost: GuardianError | None = None
        self.cleared: asyncio.Future[Cleared] = asyncio.get_running_loop().create_future()

    def clear(self, *_: float, quiet: float) -> asyncio.Future[Cleared]:
        """Take the request."""
        assert quiet == 0.0
        return self.cleared


def clearing(guardian: FakeGuardian, grace: float) -> asyncio.Task[None]:
    """Begin to clear, with that grace for the workers' groups."""
    call = clear_leftovers(cast("Guardian", guardian), signal.SIGTERM, grace, min(grace, 1.0))
    return asyncio.create_task(call)


async def test_a_wait_that_lasts_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers are gone, so people would not know what for."""
    monkeypatch.setattr("launcher.process.leftovers.SILENCE", 0.0)
    guardian = FakeGuardian()
    task = clearing(guardian, 300.0)
    while not caplog.messages:
        await asyncio.sleep(0)
    guardian.cleared.set_result(Cleared(stuck=0, killed=2))
    await task

    assert caplog.messages == [
        f"the workers have ended, waiting for processes they left behind; SIGKILL in 300 s, {HINT}",
        "killed with SIGKILL: 2 processes left behind by workers",
    ]


@pytest.mark.parametrize(
    ("grace", "cleared", "messages"),
    [
        (30.0, Cleared(0, 0), []),
        (0.0, Cleared(0, 3), []),  # asked for
        (1.0, Cleared(0, 3), ["killed with SIGKILL: 3 processes left behind by workers"]),
        (0.0, Cleared(1, 1), ["not ended by SIGKILL: 1 process left behind by workers"]),
    ],
)
async def test_only_what_is_out_of_the_ordinary_is_told(
    grace: float, cleared: Cleared, messages: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Leftovers that end in time are nobody's concern."""
    guardian = FakeGuardian()
    guardian.cleared.set_result(cleared)
    await clearing(guardian, grace)

    assert caplog.messages == messages


async def test_a_lost_guardian_clears_nothing() -> None:
    """There is nobody to ask."""
    guardian = FakeGuardian()
    guardian.lost = GuardianError("gone")
    await clearing(guardian, 30.0)

    assert not guardian.cleared.done()
