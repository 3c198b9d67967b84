"""Launchers under a real Slurm: two nodes in namespaces, started and ended by these tests.

Skipped where there is no Slurm, or no namespaces can be made.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.rendezvous.meeting import free_port
from tests.launcher.slurm import SlurmCluster

soak = pytest.mark.skipif(
    "CLUSTER_SOAK" not in os.environ, reason="run by make soak (CLUSTER_SOAK=1)"
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

LAUNCHER = (sys.executable, "-m", "launcher")
LAUNCH = ("srun", "--nodes=2", "--ntasks-per-node=1", *LAUNCHER)
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


def batch(folder: Path, *command: str) -> str:
    """Write the batch script that the README shows, and return its path."""
    path = folder / "job.sh"
    path.write_text(f"""#!/bin/bash
srun {" ".join(command)}
status=$?
if [ $status -eq 85 ]; then scontrol requeue $SLURM_JOB_ID; fi
exit $status
""")
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


@pytest.mark.parametrize(
    ("kind", "more", "detected"),
    [
        pytest.param("pmi2", (), "PMI job {job}.0: --nnodes=2", id="pmi2"),
        pytest.param(
            "pmix",
            ("--nnodes=2",),
            "PMIx job slurm.pmix.{job}.0:",
            id="pmix",
            marks=pytest.mark.skipif(
                not [*Path("/usr/lib").glob("*/pmix2/lib/libpmix.so")],
                reason="needs the library libpmix.so, of libpmix-dev",
            ),
        ),
    ],
)
def test_slurm_speaks_for_mpi_too(
    cluster: SlurmCluster, tmp_path: Path, kind: str, more: tuple[str, ...], detected: str
) -> None:
    """What a job is told by PMI and PMIx is enough to be told who one is; Slurm says where."""
    options = ("--environment=mpi", f"--rdzv-endpoint=n1:{free_port()}", *more)
    command = ("srun", f"--mpi={kind}", *LAUNCH[1:], *options, script(tmp_path))
    status, workers, stderr = finish(cluster.start(*command))
    workers.sort(key=lambda worker: worker["RANK"])

    assert status == 0, stderr
    assert [worker["SLURMD_NODENAME"] for worker in workers] == ["n1", "n2"]
    [run] = {worker["TORCHELASTIC_RUN_ID"] for worker in workers}
    job = re.findall(r"\d+", run)[0]
    assert f"detected {detected.format(job=job)}" in stderr


def test_a_port_that_is_taken_is_told(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Where the first node uses the port of the job for something else, and what to do then."""
    taken = tmp_path / "taken.py"
    taken.write_text("""
import os, socket, sys
if os.environ["SLURM_NODEID"] == "0":
    listening = socket.create_server(("n1", 20000 + int(os.environ["SLURM_JOB_ID"])))
    listening.set_inheritable(True)
os.execv(sys.argv[1], sys.argv[1:])
""")
    options = ("--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit")
    under = ("srun", *options, sys.executable, str(taken))
    _, workers, stderr = finish(cluster.start(*under, *LAUNCHER, script(tmp_path)))

    assert workers == []
    assert re.search(
        r"launcher: Slurm job (\d+): --rdzv-endpoint=n1:200\d\d: cannot listen there: "
        r"Address already in use; name another port, on every node\n",
        stderr,
    )


@soak
def test_several_tasks_on_a_node_are_told(cluster: SlurmCluster, tmp_path: Path) -> None:
    """They run, each as a node, and the user learns what is meant most likely."""
    command = ("srun", "--nodes=2", "--ntasks-per-node=2", "--overcommit", *LAUNCH[3:])
    status, workers, stderr = finish(cluster.start(*command, script(tmp_path)))

    assert status == 0, stderr
    assert sorted(worker["RANK"] for worker in workers) == ["0", "1", "2", "3"]
    assert "srun --ntasks-per-node=1 and --nproc-per-node=2 are meant most likely" in stderr


def test_scancel_stops_the_launchers_in_order(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Workers get SIGTERM and the time that Slurm gives; nothing is left on the nodes."""
    path = script(
        tmp_path,
        """
def end(number, _):
    time.sleep(0.5)
    open(f"ended-{facts['RANK']}", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(f"up-{facts['RANK']}", "w").close()
time.sleep(60)
""",
    )
    hosts = cluster.network.hosts.values()
    before = {pid for host in hosts for pid in host.processes()}  # some of a step that is ending
    step = cluster.start("srun", f"--chdir={tmp_path}", *LAUNCH[1:], path)
    cluster.wait_until(lambda: len([*tmp_path.glob("up-*")]) == 2)
    cluster.run("scancel", "--user=root")
    status, _, stderr = finish(step)
    cluster.wait_until(lambda: before.issuperset(pid for host in hosts for pid in host.processes()))

    assert status == 143, stderr
    assert len([*tmp_path.glob("ended-*")]) == 2, stderr


def test_a_job_that_has_to_go_is_started_again(cluster: SlurmCluster, tmp_path: Path) -> None:
    """SIGUSR1: hooks, an orderly end, status 85, a requeue, and the next attempt goes on."""
    path = script(
        tmp_path,
        """
from launcher.preemption import on_preempt
checkpoint = f"checkpoint-{facts['RANK']}"
if os.path.exists(checkpoint):
    open(f"{facts['RANK']}-{facts['TORCHELASTIC_RUN_ID']}.done", "w").close()
    sys.exit(0)
@on_preempt
def save(left):
    open(checkpoint, "w").write(str(round(left)))
open(f"up-{facts['RANK']}", "w").close()
time.sleep(60)
""",
    )
    options = ("--nodes=2", "--ntasks-per-node=1", "--requeue", f"--chdir={tmp_path}", "--parsable")
    command = (*LAUNCHER, "--preempt-notice=40", path)
    job = cluster.run("sbatch", *options, "--open-mode=append", batch(tmp_path, *command)).strip()
    cluster.wait_until(lambda: len([*tmp_path.glob("up-*")]) == 2)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.wait_until(lambda: cluster.run("squeue", "-h", "-o", "%t") == "PD\n")
    cluster.start_again(job)
    cluster.wait_until(lambda: len([*tmp_path.glob("*.done")]) == 2)
    output = (tmp_path / f"slurm-{job}.out").read_text()

    assert [(tmp_path / f"checkpoint-{rank}").read_text() for rank in (0, 1)] == ["30", "30"]
    assert sorted(path.name for path in tmp_path.glob("*.done")) == [
        f"0-{job}-1.done",
        f"1-{job}-1.done",
    ]
    assert f"hint: scontrol requeue {job}" in output


def test_a_node_that_goes_down_leaves_the_others(cluster: SlurmCluster, tmp_path: Path) -> None:
    """With --no-kill Slurm keeps the job, and the launcher the run."""
    path = script(
        tmp_path,
        """
open(f"up-{facts['LAUNCHER_ROUND']}-{facts['WORLD_SIZE']}-{facts['RANK']}", "w").close()
deadline = time.monotonic() + 30
while facts["WORLD_SIZE"] == "2" and time.monotonic() < deadline:
    time.sleep(0.01)
""",
    )
    options = ("--no-kill", f"--chdir={tmp_path}")
    step = cluster.start("srun", *options, *LAUNCH[1:], "--nnodes=1:2", path)
    cluster.wait_until(lambda: len([*tmp_path.glob("up-0-2-*")]) == 2)
    cluster.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    _, workers, stderr = finish(step)

    assert workers[-1] == {**workers[-1], "RANK": "0", "WORLD_SIZE": "1", "LAUNCHER_ROUND": "1"}
    assert "Node failure on n2" in stderr


@soak
@pytest.mark.timeout(300)
def test_a_time_limit_is_a_notice(cluster: SlurmCluster, tmp_path: Path) -> None:
    """`sbatch --time --signal=USR1@…`: Slurm itself sends it, and the job goes on later."""
    path = script(
        tmp_path,
        """
from launcher.preemption import preempted
attempt = facts["TORCHELASTIC_RUN_ID"]
deadline = time.monotonic() + (5 if "-" in attempt else 200)
while preempted() is None and time.monotonic() < deadline:
    time.sleep(0.05)
open(f"{facts['RANK']}-{'preempted' if preempted() else 'done'}", "w").close()
""",
    )
    options = ("--nodes=2", "--ntasks-per-node=1", "--requeue", f"--chdir={tmp_path}", "--parsable")
    limit = ("--time=2", "--signal=USR1@60", "--open-mode=append")
    job = cluster.run("sbatch", *options, *limit, batch(tmp_path, *LAUNCHER, path)).strip()
    cluster.wait_until(lambda: len([*tmp_path.glob("*-preempted")]) == 2, 150)
    cluster.wait_until(lambda: cluster.run("squeue", "-h", "-o", "%t") == "PD\n")
    cluster.start_again(job)
    cluster.wait_until(lambda: len([*tmp_path.glob("*-done")]) == 2, 60)
