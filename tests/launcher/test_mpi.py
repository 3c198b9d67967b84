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
from typing import NamedTuple

import pytest

from tests.launcher.conftest import ROOT
from tests.launcher.hosts import Host, Network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

BIN = Path(sys.executable).parent  # where the extra test has Open MPI 5

HYDRA = ("mpiexec.hydra", "-n", "2")
LAUNCHER = (sys.executable, "-m", "launcher")
WORKER = """
import json, os
names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID")
print(json.dumps([os.uname().nodename, *(os.environ[name] for name in names)]), flush=True)
"""


def launched(command: list[str], folder: Path) -> tuple[list[list[str]], str]:
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


class OpenMpi(NamedTuple):
    """One of its versions."""

    program: str
    alone: tuple[str, ...]
    """Options for one machine, whatever its network."""
    agent: tuple[str, ...]
    """Options before the name of the program that starts others on other hosts."""
    host: str
    """Where the launchers meet: the name of the first host, or its address."""


def has(program: str, package: str) -> pytest.MarkDecorator:
    """Return a mark that skips where a program is missing."""
    reason = f"needs the program {program}, of {package}"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)


FOUR = OpenMpi(
    "mpirun.openmpi",
    ("--oversubscribe", "--mca", "oob_tcp_if_include", "lo"),
    ("--mca", "plm_rsh_agent"),
    "{address}",
)
FIVE = OpenMpi(str(BIN / "mpirun"), ("--oversubscribe",), ("--prtemca", "plm_ssh_agent"), "one")
needs_hydra = has("mpiexec.hydra", "mpich")
open_mpi = pytest.mark.parametrize(
    "mpi",
    [
        pytest.param(FOUR, id="4", marks=has(FOUR.program, "openmpi-bin")),
        pytest.param(FIVE, id="5", marks=has(FIVE.program, "openmpi, in the extra test")),
    ],
)


@open_mpi
def test_mpirun_needs_no_option(worker: str, tmp_path: Path, mpi: OpenMpi) -> None:
    """On one machine the launchers meet at its loopback address."""
    mpirun = (mpi.program, "--allow-run-as-root", *mpi.alone, "-n", "2")
    workers, stderr = launched([*mpirun, *LAUNCHER, worker], tmp_path)

    assert [told[1:4] for told in workers] == [["0", "2", "127.0.0.1"], ["1", "2", "127.0.0.1"]]
    assert workers[0][4] == workers[1][4]
    assert stderr.count("launcher: detected Open MPI job ") == 2


@open_mpi
def test_launchers_on_two_hosts_meet_where_mpirun_was_started(
    worker: str, tmp_path: Path, two_hosts: tuple[Host, Path], mpi: OpenMpi
) -> None:
    """It tells them its address, or its name in that of the job."""
    one, remote = two_hosts
    hosts = (*mpi.agent, str(remote), "-H", "one:1,two:1", "-n", "2")
    mpirun = one.command(mpi.program, "--allow-run-as-root", *hosts)
    workers, _ = launched([*mpirun, *LAUNCHER, worker], tmp_path)

    where = mpi.host.format(address=one.address)
    assert [told[:4] for told in workers] == [["one", "0", "2", where], ["two", "1", "2", where]]


@has(str(BIN / "prterun"), "openmpi, in the extra test")
def test_pmix_alone_does_not_say_how_many(
    worker: str, tmp_path: Path, two_hosts: tuple[Host, Path]
) -> None:
    """The user does; who one is, and where the others are, it does."""
    one, _ = two_hosts
    options = ("--allow-run-as-root", "--map-by", ":OVERSUBSCRIBE", "-n", "2")
    prterun = one.command(str(BIN / "prterun"), *options)
    workers, stderr = launched([*prterun, *LAUNCHER, "--nnodes=2", worker], tmp_path)

    assert [told[:3] for told in workers] == [["one", "0", "2"], ["one", "1", "2"]]
    assert stderr.count("launcher: detected PMIx job prterun-one-") == 2


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
