"""Process 1 of a container: passes signals on, takes the status of orphans, ends with the launcher.

The kernel hands every orphan of a container to its first process, and delivers to that no signal
that it does not handle. So where the launcher is the first process, it becomes the second one, and
the first does nothing but this. Called by `__main__`, before anything else is there.

Source: what tini and dumb-init do.
"""

from __future__ import annotations

import os
import signal

__all__ = ("become_second",)

_FROM_KERNEL = 0x80  # SI_KERNEL: of a terminal, which has sent it to the launcher as well
_NOT_OURS = (
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGTTIN,
    signal.SIGTTOU,
)


def become_second() -> None:
    """Return in a child of this process, which stays behind as the container's first."""
    waited = {number for number in signal.valid_signals() if number not in _NOT_OURS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    launcher = os.fork()
    if launcher:
        os._exit(_serve(launcher, waited))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(launcher: int, waited: set[signal.Signals]) -> int:
    """Be the first process until the launcher has ended; return its status."""
    while True:
        received = signal.sigwaitinfo(waited)
        if received.si_signo == signal.SIGCHLD:
            status = _reap(launcher)
            if status is not None:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif received.si_code != _FROM_KERNEL:
            os.kill(launcher, received.si_signo)


def _reap(launcher: int) -> int | None:
    """Take the status of all that have ended; return the launcher's if it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in (0, launcher):
            return status if pid else None
