"""One point of a curve, in a process of its own: `python -m growth.point MODULE SIZE`.

Prints one JSON line with the figures, or with what went wrong.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

__all__ = ("Held", "main", "resident", "timed")


def main(arguments: list[str]) -> int:
    """Measure one size and print the figures; 0 if there are any."""
    module, size = arguments
    _allow_many_files()
    try:
        figures = importlib.import_module(module).measure(int(size))
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 1
    print(json.dumps(figures))
    return 0


def resident() -> int:
    """Return the bytes of memory that this process has now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Held:
    """Notes how much memory the process has beyond what it had at the start."""

    def __init__(self) -> None:
        gc.collect()
        self._before = resident()

    def bytes(self) -> int:
        """Return what is held beyond the start, in bytes."""
        return max(0, resident() - self._before)


async def timed(work: Callable[[], Awaitable[object]], rounds: int = 3) -> float:
    """Return the seconds of the fastest of some rounds: the one least disturbed."""
    best = float("inf")
    for _ in range(rounds):
        await asyncio.sleep(0)
        start = perf_counter()
        await work()
        best = min(best, perf_counter() - start)
    return best


def _allow_many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
