"""Launchers under a real Slurm: two nodes in namespaces, started and ended by these tests.

Skipped where there is no Slurm, or no namespaces can be made.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.slurm import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

LAUNCH = ("srun", "--nodes=2", "--ntasks-per-node=1", sys.executable, "-m", "launcher")
HEAD = """
import json, os, signal, sys, time
facts = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LAUNCHER_ROUND",
                                             "TORCHELASTIC_RUN_ID", "SLURMD_NODENAME")}
print(json.dumps(facts), flush=True)
"""


@pytest.fixture(scope="module")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Return a cluster for all tests here."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """Return the cluster; whatever a test leaves there is cancelled."""
    yield running_cluster
    running_cluster.restore()


def script(folder: Path, text: str = "") -> str:
    """Write a worker's script, which tells who it is first, and return its path."""
    path = folder / "worker.py"
    path.write_text(HEAD + text)
    return str(path)


def finish(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, str]], str]:
    """Wait for a command; return its exit status, what the workers told, and stderr."""
    stdout, stderr = process.communicate(timeout=40)
    return process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr


def test_srun_needs_no_option(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The launchers find each other by what Slurm tells them, and say so."""
    status, workers, stderr = finish(cluster.start(*LAUNCH, script(tmp_path)))
    workers.sort(key=lambda worker: worker["RANK"])

    assert status == 0, stderr
    assert [worker["SLURMD_NODENAME"] for worker in workers] == ["n1", "n2"]
    assert {worker["WORLD_SIZE"] for worker in workers} == {"2"}
    assert {worker["MASTER_ADDR"] for worker in workers} == {"n1"}
    assert len({worker["TORCHELASTIC_RUN_ID"] for worker in workers}) == 1
    assert stderr.count("(--no-detect turns this off)") == 2
    assert "--nnodes=2 " in stderr


def test_a_workers_status_is_the_steps(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Slurm, and a batch script, learn how it failed."""
    path = script(tmp_path, "sys.exit(3 if facts['RANK'] == '1' else 0)")
    status, _, stderr = finish(cluster.start(*LAUNCH, path))

    assert status == 3, stderr


def test_several_tasks_on_a_node_are_told(cluster: SlurmCluster, tmp_path: Path) -> None:
    """They run, each as a node, and the user learns what is meant most likely."""
    command = ("srun", "--nodes=2", "--ntasks-per-node=2", "--overcommit", *LAUNCH[3:])
    status, workers, stderr = finish(cluster.start(*command, script(tmp_path)))

    assert status == 0, stderr
    assert sorted(worker["RANK"] for worker in workers) == ["0", "1", "2", "3"]
    assert "srun --ntasks-per-node=1 and --nproc-per-node=2 are meant most likely" in stderr
