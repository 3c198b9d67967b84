"""Ending what workers left behind: processes that live on when the worker has ended.

The guardian, whose children they are by then, does it; here is how long it may take, and what
people are told. Called by the process contexts.
"""

from __future__ import annotations

import asyncio
import logging
import signal

from launcher.process.guardian import Cleared, Guardian
from launcher.process.termination import KILL_TIMEOUT, SILENCE

__all__ = ("clear_leftovers", "hurry_leftovers")

_log = logging.getLogger("launcher.process")


async def clear_leftovers(
    guardian: Guardian,
    signum: signal.Signals,
    group_grace: float,
    stray_grace: float,
    *,
    quiet: float = 0.0,
) -> None:
    """Return when they are gone, or outlived SIGKILL; at once if the guardian is lost.

    Args:
        guardian: their parent.
        signum: signal they get first.
        group_grace: seconds from it to SIGKILL for processes in a worker's group.
        stray_grace: the same for the others.
        quiet: seconds they may end by themselves before the signal.
    """
    if guardian.lost is not None:
        return
    cleared = guardian.clear(signum, group_grace, stray_grace, quiet=quiet)
    grace = max(group_grace, stray_grace)
    if grace > SILENCE:
        await asyncio.wait({cleared}, timeout=quiet + SILENCE)
        if not cleared.done():
            _log.warning(
                "the workers have ended, waiting for processes they left behind; SIGKILL in %g s, "
                "or at once when told a second time (another signal, Ctrl-C)",
                round(grace - SILENCE, 1),
            )
    await asyncio.wait({cleared}, timeout=quiet + grace + KILL_TIMEOUT)
    if not cleared.done():
        _log.error("guardian %d does not answer", guardian.pid)
        cleared.cancel()
    elif cleared.exception() is None:
        _tell(cleared.result(), had_grace=grace > 0)


def hurry_leftovers(guardian: Guardian) -> None:
    """Let a clearing that is under way go on with SIGKILL, now."""
    guardian.clear(signal.SIGKILL, 0.0, 0.0).add_done_callback(_forget)


def _tell(cleared: Cleared, *, had_grace: bool) -> None:
    if cleared.killed and had_grace:
        what = _processes(cleared.killed)
        _log.warning("killed with SIGKILL: %s left behind by workers", what)
    if cleared.stuck:
        _log.error("not ended by SIGKILL: %s left behind by workers", _processes(cleared.stuck))


def _processes(count: int) -> str:
    return f"{count} process{'es' * (count != 1)}"


def _forget(cleared: asyncio.Future[Cleared]) -> None:
    """Take note of an outcome nobody waits for."""
    if not cleared.cancelled():
        cleared.exception()
