"""What this process inherits if the guardian dies before its time: the processes below it.

The kernel kills the workers with their parent, but not what they have started; that goes to the
next sub-reaper, which is us. Used by the guardian's client, in a process that is all the
launcher's: in a user's own program, orphans are the user's affair.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

from launcher.process.guardian.spawn import become_subreaper
from launcher.process.guardian.tree import children, send_signal

__all__ = ("Inheritance",)

_KILL_WAIT = 2.0  # after it, only a process in uninterruptible sleep is still there
_LOOK_AGAIN = 0.01  # for those that come to us when their own parents have ended

_log = logging.getLogger("launcher.process")


class Inheritance:
    """Makes this process a sub-reaper; the children it has by then stay untouched."""

    def __init__(self) -> None:
        become_subreaper()
        self._own = frozenset(children())

    async def end(self) -> None:
        """Kill and reap whatever came to us, for two seconds at most."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _KILL_WAIT
        while left := [pid for pid in children() if pid not in self._own]:
            if loop.time() > deadline:
                _log.error("%d processes left by workers survive SIGKILL", len(left))
                return
            for pid in left:
                _kill(pid)
            await asyncio.sleep(_LOOK_AGAIN)


def _kill(pid: int) -> None:
    """Kill a child, and take its status if it has ended."""
    send_signal(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
