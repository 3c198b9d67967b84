"""Notices a loop that user code blocks, and says which code it is.

Looked at from another thread, which asks the loop for a sign of life twice a second; that costs the
loop one callback each time. A loop that is idle answers at once; one whose thread runs a callback
that does not return cannot. The stack of that thread then shows who does not let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable

__all__ = ("LoopWatch",)

_log = logging.getLogger("asyncrpc.loop")

_INTERVAL = 0.5  # seconds between two looks
_BLOCKED = 1.0  # seconds without an answer after which the loop counts as blocked
_MOST_FRAMES = 30  # innermost frames shown: those of the user's code are among them


class LoopWatch:
    """Watches the running loop, on whose thread it is made.

    Args:
        worker: name of the worker, for the report.
        now: a monotonic clock, in seconds.
    """

    interval = _INTERVAL
    """Seconds between two looks, as they should be."""

    def __init__(self, worker: str, now: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._now = now
        self._loop = weakref.ref(asyncio.get_running_loop())  # it holds what its agent holds
        self._thread = threading.get_ident()
        self._asked = 0.0  # when the question was asked that is open, 0 for none
        self._looked = now()
        self._is_reported = False

    def look(self) -> None:
        """See whether the loop answers; report it once if it does not. From another thread."""
        loop = self._loop()
        if loop is None or not loop.is_running():
            self._answer()  # a question that is still open is of the past
            return
        now = self._now()
        # A look that comes late itself says nothing of the loop: both stood still, or were starved.
        is_late = now - self._looked > 2 * _INTERVAL
        self._looked = now
        if not self._asked:
            self._asked = now
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._answer)
        elif is_late:
            self._asked = now
        elif now - self._asked >= _BLOCKED and not self._is_reported:
            self._is_reported = True
            self._report(now - self._asked)

    def _answer(self) -> None:
        self._is_reported = False
        self._asked = 0.0

    def _report(self, seconds: float) -> None:
        if not _log.isEnabledFor(logging.WARNING):
            return  # the stack is read from the files of its code
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return  # the thread has ended, and its loop with it
        try:
            stack = traceback.format_stack(frame)[-_MOST_FRAMES:]
        finally:
            del frame  # it would keep alive all that is in it
        _log.warning(
            "the loop of %s has been blocked for %.1f s; calls, timers and signs of life wait. Run "
            "what blocks in a plain def function or asyncio.to_thread. It is in:\n%s",
            self._worker,
            seconds,
            "".join(stack).rstrip(),
        )
