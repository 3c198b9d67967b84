"""What a real run tells events and metrics: every round, every worker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher import LaunchConfig, launch_agent, metrics
from launcher.errors import ChildFailedError
from launcher.metrics import MetricData, configure

pytestmark = pytest.mark.slow  # each starts a guardian and workers

Start = Callable[..., "subprocess.Popen[str]"]


def test_a_run_writes_its_events_to_a_file(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """Rounds, starts, ends and the run itself, in order, also of a round that failed."""
    path = script(
        """
        if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            if os.environ["RANK"] == "1":
                sys.exit(3)
            time.sleep(60)
        """
    )
    process = start(
        "--nproc-per-node=2",
        "--max-restarts=1",
        "--rdzv-id=run",
        "--event-log-handler=file:events.jsonl",
        path,
    )
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    told = [
        (event["source"], event["metadata"]["state"], event["metadata"].get("global_rank"))
        for event in events
    ]
    joined = [("AGENT", "RENDEZVOUS", None), ("AGENT", "ASSIGN_WORKER_RANKS", None)]
    started = [("WORKER", "START", 0), ("WORKER", "START", 1)]

    assert told == [
        *joined,
        *started,
        ("WORKER", "TERMINATED", 0),
        ("WORKER", "FAILED", 1),
        *joined,
        *started,
        ("WORKER", "SUCCEEDED", 0),
        ("WORKER", "SUCCEEDED", 1),
        ("AGENT", "SUCCEEDED", None),
    ]
    failed = events[5]
    assert failed["name"] == "torchelastic.worker.status.FAILED"
    assert failed["metadata"]["run_id"] == "run"
    assert json.loads(failed["metadata"]["metadata"])["exit_code"] == 3
    assert events[0]["metadata"]["duration_ms"] >= 0
    assert [event["metadata"].get("agent_restarts") for event in events[5:7]] == [0, 1]


class Kept(dict[str, float]):
    """Keeps the last value of each metric."""

    def emit(self, metric_data: MetricData) -> None:
        """Keep one value."""
        self[metric_data.name] = metric_data.value


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("true", {"run_success_no_retries": 1, "remaining_restarts": 1, "succeeded": 1}),
        ("false", {"run_failed_with_retries": 1, "remaining_restarts": 0, "failed": 1}),
    ],
)
async def test_a_run_is_measured(
    program: str, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torch's names, of which exactly one says how the run ended."""
    kept = Kept()
    monkeypatch.setattr(metrics, "_handlers", dict(metrics._handlers))
    configure(kept)
    try:
        await launch_agent(LaunchConfig(1, 1, 1, role="r", max_restarts=1), program)
    except ChildFailedError:
        assert program == "false"
    measured = {name.removeprefix("workers.r."): value for name, value in kept.items()}

    assert {name: measured[name] for name in expected} == expected
    assert sum(value for name, value in measured.items() if name.endswith("retries")) == 1
    assert measured["run_total"] == 1
    assert measured["flakiness"] == (0 if program == "true" else 50)
