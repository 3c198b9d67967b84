"""Functions that the tests of function workers run in them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def echo(*values: object) -> object:
    """Print and return the arguments, on both streams."""
    print(*values)
    print(*values, file=sys.stderr)
    return values[0] if len(values) == 1 else values


def nothing() -> None:
    """Return nothing."""


def fail(text: str) -> None:
    """Raise."""
    raise RuntimeError(text)


def fail_or_wait(is_failing: bool) -> None:
    """Raise, or wait for the end."""
    if is_failing:
        raise RuntimeError("boom")
    time.sleep(100)


def leave(status: object) -> None:
    """Say so, and end by sys.exit."""
    print(f"exit {status}", file=sys.stderr)
    sys.exit(status)  # type: ignore[arg-type]


def crash() -> None:
    """Read where nothing is."""
    ctypes.string_at(0)


def table(size: int) -> dict[str, int]:
    """Return a big dict."""
    return {f"key {number}": number for number in range(size)}


def array(size: int) -> Any:
    """Return an array of doubles."""
    import numpy as np

    return np.arange(size, dtype=np.float64)


def lock() -> object:
    """Return what cannot be pickled."""
    return __import__("threading").Lock()


class OnlyHere:
    """Can be pickled, and unpickled nowhere else."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return _only_in, (os.getpid(),)


def _only_in(pid: int) -> OnlyHere:
    if os.getpid() != pid:
        raise LookupError("made in another process")
    return OnlyHere()


def only_here() -> OnlyHere:
    """Return what cannot be unpickled."""
    return OnlyHere()


async def later(value: object) -> object:
    """Return a value from a loop."""
    import asyncio

    await asyncio.sleep(0)
    return value


def environment() -> tuple[str | None, str | None, int]:
    """Return two variables and the number of the session."""
    return os.environ.get("SENTINEL"), os.environ.get("LOCAL_RANK"), os.getsid(0)


def wait(path: str) -> None:
    """Say that this runs, and wait for the end."""
    Path(path).touch()
    time.sleep(100)


def ignore_and_wait(path: str) -> None:
    """Wait, whoever asks to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait(path)


def shell(script: str) -> None:
    """Run a shell script."""
    subprocess.run(["sh", "-c", script], check=True)


def put(queue: Any, event: Any) -> None:
    """Use what multiprocessing makes."""
    event.wait(10)
    queue.put(os.getpid())


def exit_at_once() -> None:
    """End the process from inside."""
    os._exit(0)


def hog() -> None:
    """Take more memory than there is."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    bytearray(1 << 32)


def tensor(size: int) -> Any:
    """Return a square of numbers of torch."""
    import torch

    return torch.arange(size * size, dtype=torch.float32).reshape(size, size)


def blob(size: int) -> bytes:
    """Say so on both streams, and return that many bytes."""
    echo("made")
    return bytes(size)
