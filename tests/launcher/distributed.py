"""Agents on hosts with a network between them: what the tests of several hosts share."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from launcher.testing import NetLab, missing_for_netlab

__all__ = ("WORKER", "Hosts", "needs_hosts")

ROOT = Path(__file__).parents[2]
T = TypeVar("T")

needs_hosts = pytest.mark.skipif(
    bool(missing_for_netlab()), reason=missing_for_netlab() or "nothing lacks"
)
"""Skips a test where hosts cannot be made."""

WORKER = """
names = ("RANK", "WORLD_SIZE", "LAUNCHER_ROUND", "MASTER_ADDR", "LAUNCHER_STORE",
         "JAX_COORDINATOR_ADDRESS")
print(json.dumps({**{name: os.environ[name] for name in names}, "pid": os.getpid()}), flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
"""
"""Tells who it is, then waits until it may end."""


class Hosts:
    """A `NetLab` for tests that block, with agents on its hosts.

    Args:
        folder: where scripts, secrets and agents live; all hosts see it.
        names: of the hosts.
        options: of the `NetLab`.
    """

    def __init__(self, folder: Path, *names: str, **options: Any) -> None:
        self.folder = folder
        self.lab = NetLab(*names, **options)
        self._runner = asyncio.Runner()
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        self._runner.run(self.lab.__aenter__())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self.lab.__aexit__(None, None, None))
        for process in self._started:
            process.communicate(timeout=20)
        self._runner.close()

    def do(self, fault: Coroutine[Any, Any, T]) -> T:
        """Carry out a method of the lab."""
        return self._runner.run(fault)

    def start(self, host: str, *argv: str, **variables: str) -> subprocess.Popen[str]:
        """Start a Python program on a host."""
        return self.run(host, sys.executable, *argv, **variables)

    def run(self, host: str, *argv: str, **variables: str) -> subprocess.Popen[str]:
        """Start a program on a host."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PET_", "ASYNCRPC_"))}
        process = subprocess.Popen(
            self.lab.command(host, *argv),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.folder,
            env={
                **kept,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "XDG_CONFIG_HOME": str(self.folder / "config"),
                "XDG_RUNTIME_DIR": "",
                **variables,
            },
        )
        self._started.append(process)
        return process

    def agent(
        self, host: str, *options: str, script: str = WORKER, **variables: str
    ) -> subprocess.Popen[str]:
        """Start an agent on a host; its store is on the first host unless said otherwise."""
        path = self.folder / "worker.py"
        path.write_text("import json, os, signal, sys, time\n" + textwrap.dedent(script))
        where = f"--rdzv-endpoint={self.lab.address(self.lab.hosts[0])}"
        return self.start(host, "-m", "launcher", where, *options, str(path), **variables)

    def wait_for_port(self, host: str, port: int) -> None:
        """Wait until something on a host listens at a port."""
        for _ in range(500):
            command = self.lab.command(host, "ss", "-ltnH", f"sport = :{port}")
            if subprocess.run(command, check=True, capture_output=True, timeout=10).stdout:
                return
            time.sleep(0.02)
        raise TimeoutError(f"{host}: nothing listens at {port}")

    def signal(self, host: str, number: signal.Signals) -> None:
        """Send a signal to everything that runs on a host."""
        listed = self.do(self.lab.processes(host))
        for pid in listed:
            os.kill(pid, number)

    def go(self) -> None:
        """Let the workers end."""
        (self.folder / "go").touch()


def facts_of(agent: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for an agent's worker in the next round; return what it was told."""
    assert agent.stdout is not None
    line = agent.stdout.readline()
    assert line, agent.communicate()
    facts: dict[str, Any] = json.loads(line)
    return facts


def world(fact: dict[str, Any]) -> tuple[int, ...]:
    """Return a worker's rank, the size of its world, and the round."""
    return tuple(int(fact[name]) for name in ("RANK", "WORLD_SIZE", "LAUNCHER_ROUND"))


def finish(agent: subprocess.Popen[str], timeout: float = 30.0) -> tuple[int, str]:
    """Wait for an agent; return its exit status and stderr."""
    _, stderr = agent.communicate(timeout=timeout)
    return agent.returncode, stderr


def labels(text: str) -> list[str]:
    """Return the hosts of the agents that a text names."""
    return re.findall(r"(\S+) \(agent \d+\)", text)
