"""`on_preempt` and `preempted`: what a worker does when its node has to go.

Theory of operation: the first use connects to the launcher, and a thread waits for its one line,
the seconds that are left. The thread then calls the hooks, and tells the launcher when they are
done; a worker without hooks, that asks `preempted` by itself, is done when it ends. No signal is
involved, so nothing is interrupted, and workers that do not care are not ended by one.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # loaded only in a worker that has a loop
    from asyncio import AbstractEventLoop

__all__ = ("SOCKET_VARIABLE", "on_preempt", "preempted")

SOCKET_VARIABLE = "LAUNCHER_PREEMPTION_SOCKET"
"""Names the launcher's socket in a worker's environment; set if there can be a notice."""
DONE = b"done\n"

Hook = Callable[[float], object]
HookT = TypeVar("HookT", bound=Hook)


def on_preempt(hook: HookT) -> HookT:
    """Have a function called when this worker's node has to go; a decorator, too.

    The launcher waits for the hooks of its workers, then takes the node out of the run and ends
    the workers by SIGTERM. A coroutine function runs on the event loop that is running now, a plain
    function in a thread, while the worker goes on. Hooks are called one after the other, in the
    order they were given; one that is given after the notice is called at once. What a hook raises
    is shown on stderr, after its name and the worker's rank, and the others are called all the
    same.

    Without a launcher, or under one that was told of no signal that means it, no hook is called;
    nor in processes that multiprocessing starts for a worker, which may import its main module.

    Args:
        hook: called with the seconds that are left, from 0.

    Returns:
        The hook.

    Raises:
        ValueError: the hook cannot be called.
    """
    if not callable(hook):
        raise ValueError(f"hook={hook!r:.100}: expected a function of the seconds that are left")
    notice = None if _is_helper() else _notice()
    if notice is not None:
        notice.add(hook, _running_loop())
    return hook


def preempted() -> float | None:
    """Say whether this worker's node has to go: for loops that look between two steps.

    Returns:
        The seconds that are left, from 0; ``None`` while there is no notice.
    """
    notice = _notice()
    return None if notice is None else notice.left()


class _Notice:
    """The notice that this process may get.

    Args:
        connection: to the launcher, kept open for the life of the process.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.pid = os.getpid()
        self._connection = connection
        self._deadline = math.inf  # of time.monotonic; infinite until the notice
        self._hooks: list[tuple[Hook, AbstractEventLoop | None]] = []  # not called yet
        self._changed = threading.Condition()
        threading.Thread(target=self._wait, name="launcher-preemption", daemon=True).start()

    def add(self, hook: Hook, loop: AbstractEventLoop | None) -> None:
        with self._changed:
            self._hooks.append((hook, loop))
            self._changed.notify()

    def left(self) -> float | None:
        if self._deadline == math.inf:
            return None
        return max(0.0, self._deadline - time.monotonic())

    def _wait(self) -> None:
        try:
            line = self._connection.makefile("rb").readline(100)
            self._deadline = time.monotonic() + float(line)
        except (OSError, ValueError):
            return  # the launcher is gone, and this process will follow it
        while True:
            with self._changed:
                while not self._hooks:
                    self._changed.wait()
                hook, loop = self._hooks.pop(0)
            self._call(hook, loop)
            if not self._hooks:
                with suppress(OSError):
                    self._connection.sendall(DONE)

    def _call(self, hook: Hook, loop: AbstractEventLoop | None) -> None:
        left = self.left()
        assert left is not None
        try:
            result = hook(left)
            if hasattr(result, "__await__"):
                _finish(result, loop, left)
        except BaseException:  # noqa: BLE001 -- the end of the thread: nobody is above us
            _tell_failure(hook)


def _tell_failure(hook: Hook) -> None:
    """Show what a hook has raised, and whose it is: all workers of a node may share one stderr."""
    import traceback  # noqa: PLC0415 -- only then

    rank = os.environ.get("RANK", "?")
    name = getattr(hook, "__qualname__", repr(hook))
    if sys.stderr is not None:  # closed
        sys.stderr.write(
            f"launcher.preemption: rank {rank}: hook {name} failed:\n{traceback.format_exc()}"
        )


def _finish(result: Awaitable[object], loop: AbstractEventLoop | None, left: float) -> None:
    """Run what a coroutine function returned, on its loop."""
    import asyncio  # noqa: PLC0415 -- it is loaded if there is a loop

    async def wait() -> None:
        async with asyncio.timeout(left):
            await result

    if loop is None or loop.is_closed():
        asyncio.run(wait())
    else:
        asyncio.run_coroutine_threadsafe(wait(), loop).result(left)


def _is_helper() -> bool:
    """Say whether multiprocessing has started this process."""
    multiprocessing: Any = sys.modules.get("multiprocessing.process")
    return multiprocessing is not None and multiprocessing.parent_process() is not None


def _running_loop() -> AbstractEventLoop | None:
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    try:
        loop: AbstractEventLoop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop


# A process has one; a fork of it, which has no thread of its parent's, another one.
_notices: dict[int, _Notice] = {}
_making = threading.Lock()


def _notice() -> _Notice | None:
    path = os.environ.get(SOCKET_VARIABLE)
    if not path:
        return None
    pid = os.getpid()
    with _making:
        if pid not in _notices:
            _notices.clear()
            try:
                _notices[pid] = _Notice(_connect(path))
            except OSError as error:
                sys.stderr.write(f"launcher.preemption: no notice will come: {path}: {error}\n")
                os.environ[SOCKET_VARIABLE] = ""
                return None
        return _notices[pid]


def _connect(path: str) -> socket.socket:
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        # Through the folder: the whole path may be longer than an address of a socket.
        connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(folder)
    return connection
