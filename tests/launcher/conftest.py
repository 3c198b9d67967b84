"""What the tests of the whole launcher share: scripts for workers, and launchers to run them."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

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
