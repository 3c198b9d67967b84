"""What the tests of the whole launcher share: scripts for workers, and launchers to run them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Return a function that writes a worker's script and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "worker.py"
        path.write_text("import json, os, signal, sys, time\n" + textwrap.dedent(text))
        return str(path)

    return write


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts the launcher, with options for Popen.

    What still runs at the end is killed.
    """
    started: list[subprocess.Popen[str]] = []

    def run(*args: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PET_", "OMP_"))}
        home = {
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_RUNTIME_DIR": "",
            "TMPDIR": str(tmp_path / "tmp"),
        }
        (tmp_path / "tmp").mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", *args],
            text=True,
            env={**inherited, "PYTHONPATH": str(ROOT), **home, **(env or {})},
            **{"stdout": PIPE, "stderr": PIPE, "cwd": tmp_path, **options},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a launcher, and return its exit status, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=20)
    return process.returncode, stdout, stderr


def wait_for_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    """Return that many lines of a launcher's stdout, in order of their text."""
    assert process.stdout is not None
    return sorted(process.stdout.readline().rstrip("\n") for _ in range(count))


def gone(pids: list[int], within: float) -> bool:
    """Return whether none of the processes runs any more after so many seconds."""
    deadline = time.monotonic() + within
    while left := [pid for pid in pids if _runs(pid)]:
        if time.monotonic() > deadline:
            return False
        psutil.wait_procs([psutil.Process(pid) for pid in left if _runs(pid)], timeout=0.02)
    return True


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
