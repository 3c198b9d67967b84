"""Slurm: launchers started by ``srun``, one task on each node.

Source: srun(1) and sbatch(1), "OUTPUT ENVIRONMENT VARIABLES", and what version 22.05 sets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from launcher.environment.base import Environment, port_for, read_integer
from launcher.environment.hostlist import expand_hostlist

__all__ = ("detect",)

_STEP = 1009  # keeps the ports of a job's steps away from those of the next jobs
_SPECIAL_STEPS = 0xFFFF_FFF0  # and above: batch scripts, interactive shells; no task of a srun
_SIGNALS = "USR1"  # by custom: sbatch --signal=USR1@90


def detect(environ: Mapping[str, str]) -> Environment | None:
    """Say what Slurm tells by these variables; ``None`` outside of its jobs.

    A launcher that ``srun`` did not start, but a batch script or a shell, is a node by itself.

    Raises:
        ValueError: they make no sense; names one.
    """
    if "SLURM_JOB_ID" not in environ:
        return None
    job = read_integer(environ, "SLURM_JOB_ID", 1)
    found = Environment(
        source=f"Slurm job {job}",
        node_count=1,
        restart_attempt=read_integer(environ, "SLURM_RESTART_COUNT", default=0),
        preempt_signals=_SIGNALS,
        requeue=f"scontrol requeue {job}",
        nproc_hint=_workers(environ),
    )
    step = read_integer(environ, "SLURM_STEP_ID", default=_SPECIAL_STEPS)
    if step < _SPECIAL_STEPS and "SLURM_PROCID" in environ:
        return _of_task(environ, found, job, step)
    nodes = read_integer(environ, "SLURM_NNODES", 1, default=1)
    if nodes == 1:
        return found
    hint = "start it by srun --ntasks-per-node=1"
    return found._replace(
        warning=f"{found.source} has {nodes} nodes, this launcher runs on one: {hint}"
    )


def _of_task(environ: Mapping[str, str], found: Environment, job: int, step: int) -> Environment:
    """Return what the task of a step is told."""
    tasks = read_integer(environ, "SLURM_STEP_NUM_TASKS", 1)
    nodes = read_integer(environ, "SLURM_STEP_NUM_NODES", 1)
    hosts = _hosts(environ.get("SLURM_STEP_NODELIST", ""), nodes)
    has_each_a_node = tasks == nodes
    name = "SLURM_NODEID" if has_each_a_node else "SLURM_PROCID"
    if (rank := read_integer(environ, name)) >= tasks:
        raise ValueError(f"{name}={rank}: expected below SLURM_STEP_NUM_TASKS={tasks}")
    # A step, and a job that was started again, must not meet what is left of the one before.
    run = f"{job}.{step}" if step else f"{job}"
    attempt = found.restart_attempt
    return found._replace(
        node_rank=rank,
        node_count=tasks,
        run_id=f"{run}-{attempt}" if attempt else run,
        host=hosts[0],
        port=port_for(job + step * _STEP),
        is_host=rank == 0 if has_each_a_node else None,
        warning=_several_tasks(environ),
    )


def _hosts(listed: str, count: int) -> list[str]:
    try:
        hosts = expand_hostlist(listed)
    except ValueError as error:
        raise ValueError(f"SLURM_STEP_NODELIST: {error}") from None
    if len(hosts) != count:
        raise ValueError(f"SLURM_STEP_NODELIST={listed:.100}: expected {count} hosts")
    return hosts


def _several_tasks(environ: Mapping[str, str]) -> str:
    listed = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "1")
    most = max((int(count) for count in re.findall(r"(?:^|,)(\d{1,9})", listed)), default=1)
    if most == 1:
        return ""
    return (
        f"Slurm started {most} launchers on one node, and each counts as a node of the run: "
        f"srun --ntasks-per-node=1 and --nproc-per-node={most} are meant most likely"
    )


def _workers(environ: Mapping[str, str]) -> int | None:
    """Return how many workers fit what Slurm gave to this task: one per GPU, else per processor."""
    for name in ("SLURM_GPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if name in environ:
            return read_integer(environ, name, 1)
    return None
