"""Functions that the tests of the api have their workers run."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path


def rank_plus(number: int) -> int:
    """Return a number for each rank."""
    return number + int(os.environ["RANK"])


def rank_zero_fails() -> None:
    """Raise in one worker, and have the other stopped."""
    if os.environ["RANK"] == "0":
        raise RuntimeError("boom")
    time.sleep(100)


def fail_once(path: str) -> int:
    """Raise in the first round."""
    if os.environ["RANK"] == "0" and not Path(path).exists():
        Path(path).touch()
        raise RuntimeError("boom")
    while not Path(path).exists():
        time.sleep(0.01)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        time.sleep(100)
    return int(os.environ["TORCHELASTIC_RESTART_COUNT"])


def sum_of_ranks() -> int:
    """Add up the ranks of all workers at MASTER_ADDR:MASTER_PORT, where the first one listens."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if rank > 0:
        with _connect(address) as connection:
            connection.sendall(bytes([rank]))
            return connection.recv(1)[0]
    with socket.create_server(address) as server:
        others = [server.accept()[0] for _ in range(size - 1)]
    total = sum(connection.recv(1)[0] for connection in others)
    for connection in others:
        connection.sendall(bytes([total]))
        connection.close()
    return total


def _connect(address: tuple[str, int]) -> socket.socket:
    for _ in range(1000):
        try:
            return socket.create_connection(address, timeout=10)
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise TimeoutError(f"nobody listens on {address}")


def clean_up(folder: str) -> None:
    """Wait for SIGTERM and leave a trace of it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        Path(folder, "ready").touch()
        time.sleep(100)
    finally:
        Path(folder, "cleaned").touch()


def processors() -> list[int]:
    """Return those this process may use."""
    return sorted(os.sched_getaffinity(0))
