"""What an agent looks after: `WorkerSpec`, `Worker`, `WorkerGroup`, and how a run ended.

Values, and the interface of agents; torch's names and fields, those that act.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from launcher.affinity import NumaOptions
from launcher.agent.ranks import NodeRanks
from launcher.agent.state import WorkerState
from launcher.errors import ProcessFailure
from launcher.rendezvous import Ending, RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

if TYPE_CHECKING:  # the name only: a backend that has a store has imported it
    from asyncrpc.store import Store

__all__ = ("DEFAULT_ROLE", "ElasticAgent", "RunResult", "Worker", "WorkerGroup", "WorkerSpec")

DEFAULT_ROLE = "default"
_LONGEST_BACKOFF = 60.0  # seconds before a restart, however many there were
_DOUBLINGS = 16  # of the wait; more make no difference


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What the workers of a group have in common; torch's fields come first, in torch's order.

    Args:
        role: what they are; empty names are refused.
        local_world_size: workers on this node, at least 1.
        rdzv_handler: how the node's agent meets the others.
        fn: torch's older name of `entrypoint`, which it becomes.
        entrypoint: what each of them runs: path or name of a program, or a function.
        args: its arguments, without the program's own name.
        max_restarts: how often failures may restart the run, on all nodes together, from 0.
        monitor_interval: accepted for torch's callers: what happens is heard of, not polled for.
        master_port: what they read as ``MASTER_PORT``; ``None``: what the rendezvous says.
        master_addr: what they read as ``MASTER_ADDR``; ``None``: likewise.
        local_addr: accepted for torch's callers: the handler knows where this node is reached.
        event_log_handler: where events of the group go, see `launcher.events.record`.
        numa_options: which processors each of them may use; ``None``: all.
        duplicate_stdout_filters: texts; lines of stdout with any of them are copied to one file.
        duplicate_stderr_filters: the same for stderr.
        virtual_local_rank: whether each is told that it is the only one on the node.
        restart_window: seconds after which a restart no longer counts, above 0.
        restart_backoff: seconds that the node whose workers failed waits before the first restart,
            from 0; twice as long for each further one, a minute at most.
        torch_store: whether torch's clients among them find a store of the agent's, see
            `launcher.agent.torch_store`.

    Raises:
        ValueError: a field breaks its rule; names field, value and rule.
    """

    role: str
    local_world_size: int
    rdzv_handler: RendezvousHandler
    fn: Callable[..., object] | None = None
    entrypoint: Callable[..., object] | str = ""
    args: tuple[object, ...] = ()
    max_restarts: int = 3
    monitor_interval: float = 0.1
    master_port: int | None = None
    master_addr: str | None = None
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: NumaOptions | None = None
    duplicate_stdout_filters: Sequence[str] | None = None
    duplicate_stderr_filters: Sequence[str] | None = None
    virtual_local_rank: bool = False
    _: KW_ONLY
    torch_store: bool = False
    restart_window: float = math.inf
    restart_backoff: float = 0.0

    def __post_init__(self) -> None:
        if self.fn is not None:
            object.__setattr__(self, "entrypoint", self.fn)
        if not self.role:
            raise ValueError("role='': expected a name")
        if self.local_world_size < 1:
            raise ValueError(f"local_world_size={self.local_world_size}: expected at least 1")
        if not self.entrypoint:
            raise ValueError(f"entrypoint={self.entrypoint!r}: expected a program or a function")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts={self.max_restarts}: expected at least 0")
        if not self.monitor_interval > 0:
            raise ValueError(f"monitor_interval={self.monitor_interval}: expected seconds above 0")
        if not self.restart_window > 0:
            raise ValueError(f"restart_window={self.restart_window}: expected seconds above 0")
        if not 0 <= self.restart_backoff < math.inf:
            raise ValueError(f"restart_backoff={self.restart_backoff}: expected seconds from 0")

    def get_entrypoint_name(self) -> str:
        """Name the program without its folder, or the function."""
        if isinstance(self.entrypoint, str):
            return os.path.basename(self.entrypoint)
        return getattr(self.entrypoint, "__qualname__", repr(self.entrypoint))

    def master(self, found: RendezvousStoreInfo) -> RendezvousStoreInfo:
        """Return where rank 0 is told to listen.

        Args:
            found: what the rendezvous says, unless the spec has other ideas.
        """
        return RendezvousStoreInfo(
            self.master_addr or found.master_addr, self.master_port or found.master_port
        )

    def backoff(self, restarts: int) -> float:
        """Return the seconds to wait before the next restart.

        Args:
            restarts: because of failures so far.
        """
        doublings: int = min(restarts, _DOUBLINGS)
        return min(self.restart_backoff * 2.0**doublings, _LONGEST_BACKOFF)

    def budget(self, restarts: int) -> str:
        """Say which restart one is, and how many are left, for people.

        Args:
            restarts: because of failures, this one included.
        """
        limit, window = self.max_restarts, self.restart_window
        if window < math.inf:
            return f"restart {restarts} (at most {limit} within {window:g} s)"
        return f"restart {restarts} of {limit} ({limit - restarts} left)"


class Worker:
    """One worker of the current round.

    Args:
        local_rank: its rank on the node, from 0.
        global_rank: its rank in the job; -1 until the round is complete, as all below.
        role_rank: its rank among those of its role.
        world_size: workers of the job.
        role_world_size: workers of its role.
    """

    __slots__ = ("global_rank", "id", "local_rank", "role_rank", "role_world_size", "world_size")

    def __init__(
        self,
        local_rank: int,
        global_rank: int = -1,
        role_rank: int = -1,
        world_size: int = -1,
        role_world_size: int = -1,
    ) -> None:
        self.id: int | None = None  # its process id once it runs
        self.local_rank = local_rank
        self.global_rank = global_rank
        self.role_rank = role_rank
        self.world_size = world_size
        self.role_world_size = role_world_size

    def __repr__(self) -> str:
        return f"<Worker {self.global_rank} local_rank={self.local_rank} id={self.id}>"


class WorkerGroup:
    """The workers of one node, as they are now.

    Args:
        spec: what they have in common.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.state = WorkerState.INIT
        self.workers = [Worker(rank) for rank in range(spec.local_world_size)]
        self.info: RendezvousInfo | None = None  # of the round; None before the first one
        self.group_rank = -1
        self.group_world_size = -1
        self.master_addr = ""
        self.master_port = -1

    @property
    def store(self) -> Store | None:
        """The agents' own store of the round; ``None`` before the first round."""
        return None if self.info is None else self.info.store

    def assign(self, info: RendezvousInfo, ranks: NodeRanks) -> None:
        """Replace the workers by those of a new round.

        Args:
            info: what the agents of the round agreed on.
            ranks: of this node in the round.
        """
        self.info = info
        self.master_addr = info.bootstrap_store_info.master_addr
        self.master_port = info.bootstrap_store_info.master_port
        self.group_rank = ranks.group_rank
        self.group_world_size = ranks.group_world_size
        self.workers = [
            Worker(
                local_rank,
                global_rank=ranks.first_rank + local_rank,
                role_rank=ranks.first_role_rank + local_rank,
                world_size=ranks.world_size,
                role_world_size=ranks.role_world_size,
            )
            for local_rank in range(ranks.local_world_size)
        ]


class RunResult(NamedTuple):
    """How a run ended on this node; mappings are keyed by global rank."""

    state: WorkerState
    """SUCCEEDED, FAILED or STOPPED."""
    return_values: Mapping[int, object] = MappingProxyType({})
    """What each worker returned; ``None`` from a command. Empty unless SUCCEEDED."""
    failures: Mapping[int, ProcessFailure] = MappingProxyType({})
    """The workers of the last round that did not succeed."""
    exit_codes: Mapping[int, int] = MappingProxyType({})
    """Exit statuses of the last round, -N for signal N."""
    log_paths: Mapping[int, Mapping[str, str]] = MappingProxyType({})
    """Files of the last round: by ``stdout``, ``stderr`` and ``error``, those that there are."""
    log_dir: str | None = None
    """Folder of the run's logs; ``None``: none were kept."""
    restarts: int = 0
    """How often the run was restarted because of a failure."""
    signal: int | None = None
    """The signal that stopped the launcher; ``None`` unless STOPPED."""
    is_preempted: bool = False
    """Whether it was STOPPED because its node had to go: the scheduler is to start it again."""
    elsewhere: Ending | None = None
    """Why the run FAILED, if not because of workers of this node."""

    def is_failed(self) -> bool:
        """Say whether the run failed."""
        return self.state is WorkerState.FAILED


class ElasticAgent(Protocol):
    """Looks after the workers of one node until the run is over."""

    async def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Start the workers, watch over them and restart them as the spec allows.

        Args:
            role: the group; an agent has one.

        Returns:
            How the run ended; failed workers are part of it, not an exception.
        """
        ...

    def get_worker_group(self, role: str = DEFAULT_ROLE) -> WorkerGroup:
        """Return the group as it is now.

        Args:
            role: the group; an agent has one.
        """
        ...
