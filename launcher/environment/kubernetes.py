"""Kubernetes: the pods of an Indexed Job, on its own or in a JobSet.

Nothing is asked of the API server: pods find each other by DNS, so the Job needs a headless
Service, called as the Job is unless ``$LAUNCHER_SERVICE`` says how; ``$LAUNCHER_JOB`` may say how
the Job is called, else the host's name does. How many pods there are is in no variable:
``--nnodes`` has to say it. ``launcher k8s render`` sees to all of this.

Source: kubernetes.io/docs/concepts/workloads/controllers/job ("Completion mode"), and
jobset.sigs.k8s.io/docs/concepts ("JobSet").
"""

from __future__ import annotations

from collections.abc import Mapping

from launcher.environment.base import Environment, read_integer

__all__ = ("detect",)

_PORT = 29400  # pods have addresses, and so ports, of their own
_SIGNALS = "TERM"  # to a pod that is evicted, or whose node goes


def detect(environ: Mapping[str, str]) -> Environment | None:
    """Say what Kubernetes tells by these variables; ``None`` outside of Indexed Jobs.

    Raises:
        ValueError: they make no sense; names one.
    """
    if "JOB_COMPLETION_INDEX" not in environ:
        return None
    index = read_integer(environ, "JOB_COMPLETION_INDEX")
    host = environ.get("HOSTNAME", "")
    job = environ.get("LAUNCHER_JOB") or host.removesuffix(f"-{index}")
    service = environ.get("LAUNCHER_SERVICE") or environ.get("JOBSET_NAME") or job
    attempt = read_integer(environ, "JOBSET_RESTART_ATTEMPT", default=0)
    return Environment(
        source=f"Kubernetes Job {job}" if job else "a Kubernetes Job",
        node_rank=index,
        run_id=f"{job}-{attempt}" if attempt else job,
        host=f"{job}-0.{service}" if job else "",
        port=_PORT if job else 0,
        is_host=index == 0,
        restart_attempt=attempt,
        preempt_signals=_SIGNALS,
        local_addr=environ.get("POD_IP", ""),
    )
