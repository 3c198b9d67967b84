"""`launcher.process.guardian.inheritance`: what comes to us is ended, what was ours is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess

import pytest

from launcher.process import Guardian
from launcher.process.guardian import inheritance
from launcher.process.guardian.inheritance import Inheritance

pytestmark = pytest.mark.asyncio


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that gets longer when this process would become a sub-reaper."""
    asked: list[bool] = []
    monkeypatch.setattr(inheritance, "become_subreaper", lambda: asked.append(True))
    return asked


async def test_children_that_were_there_before_stay(asked: list[bool]) -> None:
    """Those that came later are killed and reaped."""
    with subprocess.Popen(["sleep", "60"]) as own:
        inherits = Inheritance()
        later = subprocess.Popen(["sleep", "60"])
        await inherits.end()
        status = own.poll()
        own.kill()

    assert asked == [True]
    assert status is None
    with pytest.raises(ProcessLookupError):
        os.kill(later.pid, 0)
    later.wait()


async def test_who_survives_sigkill_is_not_waited_for(
    asked: list[bool], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process in uninterruptible sleep must not hold up the end."""
    monkeypatch.setattr(inheritance, "_KILL_WAIT", -1.0)
    inherits = Inheritance()
    with subprocess.Popen(["sleep", "60"]) as later:
        await inherits.end()
        later.kill()

    assert caplog.messages == ["1 processes left by workers survive SIGKILL"]
    assert asked == [True]


async def test_only_a_guardian_that_is_told_to_lets_us_inherit(asked: list[bool]) -> None:
    """A program of the user's does not become a sub-reaper behind their back."""
    guardian = Guardian.start()
    await guardian.close()

    assert asked == []
    guardian = Guardian.start(inherits=True)
    await guardian.close()

    assert asked == [True]


async def test_the_end_can_be_cancelled(asked: list[bool]) -> None:
    """Nothing is left behind by the task that waited."""
    inherits = Inheritance()
    with subprocess.Popen(["sleep", "60"]) as later:
        task = asyncio.create_task(inherits.end())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

        assert later.wait() in (-signal.SIGKILL, 0)
    assert asked == [True]
