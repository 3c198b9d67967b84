"""Launchers under real starters of MPI: on one machine, and on two hosts in namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launcher.conftest import ROOT
from tests.launcher.hosts import Host, Network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

needs_open_mpi = pytest.mark.skipif(
    shutil.which("mpirun.openmpi") is None, reason="needs the program mpirun, of openmpi-bin"
)
needs_hydra = pytest.mark.skipif(
    shutil.which("mpiexec.hydra") is None, reason="needs the program mpiexec.hydra, of mpich"
)

MPIRUN = ("mpirun.openmpi", "--allow-run-as-root", "--oversubscribe")
EACH = ("--map-by", "node")  # Open MPI 5 would fill the first host
HYDRA = ("mpiexec.hydra", "-n", "2")
LAUNCHER = (sys.executable, "-m", "launcher")
WORKER = """
import json, os
names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID")
print(json.dumps([os.uname().nodename, *(os.environ[name] for name in names)]), flush=True)
"""


def launched(command: list[str], folder: Path, status: int = 0) -> tuple[list[list[str]], str]:
    """Run a command; return what the workers told, in order, and stderr."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PET_", "OMP_"))}
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=40,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        env={
            **inherited,
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "TMPDIR": "/tmp",  # where mpirun has sockets, whose addresses are short
        },
    )

    assert done.returncode == 0, done.stderr
    return sorted(json.loads(line) for line in done.stdout.splitlines()), done.stderr


@pytest.fixture
def worker(tmp_path: Path) -> str:
    """Return the path of a worker that tells who it is."""
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return str(path)


@pytest.fixture
def two_hosts(tmp_path: Path) -> Iterator[tuple[Host, Path]]:
    """Return one of two hosts, and the program with which it starts others on them."""
    with Network(tmp_path) as network:
        one, two = network.add("one"), network.add("two")
        for name in ("one", "two"):
            network.know(name, {"one": one.address, "two": two.address})
        remote = tmp_path / "remote"
        there = " ".join(map(quoted, two.command()))
        # Options of ssh stand before the host. Open MPI's command is one word, hydra's is many.
        remote.write_text(
            f'#!/bin/sh\nwhile [ "$1" != two ]; do shift; done; shift\nexec {there} sh -c "$*"\n'
        )
        remote.chmod(0o755)
        yield one, remote


@needs_open_mpi
def test_mpirun_needs_no_option(worker: str, tmp_path: Path, two_hosts: tuple[Host, Path]) -> None:
    """On one machine the launchers meet at its loopback address."""
    one, _ = two_hosts
    workers, stderr = launched(one.command(*MPIRUN, "-n", "2", *LAUNCHER, worker), tmp_path)

    assert [told[1:4] for told in workers] == [["0", "2", "127.0.0.1"], ["1", "2", "127.0.0.1"]]
    assert workers[0][4] == workers[1][4]
    assert stderr.count("launcher: detected Open MPI job ") == 2


@needs_open_mpi
def test_launchers_on_two_hosts_meet_where_mpirun_was_started(
    worker: str, tmp_path: Path, two_hosts: tuple[Host, Path]
) -> None:
    """It tells them its address, or its name."""
    one, remote = two_hosts
    hosts = ("--mca", "plm_rsh_agent", str(remote), "-H", "one:1,two:1", "-n", "2", *EACH)
    workers, _ = launched(one.command(*MPIRUN, *hosts, *LAUNCHER, worker), tmp_path)

    assert [told[:3] for told in workers] == [["one", "0", "2"], ["two", "1", "2"]]
    (meets_at,) = {told[3] for told in workers}
    assert meets_at in (one.address, "one")  # Open MPI 5 tells the name, 4 the address


@needs_hydra
def test_jobs_of_hydra_do_not_meet_each_other(worker: str, tmp_path: Path) -> None:
    """Its variables name no job; the launchers ask for it."""
    with ThreadPoolExecutor() as threads:
        both = [threads.submit(launched, [*HYDRA, *LAUNCHER, worker], tmp_path) for _ in range(2)]
    (one, stderr), (two, _) = (job.result() for job in both)

    for workers in (one, two):
        assert [told[1:4] for told in workers] == [["0", "2", "127.0.0.1"], ["1", "2", "127.0.0.1"]]
        assert workers[0][4] == workers[1][4]
    assert one[0][4] != two[0][4]
    assert stderr.count("launcher: detected PMI job kvs_") == 2


@needs_hydra
def test_a_launcher_that_ends_does_not_end_the_others(tmp_path: Path) -> None:
    """Hydra takes those for crashed that have asked and not said goodbye, and kills the rest."""
    asks = " ".join(map(quoted, (*LAUNCHER, "--print-config", "worker.py")))
    lives_on = f'{asks} >&2; [ "$PMI_RANK" = 0 ] || (sleep 0.7; echo [])'
    workers, stderr = launched([*HYDRA, "sh", "-c", lives_on], tmp_path)

    assert stderr.count("PMI job kvs_") >= 2
    assert workers == [[]]


@needs_hydra
def test_launchers_on_two_hosts_meet_where_hydra_was_started(
    worker: str, tmp_path: Path, two_hosts: tuple[Host, Path]
) -> None:
    """The name of the job has its name."""
    one, remote = two_hosts
    hosts = ("-launcher", "ssh", "-launcher-exec", str(remote), "-hosts", "one:1,two:1")
    workers, _ = launched(one.command(*HYDRA, *hosts, *LAUNCHER, worker), tmp_path)

    assert [told[:4] for told in workers] == [
        ["one", "0", "2", "one"],
        ["two", "1", "2", "one"],
    ]


def quoted(word: str) -> str:
    """Return a word as a shell takes it."""
    return "'" + word.replace("'", "'\\''") + "'"
