"""Launchers under a real mpirun: on one machine, and on two hosts in namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launcher.conftest import ROOT
from tests.launcher.hosts import Network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(60),
    pytest.mark.skipif(
        shutil.which("mpirun") is None, reason="needs the program mpirun, of openmpi-bin"
    ),
]

MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe")
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


def test_mpirun_needs_no_option(worker: str, tmp_path: Path) -> None:
    """On one machine the launchers meet at its loopback address."""
    loopback = ("--mca", "oob_tcp_if_include", "lo", "-n", "2")
    workers, stderr = launched([*MPIRUN, *loopback, *LAUNCHER, worker], tmp_path)

    assert [told[1:4] for told in workers] == [["0", "2", "127.0.0.1"], ["1", "2", "127.0.0.1"]]
    assert workers[0][4] == workers[1][4]
    assert stderr.count("launcher: detected Open MPI job ") == 2


def test_launchers_on_two_hosts_meet_where_mpirun_was_started(worker: str, tmp_path: Path) -> None:
    """It tells them its address."""
    with Network(tmp_path) as network:
        one, two = network.add("one"), network.add("two")
        network.know("one", {"one": one.address, "two": two.address})
        remote = tmp_path / "remote"
        remote.write_text(
            f'#!/bin/sh\nshift\nexec {" ".join(map(quoted, two.command()))} sh -c "$*"\n'
        )
        remote.chmod(0o755)
        hosts = ("--mca", "plm_rsh_agent", str(remote), "-H", "one:1,two:1", "-n", "2")
        workers, _ = launched(one.command(*MPIRUN, *hosts, *LAUNCHER, worker), tmp_path)

        assert [told[:4] for told in workers] == [
            ["one", "0", "2", one.address],
            ["two", "1", "2", one.address],
        ]


def quoted(word: str) -> str:
    """Return a word as a shell takes it."""
    return "'" + word.replace("'", "'\\''") + "'"
