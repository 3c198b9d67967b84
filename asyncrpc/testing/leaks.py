"""`leak_check`: what a piece of code leaves behind in its loop, its process and on the machine.

Descriptors, children and shared memory are found in /proc and /dev/shm, as Linux has them. What is
still closing gets some time to be gone, and only if something is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from types import TracebackType
from typing import Any

from asyncrpc.testing.arguments import is_finite
from asyncrpc.testing.stacks import stacks_of

__all__ = (
    "LeakError",
    "Snapshot",
    "leak_check",
    "leaks_since",
    "process_line",
    "resource_tracker",
    "settled",
    "snapshot",
    "tasks_left",
)

SETTLE = 2.0
"""How long something may take to go away by itself, in seconds."""

_LOOK_AGAIN = 0.01
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- looked at, not written
_THREADS_OF_LOOPS = ("asyncio_", "uvloop_", "AnyIO worker thread")
"""How the names of threads begin that a loop keeps for its next ``to_thread``, until it closes."""

_SPARE = re.compile(r"file descriptor: \d+ -> /dev/null$")
"""With a loop's first server libuv opens one, to have a descriptor when all others are in use."""

KINDS = ("file descriptor", "thread", "child process", "shared memory", "task")
"""What a `leak_check` looks for."""

Snapshot = dict[str, frozenset[str]]
"""Kind of resource -> one readable line for each that is there."""


class LeakError(AssertionError):
    """Something was left behind.

    Args:
        leaks: one text for each thing that was, its kind first.

    Example:
        ```python
        def main():
            try:
                with leak_check(settle=0):
                    left = open("/dev/null")
            except LeakError as error:
                assert error.leaks[0].startswith("file descriptor: ")
            left.close()
        ```
    """

    def __init__(self, leaks: tuple[str, ...]) -> None:
        super().__init__(leaks)
        self.leaks = leaks

    def __str__(self) -> str:
        return "left behind:\n" + "\n".join(self.leaks)


class leak_check:  # noqa: N801 -- used like a function, as contextlib's managers are
    """Raise if the body leaves something behind that was not there before.

    With ``with``: open file descriptors, threads, child processes (zombies too) and shared memory.
    With ``async with`` also tasks of the running loop. The threads that a loop keeps for
    ``asyncio.to_thread`` do not count: they end with it. Nothing is checked if the body raises.

    Args:
        settle: seconds that things may take to go away by themselves; waited only as long as
            something is left.
        kinds: what to look for, of "file descriptor", "thread", "child process", "shared memory"
            and "task"; ``None`` for all of them.

    Raises:
        LeakError: on leaving; names all that is left.
        ValueError: ``settle`` is no finite number of at least 0, or a kind is unknown.

    Example:
        ```python
        async def main():
            async with leak_check():
                async with cluster(2) as workers:
                    await workers[0].rpc_async("worker1", min, args=(1, 2))
        ```
    """

    def __init__(self, *, settle: float = SETTLE, kinds: Collection[str] | None = None) -> None:
        if not is_finite(settle) or settle < 0:
            raise ValueError(f"settle must be a finite number of at least 0, got {settle!r}")
        for kind in kinds or ():
            if kind not in KINDS:
                raise ValueError(f"kinds must be among {', '.join(KINDS)}, got {kind!r}")
        self._settle = settle
        self._kinds = KINDS if kinds is None else tuple(kinds)
        self._before: Snapshot = {}
        self._tasks: AbstractSet[asyncio.Task[Any]] = frozenset()

    def __enter__(self) -> None:
        _open_what_loops_keep()
        self._before = snapshot(self._kinds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and (left := leaks_since(self._before, self._settle)):
            raise LeakError(tuple(left))

    async def __aenter__(self) -> None:
        self.__enter__()
        self._tasks = asyncio.all_tasks()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            return
        deadline = time.monotonic() + self._settle
        looks_for_tasks = "task" in self._kinds
        tasks = await tasks_left(self._tasks, self._settle) if looks_for_tasks else set()
        while (left := self._left()) and time.monotonic() < deadline:
            gc.collect()
            await asyncio.sleep(_LOOK_AGAIN)
        left += [f"task: {stacks_of([task])}" for task in tasks]
        if left:
            raise LeakError(tuple(left))

    def _left(self) -> list[str]:
        return [line for line in _added_since(self._before) if not _SPARE.match(line)]


async def tasks_left(
    before: AbstractSet[asyncio.Task[Any]] = frozenset(), settle: float = SETTLE
) -> set[asyncio.Task[Any]]:
    """Return the running loop's other tasks that do not end within ``settle`` seconds.

    Args:
        before: tasks that may stay.
        settle: seconds.
    """
    others = asyncio.all_tasks() - before - {asyncio.current_task()}
    if not others:
        return set()
    _, pending = await asyncio.wait(others, timeout=settle)
    return pending


def leaks_since(before: Snapshot, settle: float = SETTLE) -> list[str]:
    """Return what is there now and was not before, after waiting for it to go away.

    Args:
        before: from `snapshot`.
        settle: seconds to wait at most; the loop does not turn meanwhile.
    """
    return settled(lambda: _added_since(before), settle)


def settled(look: Callable[[], list[str]], settle: float = SETTLE) -> list[str]:
    """Return what ``look`` finds, asking again for ``settle`` seconds while it finds something."""
    found = look()
    deadline = time.monotonic() + settle
    while found and time.monotonic() < deadline:
        gc.collect()
        time.sleep(_LOOK_AGAIN)
        found = look()
    return found


def snapshot(kinds: Collection[str] = KINDS) -> Snapshot:
    """Return what this process holds now, of these kinds."""
    looks = {
        "file descriptor": _open_descriptors,
        "thread": _threads,
        "child process": _child_processes,
        "shared memory": _shared_memory,
    }
    return {kind: frozenset(look()) for kind, look in looks.items() if kind in kinds}


def process_line(pid: int) -> str:
    """Return a process's id and command line, or its name where it has none (a zombie)."""
    command = b"?"
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
        command = command or Path(f"/proc/{pid}/comm").read_bytes().strip()
    return f"{pid} {command.decode(errors='replace')}"


def resource_tracker() -> tuple[int | None, int | None]:
    """Return pid and pipe of multiprocessing's tracker: one per process, for its whole life."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    return getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)


def _added_since(before: Snapshot) -> list[str]:
    now = snapshot(before)
    return [
        f"{kind}: {line}"
        for kind in now
        for line in sorted(now[kind] - before[kind])
        if not (kind == "shared memory" and _is_used_elsewhere(line))
    ]


def _open_descriptors() -> Iterator[str]:
    """Yield "number -> target" for each open file descriptor."""
    exempt = resource_tracker()[1]
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listdir itself used
            if int(name) != exempt:
                yield f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}"


def _threads() -> Iterator[str]:
    for thread in threading.enumerate():
        if not thread.name.startswith(_THREADS_OF_LOOPS):
            yield f"{thread.name} ({thread.ident})"


def _child_processes() -> Iterator[str]:
    """Yield a line for each child, zombies included."""
    try:
        # One system call in the usual case, which is that there is none.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    exempt = resource_tracker()[0]
    for pid in _children("self"):
        if pid != exempt:
            yield process_line(pid)


def _children(pid: int | str) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, path.read_text().split())


def _shared_memory() -> Iterator[str]:
    """Yield the names in /dev/shm that belong to this user; all processes share them."""
    for path in _SHARED_MEMORY.iterdir() if _SHARED_MEMORY.is_dir() else ():
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.geteuid():
                yield path.name


def _is_used_elsewhere(name: str) -> bool:
    """Whether a process that is neither this one nor a descendant has that shared memory mapped."""
    needle = f"{_SHARED_MEMORY / name}\n".encode()
    ours = _family()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in ours:
            with contextlib.suppress(OSError):
                if needle in (entry / "maps").read_bytes():
                    return True
    return False


def _family() -> set[int]:
    """Return this process and its descendants."""
    found: set[int] = set()
    new = [os.getpid()]
    while new:
        found.update(new)
        new = [child for pid in new for child in _children(pid) if child not in found]
    return found


def _open_what_loops_keep() -> None:
    """Have uvloop open what its first loop opens for the life of the process."""
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 -- optional on some systems, and not cheap to import

        uvloop.new_event_loop().close()
