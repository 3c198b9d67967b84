"""What a worker can be asked of itself and its group, and what of it can be set.

The base of `RpcAgent`, which adds its life and its calls. `api.inspection` has the same by module.
"""

from __future__ import annotations

from collections.abc import Iterable

from asyncrpc.agent import Agent, Monitor
from asyncrpc.execution import ThreadPool
from asyncrpc.identity import WorkerInfo
from asyncrpc.options import RpcOptions, check_timeout
from asyncrpc.rref import RRefContext, RRefRow
from asyncrpc.runtime.debug import counters
from asyncrpc.runtime.metrics import Metrics, measured

__all__ = ("Inspection",)


class Inspection:
    """What is known of one worker.

    Args:
        agent: its end of all calls.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        assert isinstance(agent.references, RRefContext)
        self.references = agent.references
        """For `RRef`, which finds it here."""

    @property
    def info(self) -> WorkerInfo:
        """This worker's name and id."""
        return self._agent.info

    @property
    def options(self) -> RpcOptions:
        """The settings it was started with."""
        return self._agent.options

    @property
    def is_closed(self) -> bool:
        """Whether it was shut down."""
        return self._agent.is_closed

    @property
    def is_orphaned(self) -> bool:
        """Whether its loop was closed without a shutdown, so that nothing of it works any more."""
        return self._agent.loop.is_closed()

    @property
    def is_computing(self) -> bool:
        """Whether a plain function runs in its threads that does not itself wait for a call."""
        return self._agent.is_computing

    @property
    def threads(self) -> ThreadPool:
        """The threads in which it runs plain functions."""
        return self._agent.executor.threads

    def get_worker_info(self, name: str | int | WorkerInfo | None = None) -> WorkerInfo:
        """Return who a worker is; see `asyncrpc.get_worker_info`."""
        return self.info if name is None else self._agent.members.route(name).info

    def get_worker_infos(self) -> list[WorkerInfo]:
        """Return the live members by id; see `asyncrpc.get_worker_infos`."""
        return [peer.info for peer in self._agent.members.present()]

    def monitor(self, name: str | int | WorkerInfo | None = None) -> Monitor:
        """Return an iterator of what happens to the members; see `asyncrpc.monitor`."""
        if name is None:
            return self._agent.members.monitor(lambda _: True)
        if isinstance(name, bool) or not isinstance(name, (str, int, WorkerInfo)):
            raise ValueError(f"name must be a name, an int id, a WorkerInfo or None, got {name!r}")
        return self._agent.members.monitor(lambda info: name in (info.name, info.id, info))

    def get_rpc_timeout(self) -> float:
        """Return the default timeout in seconds, 0 for none."""
        return self._agent.caller.timeout

    def set_rpc_timeout(self, timeout: float | None) -> None:
        """Set the default timeout of later calls; see `asyncrpc.set_rpc_timeout`."""
        self._agent.caller.timeout = check_timeout("timeout", timeout)

    def enable_profiling(self, enabled: bool = True) -> None:
        """Measure served functions, or stop that; see `asyncrpc.enable_profiling`."""
        if not isinstance(enabled, bool):
            raise ValueError(f"enabled must be True or False, got {enabled!r}")
        self._agent.profile(enabled)

    # -- counters

    def metrics(self) -> Metrics:
        """Return counters and gauges as plain values; see `asyncrpc.metrics`."""
        return measured(self._agent)

    def debug_info(self) -> dict[str, str]:
        """Return counters by name; see `asyncrpc.debug_info`."""
        return counters(self._agent, self.references.machine.counts())

    def rref_debug(self) -> list[RRefRow]:
        """Return what is kept for others; see `asyncrpc.rref_debug`."""
        return self.references.keeper.rows()

    # -- faults

    def partition(self, peers: Iterable[str | int | WorkerInfo]) -> None:
        """Lose all that goes to and comes from these workers until `heal`, as a network would.

        Nobody is told: calls run out of time, and heartbeats find the workers lost.

        Args:
            peers: other workers of the group.

        Raises:
            ValueError: one of them is this worker itself, or no destination.
            UnknownWorkerError: the group has no such worker.
        """
        given: object = peers
        names = peers if isinstance(given, Iterable) and not isinstance(peers, str) else [peers]
        found = [self._agent.members.route(name) for name in names]
        if any(peer.info == self.info for peer in found):
            raise ValueError(f"peers must be other workers, got {self.info.name} itself")
        self._agent.partition(found)

    def heal(self) -> None:
        """End all partitions of this worker; what was lost stays lost."""
        self._agent.heal()
