"""torch's TCPStore (the C++ one, libuv server), which blocks: threads where many clients wait.

The server is given a socket bound to 127.0.0.1, since by itself it listens on every interface.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from time import perf_counter

from torch.distributed import TCPStore

__all__ = ("barrier_seconds", "connect", "serve")

_TIMEOUT = timedelta(seconds=30)


def serve(_spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve a store until killed."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    port = listener.getsockname()[1]
    store = TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=_TIMEOUT,
        master_listen_fd=listener.fileno(),
    )
    ready(str(port))
    threading.Event().wait()
    del store


class _Store:
    def __init__(self, store: TCPStore) -> None:
        self.set, self.get, self.add = store.set, store.get, store.add
        self.compare_set = store.compare_set
        self._store = store

    def wait(self, key: str) -> None:
        self._store.wait([key], _TIMEOUT)

    def barrier(self, key: str, world_size: int) -> None:
        """Return once `world_size` clients have called it, by `add` and `wait`."""
        if self.add(f"{key}/count", 1) == world_size:
            self.set(f"{key}/done", b"1")
        self.wait(f"{key}/done")


def connect(spec: dict[str, object]) -> _Store:
    """Open one connection."""
    port = int(str(spec["endpoint"]))
    return _Store(TCPStore("127.0.0.1", port, is_master=False, timeout=_TIMEOUT))


def barrier_seconds(spec: dict[str, object], count: int, repeats: int) -> list[float]:
    """Return the seconds of each of `repeats` barriers of `count` threads."""
    stores = [connect(spec) for _ in range(count)]
    samples = []
    for index in range(repeats):
        gate = threading.Barrier(count + 1)
        threads = [
            threading.Thread(target=_enter, args=(store, gate, f"b{count}-{index}", count))
            for store in stores
        ]
        for thread in threads:
            thread.start()
        gate.wait()
        start = perf_counter()
        for thread in threads:
            thread.join()
        samples.append(perf_counter() - start)
    return samples


def _enter(store: _Store, gate: threading.Barrier, key: str, count: int) -> None:
    gate.wait()
    store.barrier(key, count)
