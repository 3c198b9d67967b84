"""rpyc with values only: what it sends by value (tuples, bytes, numbers), never a proxy.

A dict would travel as a reference and cost a call for every look into it, so containers are sent as
nested tuples and both sides see the same data. Arrays travel as dtype, shape and bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import rpyc
from rpyc.utils.server import ThreadedServer

from harness.blocking_load import BlockingClient, run_load
from harness.budget import small_value

__all__ = ("measure", "serve")


class _Service(rpyc.Service):  # type: ignore[misc]  # rpyc has no types
    def exposed_echo(self, value: object) -> object:
        return value

    def exposed_take(self, array: object) -> int:
        return _array_from(array).nbytes

    def exposed_hang(self) -> None:
        threading.Event().wait()


def serve(_spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve until killed."""
    server = ThreadedServer(_Service, hostname="127.0.0.1", port=0)
    ready(str(server.port))
    server.start()


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run the load."""
    connection = rpyc.connect("127.0.0.1", int(str(spec["endpoint"])))
    try:
        calls = _Calls(connection)
        client = BlockingClient(
            call=calls.echo,
            start=calls.start,
            start_hang=calls.start_hang,
            send_array=calls.send_array,
            echo_array=calls.echo_array,
        )
        return run_load(client, spec, value=_frozen(small_value(str(spec["small"]))))
    finally:
        connection.close()


class _Calls:
    def __init__(self, connection: rpyc.Connection) -> None:
        self.echo = connection.root.echo
        self._take = connection.root.take
        self._echo_async = rpyc.async_(connection.root.echo)
        self._hang_async = rpyc.async_(connection.root.hang)

    def start(self, value: object) -> Callable[[], object]:
        return _waiter(self._echo_async(value))

    def start_hang(self) -> Callable[[], object]:
        return _waiter(self._hang_async())

    def send_array(self, array: np.ndarray) -> object:
        return self._take(_array_to(array))

    def echo_array(self, array: np.ndarray) -> object:
        return _array_from(self.echo(_array_to(array)))


def _waiter(result: Any) -> Callable[[], object]:
    def wait() -> object:
        result.wait()
        return result.value

    return wait


def _frozen(value: object) -> object:
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return value


def _array_to(array: np.ndarray) -> tuple[object, ...]:
    return array.dtype.str, array.shape, array.tobytes()


def _array_from(message: Any) -> np.ndarray:
    dtype, shape, data = message
    return np.frombuffer(data, dtype=dtype).reshape(shape)
