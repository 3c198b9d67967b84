"""`launcher.node`: the end of a run: one event, and the rendezvous."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from launcher import (
    LaunchConfig,
    SignalException,
    UsageError,
    events,
)
from launcher.agent import LocalElasticAgent, RunResult, WorkerState
from launcher.events import Event
from launcher.node import run_agent
from launcher.rendezvous import RendezvousHandler

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's secret to itself."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ASYNCRPC_SECRET_FILE", raising=False)


class Ends:
    """Counts what is done at the end of a run."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: list[str] = []


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    """Return the counters."""
    ends = Ends()

    async def shutdown(handler: RendezvousHandler) -> bool:
        ends.calls.append("shutdown")
        return True

    async def close(handler: RendezvousHandler) -> None:
        ends.calls.append("close")

    monkeypatch.setattr(events, "record", lambda event, destination: ends.events.append(event))
    for handler in all_subclasses(RendezvousHandler):
        monkeypatch.setattr(handler, "shutdown", shutdown)
        monkeypatch.setattr(handler, "close", close)
    return ends


def all_subclasses(kind: type[object]) -> list[type[object]]:
    """Return the classes below a class."""
    found: list[type[object]] = []
    for below in kind.__subclasses__():
        found += [below, *all_subclasses(below)]
    return found


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("outcome", "state", "call"),
    [
        (RunResult(state=WorkerState.SUCCEEDED), "SUCCEEDED", "shutdown"),
        (SignalException("told", signal.SIGTERM), "FAILED", "close"),
        (SignalException("told", signal.SIGINT), "FAILED", "close"),
        (RuntimeError("of the agent"), "FAILED", "shutdown"),
    ],
)
async def test_the_end_is_recorded_once_and_shut_down_once(
    ends: Ends,
    monkeypatch: pytest.MonkeyPatch,
    outcome: RunResult | Exception,
    state: str,
    call: str,
) -> None:
    """After a signal the others may go on; the agent's own errors come through as they are."""

    async def run(agent: LocalElasticAgent, role: str) -> RunResult:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(LocalElasticAgent, "run", run)
    if isinstance(outcome, Exception):
        with pytest.raises(type(outcome)) as caught:
            await run_agent(LaunchConfig(1, 1, 1), "true")
        assert caught.value is outcome
    else:
        assert await run_agent(LaunchConfig(1, 1, 1), "true") is outcome

    assert [event.name for event in ends.events] == [f"torchelastic.worker.status.{state}"]
    assert ends.calls == [call]


@slow
@pytest.mark.asyncio
async def test_a_failed_worker_is_no_failure_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """One event, of an agent that did what it could."""
    seen: list[Event] = []
    monkeypatch.setattr(events, "record", lambda event, destination: seen.append(event))
    result = await run_agent(LaunchConfig(1, 1, 1, max_restarts=0), "false")

    assert result.is_failed()
    assert [event.metadata["state"] for event in seen] == ["SUCCEEDED"]


@pytest.mark.asyncio
async def test_an_unknown_event_handler_starts_nothing() -> None:
    """It is found out first, not at the end."""
    with pytest.raises(UsageError, match="event_log_handler='x': expected one of null, console"):
        await run_agent(LaunchConfig(1, 1, 1, event_log_handler="x"), "true")
