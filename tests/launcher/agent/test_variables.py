"""`launcher.agent.variables`: what a worker finds in its environment."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from asyncrpc.store import MemoryStore
from launcher.agent.ranks import NodeRole, assign_ranks
from launcher.agent.variables import RunFacts, worker_variables
from launcher.rendezvous import RendezvousInfo, RendezvousStoreInfo


def variables(
    local_rank: int,
    nproc: int,
    environ: Mapping[str, str] | None = None,
    *,
    virtual_local_rank: bool = False,
    torch_store: bool = False,
    nodes: int = 3,
    host: str = "node0",
) -> dict[str, str]:
    """Return the variables of a worker of the second of three nodes, or of the only one."""
    roles = [
        NodeRole(role="reader", local_world_size=3),
        NodeRole(role="trainer", local_world_size=nproc),
        NodeRole(role="trainer", local_world_size=1),
    ]
    return worker_variables(
        RunFacts(
            run_id="run",
            role="trainer",
            max_restarts=5,
            secret_file="/secret",
            signals_to_handle="SIGTERM",
            virtual_local_rank=virtual_local_rank,
            torch_store=torch_store,
        ),
        RendezvousInfo(
            rank=min(1, nodes - 1),
            world_size=nodes,
            bootstrap_store_info=RendezvousStoreInfo(master_addr=host, master_port=1234),
            round=7,
            store_url="tcp://node0:99",
            store=MemoryStore,
        ),
        assign_ranks(roles[:nodes])[min(1, nodes - 1)],
        local_rank=local_rank,
        restarts=4,
        environ=environ or {},
    )


def test_the_whole_environment() -> None:
    """The names of torchrun, of asyncrpc and of JAX."""
    assert variables(1, 2) == {
        "RANK": "4",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "3",
        "ROLE_NAME": "trainer",
        "ROLE_RANK": "1",
        "ROLE_WORLD_SIZE": "3",
        "MASTER_ADDR": "node0",
        "MASTER_PORT": "1234",
        "TORCHELASTIC_RESTART_COUNT": "4",
        "TORCHELASTIC_MAX_RESTARTS": "5",
        "TORCHELASTIC_RUN_ID": "run",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "ASYNCRPC_NAME": "worker4",
        "ASYNCRPC_SECRET_FILE": "/secret",
        "LAUNCHER_ROUND": "7",
        "LAUNCHER_STORE": "tcp://node0:99",
        "JAX_COORDINATOR_ADDRESS": "node0:1234",
        "JAX_NUM_PROCESSES": "6",
        "JAX_PROCESS_ID": "4",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize(("nproc", "environ"), [(1, {}), (2, {"OMP_NUM_THREADS": "8"})])
def test_the_number_of_threads_is_left_alone(nproc: int, environ: dict[str, str]) -> None:
    """One worker may have the machine; what the user set is the user's."""
    assert "OMP_NUM_THREADS" not in variables(0, nproc, environ)


def test_an_inherited_choice_for_nccl_is_kept() -> None:
    """It is a default only."""
    found = variables(0, 1, {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"})

    assert found["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "3"


@pytest.mark.parametrize(
    ("environ", "device"),
    [
        ({}, "1"),
        ({"CUDA_VISIBLE_DEVICES": "4, 6,7"}, "6"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, "GPU-b"),
        ({"CUDA_VISIBLE_DEVICES": ""}, ""),
    ],
)
def test_a_virtual_local_rank(environ: dict[str, str], device: str) -> None:
    """Every worker is the only one, on its own device; its other ranks are the real ones."""
    found = variables(1, 2, environ, virtual_local_rank=True)

    assert (found["LOCAL_RANK"], found["CUDA_VISIBLE_DEVICES"]) == ("0", device)
    assert (found["RANK"], found["LOCAL_WORLD_SIZE"]) == ("4", "2")


def test_a_virtual_local_rank_without_a_device() -> None:
    """Two workers on one device is not what was asked for."""
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=7 has none for local rank 1"):
        variables(1, 2, {"CUDA_VISIBLE_DEVICES": "7"}, virtual_local_rank=True)


def test_a_real_local_rank_leaves_devices_alone() -> None:
    """They are inherited."""
    assert "CUDA_VISIBLE_DEVICES" not in variables(1, 2, {"CUDA_VISIBLE_DEVICES": "7"})


def test_a_store_of_the_agents_for_torch() -> None:
    """The port is the store's then: rank 0 serves neither that nor JAX's coordinator there."""
    found = variables(0, 1, torch_store=True)

    assert found["TORCHELASTIC_USE_AGENT_STORE"] == "True"
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("node0", "1234")
    assert "JAX_COORDINATOR_ADDRESS" not in found


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_one_node_needs_no_open_coordinator(host: str, shown: str) -> None:
    """JAX would listen on every address of the machine; where all are on it, this one will do."""
    found = variables(0, 1, nodes=1, host=host)

    assert found["JAX_COORDINATOR_ADDRESS"] == f"{shown}:1234"
    assert found["JAX_COORDINATOR_BIND_ADDRESS"] == f"{shown}:1234"
    assert found["MASTER_ADDR"] == host
