"""rpc_test.py, identity and group: who is who, and where calls may go.

Elsewhere: `int_callee` and `add_with_id` (tests/agent/test_calls.py, ``test_destinations``),
`duplicate_name`, `reinit` and `init_rpc_twice` (tests/test_api.py), the types of arguments and
backends (tests/test_backend_registry.py), `pg_init_no_rpc_init` (tests/rref/test_reference.py).
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.reference.functions import MODES, add, call


@pytest.mark.asyncio
async def test_worker_id() -> None:
    """Own and peer's names and ids are right; an unknown name cannot be found."""
    async with cluster(4) as agents:
        for rank, agent in enumerate(agents):
            peer = (rank + 1) % 4
            assert (f"worker{rank}", rank) == (agent.info.name, agent.info.id)
            assert agent.info == agent.get_worker_info()
            assert agents[peer].info == agent.get_worker_info(f"worker{peer}")
            with pytest.raises(RuntimeError, match="could not find destination WorkerX"):
                agent.get_worker_info("WorkerX")


@pytest.mark.asyncio
async def test_get_worker_infos() -> None:
    """Every member knows the names and ids of all."""
    async with cluster(4) as agents:
        known = [{(info.name, info.id) for info in a.get_worker_infos()} for a in agents]

    assert [{(f"worker{rank}", rank) for rank in range(4)}] * 4 == known


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
async def test_send_to_rank(mode: str) -> None:
    """A rank is a destination; one that is out of range or -1 is unknown, a float is none."""
    async with cluster(4) as agents:
        for rank, agent in enumerate(agents):
            assert 3 == await call(mode, agent, (rank + 1) % 4, add, (1, 2))
        for unknown in (4, -1):
            with pytest.raises(RuntimeError, match="could not find destination"):
                await call(mode, agents[0], unknown, add, (1, 2))
        with pytest.raises(ValueError, match=r"Cannot get WorkerInfo from name 1\.5"):
            await call(mode, agents[0], 1.5, add, (1, 2))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("abc*", "Worker name must match"),
        (" ", "Worker name must match"),
        ("", "must be non-empty"),
        ("a" * 500, "shorter than 128"),
    ],
)
def test_invalid_names(name: str, text: str) -> None:
    """A bad name is refused with the rule that it breaks."""
    with pytest.raises(ValueError, match=text):
        rpc.WorkerInfo(name, 0)


def test_worker_info_pickle() -> None:
    """A copy is equal."""
    info = rpc.WorkerInfo("worker0", 3)

    assert info == pickle.loads(pickle.dumps(info)) == copy.deepcopy(info)


@pytest.mark.asyncio
async def test_owner_equality() -> None:
    """Owners compare by value, are keys of dicts, and are no ints."""
    async with cluster(4) as (a, *_):
        first = a.remote("worker1", add, args=(1, 2))
        second = a.remote("worker1", add, args=(1, 2))
        third = a.remote("worker2", add, args=(1, 2))
        owners = [rref.owner() for rref in (first, second, third)]

    assert owners[0] == owners[1] != owners[2]
    assert owners[0] != 1
    assert {owners[0]: "a", owners[2]: "c"} == dict(zip(owners, "abc", strict=True)) | {
        owners[1]: "a"
    }
    assert 2 == len(set(owners))


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
async def test_world_size_one(mode: str) -> None:
    """A group of one worker calls itself in every way."""
    async with cluster(1) as (a,):
        assert 3 == await call(mode, a, "worker0", add, (1, 2))
        await a.barrier()
        assert {"worker0": 5} == await a.all_gather(5)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("rpc_first", [True, False])
async def test_init_pg_then_rpc(rpc_first: bool, tmp_path: Path) -> None:
    """Another distributed runtime in the process does no harm, whichever is first."""
    pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")
    distributed: Any = pytest.importorskip(
        "torch.distributed", reason="needs torch: pip install torch==2.13.0"
    )

    def start_other() -> None:
        distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )

    if not rpc_first:
        start_other()
    try:
        async with cluster(2) as (a, _):
            if rpc_first:
                start_other()
            assert 3 == await a.rpc_async("worker1", add, args=(1, 2))
            distributed.barrier()
    finally:
        distributed.destroy_process_group()
