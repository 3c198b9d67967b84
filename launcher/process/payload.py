"""A function on its way from the launcher to a worker that did not exist yet: pickled, in a file.

`pack` runs in the launcher, `unpack` in the worker. What is pickled, and how the worker's
``__main__`` becomes that of the launcher's program, is the business of multiprocessing: arguments
may be, or have in them, its queues, events, locks and connections.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import context, process, reduction, resource_tracker, spawn
from multiprocessing.popen_spawn_posix import Popen
from typing import Any, NamedTuple

__all__ = ("FIRST_DESCRIPTOR", "Payload", "forget_tracker", "pack", "unpack")

FIRST_DESCRIPTOR = 8
"""Number of the first descriptor that arguments bring along; those below are the context's own."""


class Payload(NamedTuple):
    """What a worker needs in order to run a function."""

    fd: int
    """File to read; the caller's to close."""
    descriptors: Mapping[int, int]
    """What arguments refer to: our descriptor, for each number it must have in the worker."""


class _Spawning:
    """Stands for a process about to be started, while arguments are pickled for it."""

    DupFd = Popen.DupFd

    def __init__(self) -> None:
        self.descriptors: dict[int, int] = {}

    def duplicate_for_child(self, fd: int) -> int:
        """Return the number that a descriptor will have in the process."""
        number = FIRST_DESCRIPTOR + len(self.descriptors)
        self.descriptors[number] = fd
        return number


def pack(name: str, function: Callable[..., object], args: tuple[object, ...]) -> Payload:
    """Pickle a function and its arguments for one worker.

    Args:
        name: of the worker's process.
        function: found by its module and name in the worker.
        args: what it is called with.

    Raises:
        pickle.PicklingError: function or arguments cannot be pickled; says which.
        RuntimeError: this process is itself being started, and has no business to start others:
            its main module needs ``if __name__ == "__main__":``.
    """
    spawning = _Spawning()
    context.set_spawning_popen(spawning)  # type: ignore[arg-type]  # all that pickling asks of it
    with _anonymous_file() as file:
        try:
            reduction.dump(spawn.get_preparation_data(name), file)
            reduction.dump(_tracker(spawning), file)
            _dump(f"entrypoint {function!r}", function, file)
            _dump(f"arguments {args!r:.200}", args, file)
        finally:
            context.set_spawning_popen(None)
        file.seek(0)
        return Payload(os.dup(file.fileno()), spawning.descriptors)


def unpack(fd: int) -> tuple[Callable[..., object], tuple[object, ...]]:
    """Become a process like the one that packed, and return the function and its arguments.

    Args:
        fd: the file, closed here.

    Raises:
        Exception: whatever importing the user's modules raises.
    """
    with os.fdopen(fd, "rb") as file:
        current = process.current_process()
        current._inheriting = True  # type: ignore[attr-defined]  # what main modules without a guard are told by
        try:
            spawn.prepare(pickle.load(file))  # noqa: S301 -- from our own launcher
            tracker = pickle.load(file)  # noqa: S301
            if tracker is not None:
                resource_tracker._resource_tracker._fd = tracker  # type: ignore[attr-defined]  # as spawn_main does
            return pickle.load(file), pickle.load(file)  # noqa: S301
        finally:
            del current._inheriting  # type: ignore[attr-defined]


def forget_tracker() -> None:
    """Have no resource tracker, after `unpack` in a process that is not given the descriptors.

    Their numbers are taken by others there, which Python 3.14 would close after a fork.
    """
    resource_tracker._resource_tracker._fd = None  # type: ignore[attr-defined]  # as unpack sets it


def _tracker(spawning: _Spawning) -> int | None:
    """Return the number of the resource tracker's descriptor; ``None`` if nothing is tracked."""
    fd = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined]  # would else be started
    return None if fd is None else spawning.duplicate_for_child(fd)


def _dump(what: str, value: object, file: Any) -> None:
    try:
        reduction.dump(value, file)
    except Exception as error:
        raise pickle.PicklingError(
            f"{what} cannot be pickled for another process: {error}"
        ) from error


def _anonymous_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("launcher", os.MFD_CLOEXEC), "w+b")
    return tempfile.TemporaryFile()  # not Linux
