"""CPU time and CPU affinity of this process and of another one (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ("cpu_seconds", "pinned_to_one_core", "pinned_to_own_cores")


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds used by all threads of a process, to the nanosecond.

    Source: clock_getcpuclockid(3) as glibc computes it: the inverted pid, shifted by three, with
    CPUCLOCK_SCHED (2) in the low bits. /proc/<pid>/stat would only count in 10 ms steps.
    """
    return time.clock_gettime((~pid << 3) | 2)


@contextmanager
def pinned_to_one_core(pids: tuple[int, ...]) -> Iterator[None]:
    """Keep every thread of these processes on one core during the body."""
    with _pinned({pid: max(os.sched_getaffinity(0)) for pid in pids}):
        yield


@contextmanager
def pinned_to_own_cores(pids: tuple[int, ...]) -> Iterator[None]:
    """Keep every thread of each process on a core of its own, as far as there are so many."""
    cores = sorted(os.sched_getaffinity(0))
    with _pinned({pid: cores[index % len(cores)] for index, pid in enumerate(pids)}):
        yield


@contextmanager
def _pinned(places: dict[int, int]) -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    try:
        for pid, core in places.items():
            _pin(pid, {core})
        yield
    finally:
        for pid in places:
            _pin(pid, allowed)


def _pin(pid: int, cores: set[int]) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            os.sched_setaffinity(int(task.name), cores)
        except ProcessLookupError:
            continue  # a thread that ended meanwhile
