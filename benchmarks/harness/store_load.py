"""The load of a store client process; the module named by `spec["store"]` is the store.

An awaited store module has `serve`, `run` and `await connect(spec)`, and `BARRIERS` if not all
sizes suit it; a blocking one `serve`, `connect(spec)` and `barrier_seconds`. Both clients have
`set`, `get`, `add`, `wait`, `compare_set`, `barrier`. `serve` and `measure` here are what
`harness.role` calls.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import statistics
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, process_time
from typing import Any

from harness.cpu import cpu_seconds

__all__ = ("measure", "serve")

_IN_FLIGHT = 64
_BARRIERS = (64, 256)
_VALUE = b"x" * 32


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve the store until killed."""
    importlib.import_module(str(spec["store"])).serve(spec, ready)


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run one client's load: all figures, or rate and CPU time when several start it together."""
    module = importlib.import_module(str(spec["store"]))
    seconds = float(spec["seconds"])  # type: ignore[arg-type]
    if not hasattr(module, "run"):
        return _measure_blocking(module, spec, seconds)
    result: dict[str, float] = module.run(_measure_awaited(module, spec, seconds))
    return result


def _operations(store: Any, key: str) -> dict[str, Callable[[], Any]]:
    """Return the operations on a key that exists."""
    return {
        "set": lambda: store.set(key, _VALUE),
        "get": lambda: store.get(key),
        "add": lambda: store.add(f"{key}/n", 1),
        "wait": lambda: store.wait(key),
        "compare_set": lambda: store.compare_set(key, _VALUE, _VALUE),
    }


@contextmanager
def _cpu(spec: dict[str, object]) -> Iterator[dict[str, float]]:
    """Add what the body costs: `seconds` of the clock, `client_cpu` and `server_cpu` seconds."""
    used: dict[str, float] = {}
    server = int(str(spec["server_pid"]))
    start, mine, its = perf_counter(), process_time(), cpu_seconds(server)
    yield used
    used["server_cpu"] = cpu_seconds(server) - its
    used["client_cpu"] = process_time() - mine
    used["seconds"] = perf_counter() - start


def _measure_blocking(module: Any, spec: dict[str, object], seconds: float) -> dict[str, float]:
    store = module.connect(spec)
    operations = _operations(store, f"key{os.getpid()}")
    operations["set"]()
    if spec["mixed"]:
        store.barrier("start", spec["processes"])
        with _cpu(spec) as used:
            used["rate"] = _rate_blocking(_in_turn(operations), seconds)
        return used
    figures = {name: _rate_blocking(call, seconds) for name, call in operations.items()}
    for count in _BARRIERS:
        figures[f"barrier_{count}_ms"] = 1e3 * statistics.median(
            module.barrier_seconds(spec, count, 3)
        )
    return figures


def _rate_blocking(call: Callable[[], object], seconds: float) -> float:
    start = perf_counter()
    calls = 0
    while perf_counter() - start < seconds:
        for _ in range(10):
            call()
        calls += 10
    return calls / (perf_counter() - start)


async def _measure_awaited(
    module: Any, spec: dict[str, object], seconds: float
) -> dict[str, float]:
    store = await module.connect(spec)
    operations = _operations(store, f"key{os.getpid()}")
    await operations["set"]()
    if spec["mixed"]:
        await store.barrier("start", spec["processes"])
        with _cpu(spec) as used:
            used["rate"] = await _rate(_in_turn(operations), seconds, 1)
        return used
    figures = {name: await _rate(call, seconds, 1) for name, call in operations.items()}
    for name, call in operations.items():
        figures[f"{name}_in_flight"] = await _rate(call, seconds, _IN_FLIGHT)
    for count in getattr(module, "BARRIERS", _BARRIERS):
        figures[f"barrier_{count}_ms"] = 1e3 * await _barrier(module, spec, count)
    await store.close()
    return figures


async def _rate(call: Callable[[], Awaitable[object]], seconds: float, in_flight: int) -> float:
    start = perf_counter()
    end = start + seconds
    calls = 0

    async def caller() -> None:
        nonlocal calls
        while perf_counter() < end:
            await call()
            calls += 1

    await asyncio.gather(*[caller() for _ in range(in_flight)])
    return calls / (perf_counter() - start)


async def _barrier(module: Any, spec: dict[str, object], count: int) -> float:
    """Return the median seconds of a barrier of `count` connections of this loop."""
    stores = [await module.connect(spec) for _ in range(count)]
    samples = []
    for index in range(3):
        start = perf_counter()
        await asyncio.gather(*[store.barrier(f"b{count}-{index}", count) for store in stores])
        samples.append(perf_counter() - start)
    for store in stores:
        await store.close()
    return statistics.median(samples)


def _in_turn(operations: dict[str, Callable[[], Any]]) -> Callable[[], Any]:
    """Return a call that does get, add, wait and compare_set in turn.

    Not set: torch's set does not wait for an answer, so it would not be the same work.
    """
    calls = [operations[name] for name in ("get", "add", "wait", "compare_set")]
    turn = 0

    def call() -> Any:
        nonlocal turn
        turn += 1
        return calls[turn % len(calls)]()

    return call
