"""``launcher status``, ``logs`` and ``stop`` on real launches."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.rendezvous.meeting import free_port

pytestmark = pytest.mark.slow  # each starts a launcher, a guardian and workers

Start = Callable[..., "subprocess.Popen[str]"]
WORKER = """
print("hello from", os.environ["RANK"], flush=True)
time.sleep(60)
"""


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a launcher, and return its exit status, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=20)
    return process.returncode, stdout, stderr


def wait_for(start: Start, runs: int) -> list[dict[str, Any]]:
    """Return the status of all launches once so many have all their workers running."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status, stdout, stderr = finish(start("status", "--json"))
        assert status == 0, stderr
        found: list[dict[str, Any]] = json.loads(stdout)
        if len(found) == runs and all(run["state"] == "HEALTHY" for run in found):
            return found
    raise AssertionError(f"not {runs} launches: {found}")


def test_without_a_launch_it_says_so(start: Start) -> None:
    """A list of none is no failure; something to be done with one is."""
    none = "no launch of this user is running on this machine\n"

    assert finish(start("status")) == (0, none, "")
    assert finish(start("status", "--json")) == (0, "[]\n", "")
    assert finish(start("stop")) == (1, "", f"launcher: {none}")
    assert finish(start("logs")) == (
        1,
        "",
        f"launcher: {none[:-1]}; logs of those that have ended are in their --log-dir\n",
    )
    status, _, stderr = finish(start("status", "nobody"))
    assert (status, stderr.startswith("launcher: nobody: no such launch")) == (1, True)
    assert finish(start("stop", "--now"))[::2] == (
        2,
        "launcher: stop: unrecognized arguments: --now\n",
    )


def test_several_launches(script: Callable[[str], str], start: Start, tmp_path: Path) -> None:
    """All are listed, one is named and stopped, the other goes on."""
    path = script(WORKER)
    first = start("--rdzv-id=first", "--nproc-per-node=2", path)
    second = start("--rdzv-id=second", path)
    runs = {run["run_id"]: run for run in wait_for(start, 2)}
    assert {run["pid"] for run in runs.values()} == {first.pid, second.pid}
    _, table, _ = finish(start("status"))
    status, _, stderr = finish(start("stop"))
    assert (status, "stop: expected the run id or pid of one of " in stderr) == (1, True)
    stopped = finish(start("stop", "first"))

    assert "RUN     PID" in table
    assert f"  rank 1 (local_rank 1, pid {runs['first']['workers'][1]['pid']}): HEALTHY" in table
    assert stopped == (0, f"stopping first (pid {first.pid})\n", "")
    assert finish(first)[0] == 143
    assert second.poll() is None
    assert finish(start("stop", str(second.pid)))[0] == 0
    assert finish(second)[0] == 143
    assert os.listdir(tmp_path / "tmp") == []


def test_logs_of_a_launch(script: Callable[[str], str], start: Start, tmp_path: Path) -> None:
    """Of all workers or of one, now or until the end; a launch without log files says so."""
    path = script(WORKER)
    launch = start("--nproc-per-node=2", "--log-dir=logs", "-r3", path)
    wait_for(start, 1)
    deadline = time.monotonic() + 20
    while len(lines := finish(start("logs", cwd="/"))[1].splitlines()) < 2:
        assert time.monotonic() < deadline
    following = start("logs", "--follow", "--rank", "1")
    assert following.stdout is not None
    first = following.stdout.readline()
    finish(start("stop"))

    assert sorted(lines) == ["[rank 0] hello from 0", "[rank 1] hello from 1"]
    assert first == "hello from 1\n"
    assert finish(launch)[0] == 143
    assert finish(following)[:2] == (0, "")


def test_a_launch_that_waits_for_nodes_has_no_workers_yet(
    script: Callable[[str], str], start: Start
) -> None:
    """Nobody has a rank, and nobody writes logs."""
    launch = start(
        "--rdzv-id=r", "--nnodes=2", f"--rdzv-endpoint=127.0.0.1:{free_port()}", script(WORKER)
    )
    deadline = time.monotonic() + 20
    while not (found := json.loads(finish(start("status", "--json"))[1])):
        assert time.monotonic() < deadline

    assert found[0]["workers"] == []
    assert finish(start("logs"))[::2] == (
        1,
        "launcher: r: no worker has been started on this node yet\n",
    )
    launch.terminate()
    assert finish(launch)[0] == 143


def test_a_launch_without_log_files(script: Callable[[str], str], start: Start) -> None:
    """What to do about it is told."""
    launch = start("--rdzv-id=r", script(WORKER))
    wait_for(start, 1)

    assert finish(start("logs"))[::2] == (
        1,
        "launcher: r: no log files are kept; launch with --log-dir DIR and -t 3 or -r 3\n",
    )
    finish(start("stop"))
    finish(launch)


def test_a_killed_launcher_leaves_no_socket(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """Its guardian removes it."""
    launch = start(script(WORKER))
    wait_for(start, 1)
    launch.kill()
    finish(launch)
    deadline = time.monotonic() + 10
    while sockets := list((tmp_path / "tmp").rglob("*.sock")):
        assert time.monotonic() < deadline, sockets
        time.sleep(0.05)

    assert finish(start("status"))[0] == 0
