"""Functions that the tests of the api have their workers run."""

from __future__ import annotations

import os
import signal
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
