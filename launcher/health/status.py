"""What is known of a run on this node at one moment, and the pages that show it.

Values only; the agent's side makes them anew for each request.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple

from launcher.health.http import Response
from launcher.health.server import Routes

__all__ = ("RunStatus", "WorkerStatus", "status_routes")

_DOOMED = ("FAILED", "UNKNOWN")  # states that a node does not come back from


class WorkerStatus(NamedTuple):
    """One worker of this node."""

    rank: int
    local_rank: int
    pid: int | None
    """``None`` before it is started."""
    state: str
    """Name of a `WorkerState`."""
    restarts: int
    """How often failures have restarted the run, and this worker with it."""
    stdout: str = ""
    """Its log file; "" for none."""
    stderr: str = ""


class RunStatus(NamedTuple):
    """A run, as this node's agent sees it."""

    run_id: str
    round: int
    """Rounds before the current one; -1 before the first."""
    nodes: int
    """Nodes in the round; 0 before the first."""
    workers: Sequence[WorkerStatus]
    """Of this node."""
    state: str
    """Of this node's workers as a group."""
    node_rank: int
    name: str
    """What is run."""
    role: str
    restarts: int
    max_restarts: int
    pid: int
    """Of the launcher."""
    seconds: float
    """Since the launch."""
    log_dir: str | None

    def to_json(self) -> str:
        """Return it as JSON, one object."""
        return json.dumps(
            {**self._asdict(), "workers": [worker._asdict() for worker in self.workers]}
        )

    def to_metrics(self) -> str:
        """Return it in the text format of Prometheus."""
        states = Counter(worker.state for worker in self.workers)
        lines = [
            *_metric("info", "gauge", 1, run_id=self.run_id, role=self.role, state=self.state),
            *_metric("round", "gauge", self.round),
            *_metric("nodes", "gauge", self.nodes),
            *_metric("restarts_total", "counter", self.restarts),
            *_metric("max_restarts", "gauge", self.max_restarts),
            *_metric("run_seconds", "gauge", round(self.seconds, 3)),
            "# TYPE launcher_workers gauge",
            *(f'launcher_workers{{state="{s}"}} {count}' for s, count in sorted(states.items())),
        ]
        return "\n".join(lines) + "\n"


def status_routes(status: Callable[[], RunStatus]) -> Routes:
    """Return the pages ``/healthz``, ``/status`` and ``/metrics``.

    Args:
        status: returns how the run is at the moment.
    """

    def show_health() -> Response:
        state = status().state
        is_well = state not in _DOOMED
        code = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(f"{'ok' if is_well else 'failed'}: {state}\n", code)

    def show_status() -> Response:
        return Response(status().to_json() + "\n", content_type="application/json")

    def show_metrics() -> Response:
        return Response(
            status().to_metrics(), content_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return {
        ("GET", "/healthz"): show_health,
        ("GET", "/status"): show_status,
        ("GET", "/metrics"): show_metrics,
    }


def _metric(name: str, kind: str, value: float, **labels: str) -> tuple[str, str]:
    shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    shown = f"{{{shown}}}" if shown else ""
    return f"# TYPE launcher_{name} {kind}", f"launcher_{name}{shown} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
