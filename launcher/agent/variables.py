"""The environment variables that tell a worker who it is and where the others are.

Pure. The names are torchrun's, plus those of asyncrpc and of JAX; everything else a worker finds in
its environment is inherited from the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from launcher.agent.ranks import NodeRanks
from launcher.rendezvous import RendezvousInfo

__all__ = ("RunFacts", "own_device", "worker_variables")


class RunFacts(NamedTuple):
    """What all workers of all rounds of a run are told alike."""

    run_id: str
    role: str
    max_restarts: int
    secret_file: str
    """Path of the file that holds the run's secret."""
    signals_to_handle: str
    """Comma list of the signals that stop the run in order."""
    virtual_local_rank: bool = False
    """Whether each worker is told that it is the only one, with one device."""
    extra: Mapping[str, str] = MappingProxyType({})
    """Further variables."""
    torch_store: bool = False
    """Whether the agents serve a store for torch's clients at MASTER_ADDR:MASTER_PORT."""


def worker_variables(
    facts: RunFacts,
    info: RendezvousInfo,
    ranks: NodeRanks,
    *,
    local_rank: int,
    restarts: int,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """Say what one worker's environment has on top of the agent's.

    Args:
        facts: of the run.
        info: the round's rendezvous.
        ranks: of this node's workers.
        local_rank: which worker, from 0.
        restarts: restarts because of a failure so far.
        environ: the agent's environment; some variables are set only where it has none.

    Returns:
        Variables by name.
    """
    rank = ranks.first_rank + local_rank
    store = info.bootstrap_store_info
    variables = {
        "RANK": rank,
        "WORLD_SIZE": ranks.world_size,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": ranks.local_world_size,
        "GROUP_RANK": ranks.group_rank,
        "GROUP_WORLD_SIZE": ranks.group_world_size,
        "ROLE_NAME": facts.role,
        "ROLE_RANK": ranks.first_role_rank + local_rank,
        "ROLE_WORLD_SIZE": ranks.role_world_size,
        "MASTER_ADDR": store.master_addr,
        "MASTER_PORT": store.master_port,
        "TORCHELASTIC_RESTART_COUNT": restarts,
        "TORCHELASTIC_MAX_RESTARTS": facts.max_restarts,
        "TORCHELASTIC_RUN_ID": facts.run_id,
        "TORCHELASTIC_USE_AGENT_STORE": facts.torch_store,
        "TORCHELASTIC_SIGNALS_TO_HANDLE": facts.signals_to_handle,
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", 1),
        "ASYNCRPC_NAME": f"worker{rank}",
        "ASYNCRPC_SECRET_FILE": facts.secret_file,
        "LAUNCHER_ROUND": info.round,
        **({"LAUNCHER_STORE": info.store_url} if info.store_url else {}),
        **_jax_variables(facts, info, ranks, rank),
    }
    if "OMP_NUM_THREADS" not in environ and ranks.local_world_size > 1:
        # Each worker would else start a thread per processor; torchrun's remedy.
        variables["OMP_NUM_THREADS"] = 1
    if facts.virtual_local_rank:
        variables["LOCAL_RANK"] = 0
        variables["CUDA_VISIBLE_DEVICES"] = own_device(environ, local_rank)
    return {**{name: str(value) for name, value in variables.items()}, **facts.extra}


def _jax_variables(
    facts: RunFacts, info: RendezvousInfo, ranks: NodeRanks, rank: int
) -> dict[str, object]:
    """Return what JAX is told: rank 0 of the workers serves its coordinator."""
    variables: dict[str, object] = {
        "JAX_NUM_PROCESSES": ranks.world_size,
        "JAX_PROCESS_ID": rank,
    }
    if facts.torch_store:
        return variables  # the round's one port is taken
    host, port = info.bootstrap_store_info
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    variables["JAX_COORDINATOR_ADDRESS"] = address
    if info.world_size == 1:  # else it would listen on every address, to anybody
        variables["JAX_COORDINATOR_BIND_ADDRESS"] = address
    return variables


def own_device(environ: Mapping[str, str], local_rank: int) -> str:
    """Return the device of one worker, if each has one.

    Args:
        environ: where ``CUDA_VISIBLE_DEVICES`` may list them.
        local_rank: which worker, from 0.

    Returns:
        The local rank where nothing is listed; "" where none is visible.

    Raises:
        ValueError: there are fewer than workers.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return str(local_rank)
    if not listed:
        return ""
    devices = listed.split(",")
    if local_rank >= len(devices):
        raise ValueError(
            f"virtual_local_rank: expected a device for each worker, CUDA_VISIBLE_DEVICES={listed} "
            f"has none for local rank {local_rank}"
        )
    return devices[local_rank].strip()
