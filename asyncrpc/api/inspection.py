"""The module-level questions and settings: each acts on `current_agent`."""

from __future__ import annotations

from collections.abc import Iterable

from asyncrpc.agent import Monitor
from asyncrpc.api.process import current_agent
from asyncrpc.identity import WorkerInfo
from asyncrpc.rref import RRefRow
from asyncrpc.runtime import Metrics

__all__ = (
    "debug_info",
    "enable_profiling",
    "get_rpc_timeout",
    "get_worker_info",
    "get_worker_infos",
    "heal",
    "metrics",
    "monitor",
    "partition",
    "rref_debug",
    "set_rpc_timeout",
)


def get_worker_info(name: str | int | WorkerInfo | None = None) -> WorkerInfo:
    """Return who a worker is.

    Args:
        name: name or id of a worker; ``None`` for this one.

    Raises:
        UnknownWorkerError: there is no such worker.
    """
    return current_agent().get_worker_info(name)


def get_worker_infos() -> list[WorkerInfo]:
    """Return all live members, by id."""
    return current_agent().get_worker_infos()


def monitor(name: str | int | WorkerInfo | None = None) -> Monitor:
    """Return an async iterator of what happens to the members of the group.

    It begins with ``joined`` for each that is there, this worker included, and ends when this
    worker shuts down, or with ``lost`` for itself if the group has declared it lost. A reader that
    falls far behind gets the last event of each name only. Several may be read at once.

    Args:
        name: of the only worker to hear of, or its id; ``None`` for all.

    Returns:
        An iterator of `MemberEvent`; close it, leave it as a context manager, or let it go.

    Raises:
        NotInitializedError: no agent runs.
        ValueError: ``name`` is neither a name nor an id.
    """
    return current_agent().monitor(name)


def get_rpc_timeout() -> float:
    """Return the default timeout of calls in seconds, 0 for none."""
    return current_agent().get_rpc_timeout()


def set_rpc_timeout(timeout: float | None) -> None:
    """Set the default timeout of later calls; calls in flight keep theirs.

    Args:
        timeout: seconds, at least 0; 0 or ``None`` for none.

    Raises:
        ValueError: negative, nan or no number.
    """
    current_agent().set_rpc_timeout(timeout)


def metrics() -> Metrics:
    """Return the agent's counters and gauges as plain values.

    They cost nothing while calls succeed; may be called from any thread with ``agent.metrics()``.
    """
    return current_agent().metrics()


def enable_profiling(enabled: bool = True) -> None:
    """Measure the functions that this worker serves, and show them in `debug_info`.

    From then on that has ``function.<name>.calls``, ``.errors``, ``.total_time``, ``.max_time``
    and, for plain functions, how long they waited for a thread: ``.total_wait``, ``.max_wait``, all
    in seconds. Time is that from the beginning of a function to its outcome, waits included.

    Args:
        enabled: false forgets what was measured, and stops; then nothing is in the way of a call.

    Raises:
        ValueError: ``enabled`` is no bool.
    """
    current_agent().enable_profiling(enabled)


def debug_info() -> dict[str, str]:
    """Return the agent's counters by name; torch's keys where they make sense."""
    return current_agent().debug_info()


def rref_debug() -> list[RRefRow]:
    """Return a row for each value that this worker keeps for others, or makes right now."""
    return current_agent().rref_debug()


def partition(peers: Iterable[str | int | WorkerInfo]) -> None:
    """Lose all that goes to and comes from these workers until `heal`, as a network would.

    Nobody is told: calls run out of time, and heartbeats find the workers lost.

    Args:
        peers: other workers of the group.

    Raises:
        ValueError: one of them is this worker itself, or no destination.
        UnknownWorkerError: the group has no such worker.
    """
    current_agent().partition(peers)


def heal() -> None:
    """End all partitions of this worker; what was lost stays lost."""
    current_agent().heal()
