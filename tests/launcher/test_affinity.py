"""launcher.affinity: which processors each worker may use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from launcher.affinity import (
    AffinityMode,
    Cpu,
    NumaOptions,
    assign_cpus,
    cpus_of_workers,
    read_topology,
)
from launcher.logs import DefaultLogsSpecs
from launcher.process import start_processes
from tests.launcher import functions


def machine() -> list[Cpu]:
    """Return two sockets of two nodes of four cores of two threads; pairs of cores share a cache.

    The second thread of core n is processor n + 16, as Linux numbers them.
    """
    cpus = []
    for number in range(32):
        core = number % 16
        pair = core // 2 * 2
        cache = (pair, pair + 1, pair + 16, pair + 17)
        cpus.append(Cpu(number, core // 4, core // 8, (core, core + 16), cache))
    return cpus


NODE_0 = {0, 1, 2, 3, 16, 17, 18, 19}


@pytest.mark.parametrize(
    ("mode", "workers", "expected"),
    [
        ("node", 1, [NODE_0]),
        ("node", 4, [{cpu + 4 * node for cpu in NODE_0} for node in range(4)]),
        ("node", 8, [{cpu + 4 * (w // 2) for cpu in NODE_0} for w in range(8)]),
        ("socket", 2, [{*range(8), *range(16, 24)}, {*range(8, 16), *range(24, 32)}]),
        ("exclusive", 16, [{core, core + 16} for core in range(16)]),
        ("exclusive", 1, [NODE_0]),
        ("core-complex", 4, [{0, 1, 16, 17}, {4, 5, 20, 21}, {8, 9, 24, 25}, {12, 13, 28, 29}]),
    ],
)
def test_who_gets_what(mode: str, workers: int, expected: list[set[int]]) -> None:
    """Workers are dealt out over the nodes in order; threads of a core stay together."""
    assert list(assign_cpus(machine(), AffinityMode(mode), workers)) == expected


@pytest.mark.parametrize("workers", range(1, 17))
def test_exclusive_cores_are_shared_by_nobody(workers: int) -> None:
    """However badly the numbers fit, and nobody goes without."""
    sets = assign_cpus(machine(), AffinityMode.EXCLUSIVE, workers)

    assert all(sets)
    assert sum(map(len, sets)) == len(frozenset().union(*sets))


def test_workers_of_one_node_take_turns_with_its_caches() -> None:
    """The second worker of a node gets another cache, the third the first one again."""
    sets = assign_cpus(machine()[:4], AffinityMode.CORE_COMPLEX, 3)

    assert [*map(sorted, sets)] == [[0, 1], [2, 3], [0, 1]]


def test_too_few_cores() -> None:
    """The node and both numbers are named."""
    with pytest.raises(ValueError, match=r"expected a core for each .* node 0 has 4 for 5"):
        assign_cpus(machine(), AffinityMode.EXCLUSIVE, 17)


def test_an_unknown_mode() -> None:
    """Those that there are, are named."""
    with pytest.raises(ValueError, match="numa_binding=x: expected one of node, socket, exc"):
        NumaOptions("x")  # type: ignore[arg-type]
    assert NumaOptions("node").affinity_mode is AffinityMode.NODE  # type: ignore[arg-type]


# --- the kernel's files


@pytest.fixture
def files(tmp_path: Path) -> Mapping[str, str]:
    """Return folders of nodes and processors: two nodes of two processors, one core each."""
    texts = {
        "node/node0/cpulist": "0-1",
        "node/node1/cpulist": "2,3",
        "node/possible": "0-1",
        **{f"cpu/cpu{n}/topology/physical_package_id": str(n // 2) for n in range(4)},
        **{f"cpu/cpu{n}/cache/index{i}/level": str(i) for n in range(4) for i in (1, 3)},
        **{f"cpu/cpu{n}/cache/index1/shared_cpu_list": str(n) for n in range(4)},
        **{f"cpu/cpu{n}/cache/index3/shared_cpu_list": "0-3" for n in range(3)},
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    return {"nodes": str(tmp_path / "node"), "cpus": str(tmp_path / "cpu")}


def test_what_the_kernel_says(files: Mapping[str, str]) -> None:
    """Of the processors that may be used; what it does not say is left out."""
    assert read_topology({0, 3}, **files) == (
        Cpu(0, 0, 0, (0,), (0, 1, 2, 3)),
        Cpu(3, 1, 1, (3,), ()),
    )


def test_a_system_that_does_not_say(tmp_path: Path, files: Mapping[str, str]) -> None:
    """Nodes are needed always, caches for one mode."""
    with pytest.raises(ValueError, match="does not say which NUMA node processor 0 belongs to"):
        read_topology({0}, nodes=str(tmp_path / "nothing"), cpus=files["cpus"])
    with pytest.raises(ValueError, match="does not say which processors of NUMA node 1 share"):
        assign_cpus(read_topology({3}, **files), AffinityMode.CORE_COMPLEX, 1)


def test_falling_back(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Only where that was asked for, and not in silence."""
    monkeypatch.setattr("launcher.affinity._node_of_cpus", lambda folder: {})
    mode = AffinityMode.NODE
    with pytest.raises(ValueError, match="does not say"):
        cpus_of_workers(NumaOptions(mode), 2)

    assert [*map(sorted, cpus_of_workers(None, 2))] == [[], []]
    assert [*map(sorted, cpus_of_workers(NumaOptions(mode, True), 2))] == [[], []]
    assert "workers are not bound to processors" in caplog.text


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
async def test_workers_are_bound_before_they_run(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees its own processors only; the launcher keeps all of them."""
    allowed = sorted(os.sched_getaffinity(0))
    topology = tuple(Cpu(number, 0, 0, (number,), ()) for number in allowed)
    monkeypatch.setattr("launcher.affinity.read_topology", lambda allowed: topology)
    workers = min(2, len(allowed))
    context = await start_processes(
        "x",
        functions.processors,
        dict.fromkeys(range(workers), ()),
        {rank: {} for rank in range(workers)},
        DefaultLogsSpecs(os.devnull),
        start_method=method,
        numa_options=NumaOptions(AffinityMode.EXCLUSIVE),
    )
    result = await context.wait()

    assert result is not None
    expected = assign_cpus(topology, AffinityMode.EXCLUSIVE, workers)
    assert result.return_values == dict(enumerate(map(sorted, expected)))
    assert sorted(os.sched_getaffinity(0)) == allowed
