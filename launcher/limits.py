"""What the system allows this process: how many workers can be started at all.

`check_workers` is asked by the api before anything is started, so that a number that cannot work
is a mistake that is named, not a crash halfway. It refuses what is certain to fail; what other
processes take in the meantime is found out by starting. Reads small files of the kernel's.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

__all__ = ("MAX_STARTING", "Limit", "check_workers", "explain_shortage", "raise_open_files")

MAX_STARTING = 8
"""Workers being started at the same time: their pipes are open at both ends, and queued twice."""
_PER_STARTING = 5  # two ends that go to the worker, and copies of three that wait for the guardian
_OTHER_FILES = 16  # the store's and the guardian's sockets, log files of the moment, and reserve
_OTHER_TASKS = 2  # the guardian, and the thread that writes
_CGROUPS = "/sys/fs/cgroup"
_SHORTAGES = {
    errno.EAGAIN: "processes for us (ulimit -u, kernel.threads-max, the control group's pids.max)",
    errno.ENOMEM: "memory for us",
    errno.EMFILE: "open files for us (ulimit -n)",
    errno.ENFILE: "open files (fs.file-max)",
}


class Limit(NamedTuple):
    """Something there is not enough of for any number of workers."""

    name: str
    """What is limited, and where it can be changed."""
    value: int
    workers: int
    """How many fit, from 0."""


def check_workers(workers: int, descriptors: int) -> None:
    """Make sure that the system allows so many workers.

    Args:
        workers: how many are to be started.
        descriptors: how many this process holds for each of them.

    Raises:
        ValueError: it does not; names the number, how many fit, and the limit.
    """
    limits = (*_open_files(descriptors), *_processes())
    tightest = min(limits, key=lambda limit: limit.workers, default=None)
    if tightest is not None and workers > tightest.workers:
        raise ValueError(
            f"nproc_per_node={workers}: expected at most {tightest.workers}, "
            f"{tightest.name} is {tightest.value}"
        )


def raise_open_files() -> None:
    """Let this process have as many open files as it may give itself.

    Not inherited by what a guardian started before: workers keep the limit the user gave.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems name a hard limit above what they grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def explain_shortage(error: OSError) -> str | None:
    """Say what the system has run out of; ``None`` if that is not why the error came."""
    if error.errno not in _SHORTAGES:
        return None
    return f"{error.strerror}; the system has no more {_SHORTAGES[error.errno]}"


def _open_files(descriptors: int) -> Iterator[Limit]:
    value, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if value != resource.RLIM_INFINITY:
        room = max(0, value - _count_open() - _OTHER_FILES)
        few = min(MAX_STARTING, room // (descriptors + _PER_STARTING))  # all starting at once
        many = (room - MAX_STARTING * _PER_STARTING) // descriptors
        yield Limit("the limit of open files (ulimit -n)", value, max(few, many))


def _count_open() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux
        return _OTHER_FILES


def _processes() -> Iterator[Limit]:
    own, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if own != resource.RLIM_INFINITY and os.getuid() != 0:  # root is not held to it
        yield _of_tasks("the limit of processes (ulimit -u)", own, 0)
    for name in ("threads-max", "pid_max"):
        value = _read_number(f"/proc/sys/kernel/{name}")
        if value is not None:
            yield _of_tasks(f"the system's kernel.{name}", value, _count_tasks())
    for folder in _cgroup_folders():
        value = _read_number(f"{folder}/pids.max")
        if value is not None:
            current = _read_number(f"{folder}/pids.current") or 0
            yield _of_tasks(f"the control group's {folder}/pids.max", value, current)


def _of_tasks(name: str, value: int, taken: int) -> Limit:
    return Limit(name, value, max(0, value - taken - _OTHER_TASKS))


def _count_tasks() -> int:
    """Count the tasks of the whole system."""
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            return int(file.read().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return 0


def _cgroup_folders() -> Iterator[str]:
    """Yield the control groups that hold this process and may limit it, by folder."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "pids" not in controllers.split(","):
            continue
        root = f"{_CGROUPS}/pids" if controllers else _CGROUPS
        while path.strip("/"):
            yield root + path
            path = path.rpartition("/")[0]
        yield root  # in a container, its own


def _read_number(path: str) -> int | None:
    """Return what a file says; ``None`` if there is no such file, or no limit in it."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
