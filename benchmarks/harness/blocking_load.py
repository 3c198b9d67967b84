"""The same load for peers whose calls block or give futures: a window of 128 futures."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from harness.budget import IN_FLIGHT, SIZES, Budget, small_value
from harness.cpu import cpu_seconds, pinned_to_one_core, pinned_to_own_cores
from harness.loss import lose_blocking
from harness.samples import latency, rate, size_figures

__all__ = ("BlockingClient", "run_load")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockingClient:
    """What a peer gives to the load."""

    call: Callable[[Any], object]
    """Echo one small value or a bytes."""

    start: Callable[[Any], Callable[[], object]]
    """Start an echo; return the function that waits for its result."""

    start_hang: Callable[[], Callable[[], object]]
    """Start what never answers, without a timeout; return the function that waits for it."""

    send_array: Callable[[Any], object]
    """Send a numpy array; return when the server has all of it."""

    echo_array: Callable[[Any], object]
    """Send a numpy array and get an equal one back."""


def run_load(
    client: BlockingClient, spec: dict[str, object], value: object = None
) -> dict[str, float]:
    """Run everything in order and return the figures, or those of the server's loss.

    Args:
        client: the connected peer.
        spec: what the parent gave (`harness.role`): budget, server_pid, small; or, for
            `harness.loss`, signal and patience.
        value: the small argument; None means the one every peer gets.
    """
    if "signal" in spec:
        return lose_blocking(client.start_hang, spec)
    budget = Budget(**spec["budget"])  # type: ignore[arg-type]
    server_pid = int(spec["server_pid"])  # type: ignore[call-overload]
    value = small_value(str(spec["small"])) if value is None else value
    _check_echo(client, value)
    figures = _sequential(client, value, budget, server_pid)
    figures |= _in_flight(client, value, budget, server_pid)
    for label, size in SIZES.items():
        seconds = _repeat(client.call, os.urandom(size), budget.size_calls, budget.size_seconds)
        figures |= size_figures(label, size, seconds)
    return figures | _arrays(client, budget)


def _check_echo(client: BlockingClient, value: object) -> None:
    for sample in (value, b"\x00\xff" * 40_000):
        answer = client.call(sample)
        if answer != sample:
            raise ValueError(f"the echo of {str(sample)[:40]} is {str(answer)[:40]}")


def _sequential(
    client: BlockingClient, value: object, budget: Budget, server_pid: int
) -> dict[str, float]:
    _repeat(client.call, value, 500, 0.2)  # warm up
    seconds = _repeat(client.call, value, budget.sequential_calls, budget.sequential_seconds)
    figures = latency(seconds, "sequential")
    for prefix, pin in (("pinned", pinned_to_one_core), ("apart", pinned_to_own_cores)):
        with pin((os.getpid(), server_pid)):
            seconds = _repeat(
                client.call, value, budget.sequential_calls // 2, budget.sequential_seconds / 2
            )
        figures |= latency(seconds, prefix)
    return figures


def _in_flight(
    client: BlockingClient, value: object, budget: Budget, server_pid: int
) -> dict[str, float]:
    _flood(client, value, budget.flight_calls // 10, budget.flight_seconds / 5)
    pids = (os.getpid(), server_pid)
    cpu_before = [cpu_seconds(pid) for pid in pids]
    start = perf_counter()
    calls = _flood(client, value, budget.flight_calls, budget.flight_seconds)
    elapsed = perf_counter() - start
    used = [cpu_seconds(pid) - before for pid, before in zip(pids, cpu_before, strict=True)]
    return {
        "in_flight_calls_s": calls / elapsed,
        "client_cpu_s_100k": used[0] / calls * 1e5,
        "server_cpu_s_100k": used[1] / calls * 1e5,
    }


def _flood(client: BlockingClient, value: object, calls: int, seconds: float) -> int:
    """Keep a window of 128 futures; return how many calls were answered."""
    window: deque[Callable[[], object]] = deque()
    end = perf_counter() + seconds
    done = 0
    while done + len(window) < calls and perf_counter() < end:
        if len(window) == IN_FLIGHT:
            window.popleft()()
            done += 1
        window.append(client.start(value))
    while window:
        window.popleft()()
        done += 1
    return done


def _arrays(client: BlockingClient, budget: Budget) -> dict[str, float]:
    import numpy as np

    array = np.arange(budget.array_bytes // 4, dtype=np.float32)
    start = perf_counter()
    answer: Any = client.echo_array(array)
    first = perf_counter() - start
    if not np.array_equal(answer, array):
        raise ValueError("the echo of the array differs")
    del answer
    sent = _repeat(client.send_array, array, budget.array_calls, budget.array_seconds)
    if first > budget.array_seconds:
        echoed = [first]  # a warm-up would not change what takes seconds
    else:
        echoed = _repeat(client.echo_array, array, budget.array_calls, budget.array_seconds)
    return {
        "array_send_gb_s": rate(array.nbytes / 1e9, sent),
        "array_echo_gb_s": rate(2 * array.nbytes / 1e9, echoed),
    }


def _repeat(
    call: Callable[[object], object], value: object, calls: int, seconds: float
) -> list[float]:
    """Call one after the other, at least once; return the seconds of each."""
    samples = []
    end = perf_counter() + seconds
    for _ in range(calls):
        start = perf_counter()
        call(value)
        stop = perf_counter()
        samples.append(stop - start)
        if stop > end:
            break
    return samples
