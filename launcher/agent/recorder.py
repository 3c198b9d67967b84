"""`Recorder`: tells events and metrics what an agent does with its workers; names are torch's.

Called by the agent. What cannot be recorded is no reason to end a run, so nothing here raises.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from launcher.agent.group import RunResult, Worker, WorkerGroup
from launcher.events import EventSource, Fact, record, status_event
from launcher.metrics import put_metric
from launcher.process import ProcessFailure, RunProcsResult
from launcher.rendezvous import read_name

__all__ = ("Recorder",)


class Recorder:
    """Records what happens to one group of workers.

    Args:
        group: the group.
    """

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group
        self._begun_at = time.monotonic()
        self._hostname = os.uname().nodename
        self._is_on = group.spec.event_log_handler != "null"

    def joined(self, duration: float) -> None:
        """Record that the round is complete, and that its workers have ranks.

        Args:
            duration: seconds it took to join the round.
        """
        milliseconds = round(duration * 1000)
        for state in ("RENDEZVOUS", "ASSIGN_WORKER_RANKS") if self._is_on else ():
            self._record(state, EventSource.AGENT, {"duration_ms": milliseconds})

    def started(self) -> None:
        """Record that the workers of the round run."""
        for worker in self._group.workers if self._is_on else ():
            self._record("START", EventSource.WORKER, self._about(worker))

    def ended(self, result: RunProcsResult) -> None:
        """Record how each worker of the round ended.

        Args:
            result: of the round, by local rank.
        """
        for worker in self._group.workers if self._is_on else ():
            failure = result.failures.get(worker.local_rank)
            code = result.exit_codes.get(worker.local_rank)
            about = self._about(worker, exit_code=code, error=failure.message if failure else None)
            self._record(_state(failure), EventSource.WORKER, about)

    def finished(self, result: RunResult) -> None:
        """Measure how the run ended on this node.

        Args:
            result: of the run.
        """
        spec = self._group.spec
        left = max(0, spec.max_restarts - result.restarts)
        end = "failed" if result.is_failed() else "success"
        outcome = f"run_{end}_{'with' if result.restarts else 'no'}_retries"
        for kind in ("success_no", "success_with", "failed_no", "failed_with"):
            name = f"run_{kind}_retries"
            put_metric(f"workers.{spec.role}.{name}", int(name == outcome))
        used = 1 - (left + 1) / (spec.max_restarts + 1)
        put_metric(f"workers.{spec.role}.run_total", 1)
        put_metric(f"workers.{spec.role}.remaining_restarts", left)
        put_metric(f"workers.{spec.role}.flakiness", int(100 * used))
        put_metric(f"workers.{spec.role}.{result.state.name.lower()}", 1)

    def _about(
        self, worker: Worker, exit_code: int | None = None, error: str | None = None
    ) -> dict[str, Fact]:
        import json  # noqa: PLC0415 -- slow, and most runs log no events

        group = self._group
        details = {
            "group_world_size": group.group_world_size,
            "entry_point": group.spec.get_entrypoint_name(),
            "local_rank": worker.local_rank,
            "role_rank": worker.role_rank,
            "role_world_size": worker.role_world_size,
            "exit_code": exit_code,
            "worker_pid": worker.id,
        }
        return {
            "global_rank": worker.global_rank,
            "worker_id": None if worker.id is None else str(worker.id),
            "raw_error": error,
            "metadata": json.dumps(details),
        }

    def _record(self, state: str, source: EventSource, about: Mapping[str, Fact]) -> None:
        group = self._group
        spec = group.spec
        handler = spec.rdzv_handler
        facts: dict[str, Fact] = {
            "run_id": read_name(handler.get_run_id()),
            "group_rank": group.group_rank,
            "role": spec.role,
            "hostname": self._hostname,
            "total_run_time": round(time.monotonic() - self._begun_at, 3),
            "rdzv_backend": read_name(handler.get_backend()),
            "agent_restarts": group.info.restarts if group.info else 0,
            **about,
        }
        record(status_event(state, source, facts), spec.event_log_handler)


def _state(failure: ProcessFailure | None) -> str:
    if failure is None:
        return "SUCCEEDED"
    return "TERMINATED" if failure.stopped_by_us else "FAILED"
