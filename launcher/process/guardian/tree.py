"""The processes below the guardian: finding them and signalling them."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False  # the typing module is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = (
    "children",
    "group_of",
    "is_stopped",
    "now_in_ticks",
    "process_state",
    "send_signal",
    "started_at",
)

_START_TIME = 19  # of the fields of /proc/<pid>/stat that follow the name


def send_signal(pid: int, signum: int) -> None:
    """Signal a process, or a process group given as a negative number."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return  # gone, or somebody else by setuid


def group_of(pid: int) -> int:
    """Return the process group of a child, -1 if it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def children() -> Iterator[int]:
    """Yield the process ids of this process's children, ended ones included."""
    if not _is_proc_ours():
        return  # its numbers mean other processes to us, which may be strangers
    try:
        with open("/proc/thread-self/children", "rb") as file:
            yield from map(int, file.read().split())
    except OSError:  # the kernel may be built without it
        yield from _search_children()


def process_state(pid: int) -> str:
    """Return the kernel's letter for what a process is doing, "D" for uninterruptible sleep.

    Returns:
        One letter, "" if the process is gone.
    """
    return b"".join(_stat_fields(pid)[:1]).decode()


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped, by a signal or a debugger."""
    return _is_proc_ours() and process_state(pid) in ("T", "t")


def started_at(pid: int) -> int:
    """Return when a process was started, in clock ticks since boot; 0 if it is gone."""
    fields = _stat_fields(pid)
    return int(fields[_START_TIME]) if len(fields) > _START_TIME else 0


def now_in_ticks() -> int:
    """Return the time on the clock of `started_at`."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _is_proc_ours() -> bool:
    """Return whether /proc shows our process namespace, not the one around it (unshare --pid)."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def _search_children() -> Iterator[int]:
    own = b"%d" % os.getpid()
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    for name in filter(str.isdigit, names):
        fields = _stat_fields(name)
        if len(fields) > 1 and fields[1] == own:
            yield int(name)


def _stat_fields(pid: int | str) -> Sequence[bytes]:
    """Return state, parent and what follows in /proc/<pid>/stat; nothing if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return ()
