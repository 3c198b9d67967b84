"""Two nodes of one run, of which one is killed: until workers run in a round without it.

Standard library only. Nodes are launcher processes; their workers note when they run, and end with
the folder of the measurement, so that those that a launcher leaves behind are gone as well.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from harness.launches import launch_environment, worker_script
from harness.pairs import free_port

__all__ = ("Node", "own_node", "survive", "torch_node")

_START = 40.0  # seconds for two nodes to run; importing torch on a busy machine takes many
_POLL = 0.005

Node = Callable[[int], list[str]]
"""The port where the nodes of a run meet, to a command line without the script."""


def own_node(port: int) -> list[str]:
    """Return the command line of a node of this project's launcher."""
    return [sys.executable, "-m", "launcher", "--rdzv-backend=tcp", *_options(port)]


def torch_node(python: str) -> Node:
    """Return the command line maker for torchrun in another interpreter."""

    def command(port: int) -> list[str]:
        return [python, "-m", "torch.distributed.run", "--rdzv-backend=c10d", *_options(port)]

    return command


def survive(node: Node, kind: signal.Signals, patience: float) -> float | None:
    """Send one of two nodes a signal; return the seconds until the other one's worker runs anew.

    Args:
        node: how to start a node.
        kind: SIGKILL, or SIGSTOP for a node that goes silent; for the one without the store.
        patience: seconds to wait for that.

    Returns:
        The seconds; ``None`` if it did not come to it.

    Raises:
        TimeoutError: the two nodes did not come to run.
    """
    with _two_nodes(node) as (folder, nodes):
        _wait_for([folder / "up-2-0.time", folder / "up-2-1.time"], nodes, _START)
        lost = nodes.pop()
        start = time.monotonic()
        lost.send_signal(kind)
        again = folder / "up-1-0.time"
        try:
            _wait_for([again], nodes, patience)
        except TimeoutError:
            return None
        return float(again.read_text()) - start


@contextmanager
def _two_nodes(node: Node) -> Iterator[tuple[Path, list[subprocess.Popen[bytes]]]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        port = free_port()
        nodes: list[subprocess.Popen[bytes]] = []
        for _ in range(2):
            nodes.append(_start(node(port), folder))
            stack.callback(_end, nodes[-1])
            _wait_for_listener(port, nodes)  # so that the first one has the store
        yield folder, nodes


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    secret = folder / "secret"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_bytes(os.urandom(32))
    return subprocess.Popen(
        [*command, worker_script(), "survive"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=launch_environment(str(folder)) | {"ASYNCRPC_SECRET_FILE": str(secret)},
        cwd=folder,
        start_new_session=True,
    )


def _end(node: subprocess.Popen[bytes]) -> None:
    node.kill()
    node.wait()


def _wait_for(files: list[Path], nodes: list[subprocess.Popen[bytes]], limit: float) -> None:
    deadline = time.monotonic() + limit
    while not all(file.exists() for file in files):
        if time.monotonic() > deadline or any(node.poll() is not None for node in nodes):
            raise TimeoutError(f"no {files[-1].stem} after {limit:g} s, or a node has ended")
        time.sleep(_POLL)


def _wait_for_listener(port: int, nodes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline and nodes[0].poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(_POLL)
    raise TimeoutError(f"the first node does not listen on port {port}, or has ended")


def _options(port: int) -> list[str]:
    return [
        "--nnodes=1:2",
        "--nproc-per-node=1",
        "--max-restarts=3",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=bench",
        "--rdzv-conf=keep_alive_interval=1,keep_alive_max_attempt=3",
    ]
