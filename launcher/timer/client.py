"""`expires`: a block of code in a worker that the launcher ends if it takes too long.

The worker only says when the block has to be over; the launcher watches the time, so that a
process that hangs in native code, or is stopped, is ended all the same.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

from launcher.timer.messages import Message, encode

__all__ = ("TIMER_FILE_VARIABLE", "expires")

TIMER_FILE_VARIABLE = "TORCHELASTIC_TIMER_FILE"
"""Names the pipe in a worker's environment; set by the launcher."""
_FOREVER = 1e9  # seconds; what is longer is meant to be never
_OVER = -1.0  # torch's mark of a block that has ended

_keys = itertools.count()


def expires(after: float, scope: str | None = None) -> AbstractContextManager[None]:
    """Let the launcher kill this worker if a block of code takes too long.

    Use it in a ``with`` statement. Blocks may be nested and may run at once, in threads, tasks
    and child processes; each has its own time. The failure report names the block.

    Args:
        after: seconds that the block may take, above 0.
        scope: what the block is called in the report; ``None``: file and line of the caller.

    Raises:
        ValueError: `after` breaks its rule.
        RuntimeError: when the block is entered: no launcher watches this process.
    """
    if isinstance(after, bool) or not isinstance(after, int | float):
        raise ValueError(f"after={after!r}: expected seconds, above 0")
    if not (math.isfinite(after) and after > 0):
        raise ValueError(f"after={after!r}: expected seconds, above 0")
    if scope is None:
        caller = sys._getframe(1)
        scope = f"{caller.f_code.co_filename}#{caller.f_lineno}"
    return _watched(min(after, _FOREVER), scope)


@contextmanager
def _watched(after: float, scope: str) -> Iterator[None]:
    path = os.environ.get(TIMER_FILE_VARIABLE)
    if not path:
        raise RuntimeError(
            f"expires: expected a worker that a launcher has started, ${TIMER_FILE_VARIABLE} is "
            "not set"
        )
    rank = os.environ.get("RANK", "")
    message = Message(
        pid=os.getpid(),
        scope=scope,
        expiration=time.time() + after,
        key=f"{next(_keys)}",
        rank=int(rank) if rank.isdecimal() else None,
    )
    try:
        _write(path, message)
    except OSError as error:
        raise RuntimeError(f"expires: the launcher cannot be reached: {path}: {error}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # the launcher is gone, and its watch with it
            _write(path, message._replace(expiration=_OVER))


def _write(path: str, message: Message) -> None:
    # Opened anew each time: nothing has to be kept in order over fork, exec and threads. Without
    # waiting, since an open without a reader would wait for ever; the write then waits, if it has
    # to, as output of a worker does.
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.set_blocking(descriptor, True)
        os.write(descriptor, encode(message))
    finally:
        os.close(descriptor)
