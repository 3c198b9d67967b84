"""What an agent can say of its run while it goes on, for `launcher.health`. Values only."""

from __future__ import annotations

import os
import sys

from launcher.agent.group import Worker, WorkerGroup
from launcher.agent.state import WorkerState
from launcher.health import RunStatus, WorkerStatus
from launcher.process import ProcessContext
from launcher.rendezvous import read_name

__all__ = ("status_of",)


def status_of(
    group: WorkerGroup, context: ProcessContext | None, seconds: float, log_dir: str | None
) -> RunStatus:
    """Return how a run is at the moment.

    Args:
        group: its workers on this node.
        context: their processes; those of the round before while workers have no process id;
            ``None`` before the first.
        seconds: since the launch.
        log_dir: folder of its logs; ``None`` for none.
    """
    restarts = 0 if group.info is None else group.info.restarts
    workers = [] if group.info is None else group.workers  # nobody has a rank before
    return RunStatus(
        run_id=read_name(group.spec.rdzv_handler.get_run_id()),
        round=-1 if group.info is None else group.info.round,
        nodes=max(0, group.group_world_size),
        workers=[_worker_status(group, worker, context, restarts) for worker in workers],
        state=group.state.name,
        node_rank=group.group_rank,
        name=_name(group),
        role=group.spec.role,
        restarts=restarts,
        max_restarts=group.spec.max_restarts,
        pid=os.getpid(),
        seconds=round(seconds, 3),
        log_dir=log_dir,
    )


def _worker_status(
    group: WorkerGroup, worker: Worker, context: ProcessContext | None, restarts: int
) -> WorkerStatus:
    rank, local_rank = worker.global_rank, worker.local_rank
    if context is None or worker.id is None:
        return WorkerStatus(rank, local_rank, None, WorkerState.INIT.name, restarts)
    code = context.exits().get(local_rank)
    ended = WorkerState.FAILED if code else WorkerState.SUCCEEDED
    return WorkerStatus(
        rank,
        local_rank,
        worker.id,
        group.state.name if code is None else ended.name,
        restarts,
        context.stdouts.get(local_rank, ""),
        context.stderrs.get(local_rank, ""),
    )


def _name(group: WorkerGroup) -> str:
    """Name what is run; for this Python, its script or module."""
    spec = group.spec
    if spec.entrypoint != sys.executable:
        return spec.get_entrypoint_name()
    return next((arg for arg in map(str, spec.args) if not arg.startswith("-")), "python")
