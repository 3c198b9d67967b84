"""``--health-port`` of a real launcher."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.slow  # each starts a launcher, a guardian and workers

Start = Callable[..., "subprocess.Popen[str]"]


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def get(port: int, path: str) -> str:
    """Return a page of the launcher."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_pages_show_the_run(
    script: Callable[[str], str], start: Start, by_variable: bool
) -> None:
    """Its workers, while one runs and one has ended."""
    path = script(
        """
        print(os.getpid(), flush=True)
        if os.environ["RANK"] == "0":
            time.sleep(60)
        """
    )
    port = free_port()
    env = {"TORCHELASTIC_HEALTH_CHECK_PORT": str(port)} if by_variable else {}
    options = [] if by_variable else [f"--health-port={port}"]
    process = start("--nproc-per-node=2", "--rdzv-id=mine", *options, path, env=env)
    assert process.stdout is not None
    pids = {int(process.stdout.readline()) for _ in range(2)}
    while (status := json.loads(get(port, "/status")))["workers"][1]["state"] != "SUCCEEDED":
        assert process.poll() is None

    assert (status["run_id"], status["round"], status["nodes"]) == ("mine", 0, 1)
    assert status["name"] == path
    assert {worker["pid"] for worker in status["workers"]} == pids
    assert [worker["state"] for worker in status["workers"]] == ["HEALTHY", "SUCCEEDED"]
    assert [worker["rank"] for worker in status["workers"]] == [0, 1]
    assert get(port, "/healthz") == "ok: HEALTHY\n"
    assert 'launcher_workers{state="HEALTHY"} 1\n' in get(port, "/metrics")
    os.kill(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 143, stderr
    with pytest.raises(urllib.error.URLError):
        get(port, "/healthz")


def test_a_port_in_use_is_named(script: Callable[[str], str], start: Start) -> None:
    """Before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(f"--health-port={port}", script("print('started')"))
        stdout, stderr = process.communicate(timeout=20)

    assert (process.returncode, stdout) == (2, "")
    assert stderr == (
        f"launcher: --health-port={port}: cannot listen there: Address already in use\n"
    )
