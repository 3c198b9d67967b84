"""A server process and client processes on loopback, bounded in time, ended by handle.

Parent's side of `harness.role`. Starts, waits, ends only the processes it started.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

__all__ = ("PairError", "free_port", "run_clients", "run_pair", "serving")

_BENCHMARKS = Path(__file__).resolve().parent.parent

START_TIMEOUT = 60.0
"""Seconds for a server to say it is ready; importing torch on a busy machine takes many."""


class PairError(Exception):
    """A process of the pair failed, said nothing, or took too long."""


class Child:
    """One process that runs `harness.role`; its standard error goes to a file."""

    def __init__(self, spec: dict[str, object], folder: Path) -> None:
        self._errors = (folder / f"{spec['role']}-{time.monotonic_ns()}.err").open("w+b")
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.role", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(),
            cwd=folder,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def read_message(self, timeout: float) -> dict[str, object]:
        """Return the next JSON line. Raises PairError on end of file, error or timeout."""
        deadline = time.monotonic() + timeout
        while True:
            line = self._next_line(deadline)
            if line.startswith(b"{"):  # some peers print to standard output themselves
                message: dict[str, object] = json.loads(line)
                if "error" in message:
                    raise PairError(str(message["error"]))
                return message

    def _next_line(self, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise PairError("took too long")
            data = os.read(self._stdout.fileno(), 1 << 16)
            if not data:
                raise PairError(f"process ended: {self._last_error_line()}")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _last_error_line(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def close(self) -> None:
        """Ask the process to end by closing its input, then kill it."""
        self._stdin.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()
        self._errors.close()


def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago (for peers that cannot bind 0)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_pair(spec: dict[str, object], *, limit: float) -> dict[str, float]:
    """Start a server and one client, return the client's result, end both.

    Args:
        spec: what `harness.role` wants; role, limit, folder, port, endpoint are added here.
        limit: seconds the client may take, start-up included.

    Raises:
        PairError: either process failed or was too slow.
    """
    with serving(spec, limit=limit) as client_spec:
        return run_clients(client_spec, count=1, limit=limit)[0]


@contextmanager
def serving(spec: dict[str, object], *, limit: float) -> Iterator[dict[str, object]]:
    """Run a server for the body; yield the spec that its clients need."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_bytes(os.urandom(32))
        full = spec | {"folder": name, "port": free_port(), "limit": START_TIMEOUT + 4 * limit}
        server = Child(full | {"role": "server"}, folder)
        try:
            message = server.read_message(START_TIMEOUT)
            yield full | {"endpoint": message["ready"], "server_pid": message["pid"]}
        finally:
            server.close()


def run_clients(spec: dict[str, object], *, count: int, limit: float) -> list[dict[str, float]]:
    """Run `count` client processes at the same time and return their results in order."""
    folder = Path(str(spec["folder"]))
    deadline = time.monotonic() + limit
    with ExitStack() as stack:
        children = []
        for _ in range(count):
            child = Child(spec | {"role": "client", "limit": limit}, folder)
            stack.callback(child.close)
            children.append(child)
        results = [child.read_message(deadline - time.monotonic()) for child in children]
    return [cast("dict[str, float]", result["result"]) for result in results]


def _environment() -> dict[str, str]:
    paths = [str(_BENCHMARKS), str(_BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
