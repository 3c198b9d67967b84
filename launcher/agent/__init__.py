"""The agent of a node: joins rounds, gives out ranks, keeps a group of workers running."""

from launcher.agent.agent import LocalElasticAgent
from launcher.agent.group import (
    DEFAULT_ROLE,
    ElasticAgent,
    RunResult,
    Worker,
    WorkerGroup,
    WorkerSpec,
)
from launcher.agent.state import WorkerState
from launcher.agent.variables import own_device

__all__ = (
    "DEFAULT_ROLE",
    "ElasticAgent",
    "LocalElasticAgent",
    "RunResult",
    "Worker",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
    "own_device",
)
