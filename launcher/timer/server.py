"""`TimerServer`: the launcher's side of `expires`, one for each agent.

It reads what workers write to a named pipe, keeps a timer for each block, and kills the process
whose block takes too long. A process is held by its pidfd from the first message on, so that no
other that got its number later is hit. Called by the agent.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from launcher.timer.messages import MAX_LINE, Message, decode

if TYPE_CHECKING:  # a worker that imports `expires` needs no event loop
    import asyncio

__all__ = ("Expired", "TimerServer")

_MAX_TIMERS = 10_000  # at once; beyond that, a program forgets to end its blocks
_READ_SIZE = 1 << 16  # what a pipe holds

_log = logging.getLogger("launcher.timer")


class Expired(NamedTuple):
    """A block took too long, and its process was killed."""

    pid: int
    rank: int | None
    """Rank of the worker that the process is or belongs to, if it is known."""
    scope: str
    after: float
    """Seconds that the block was allowed."""

    def __str__(self) -> str:
        return f"{self.scope!r} took longer than {self.after:g} s"


class _Timer(NamedTuple):
    handle: asyncio.TimerHandle
    pidfd: int


class TimerServer:
    """Watches over the blocks of one node's workers, from its making until `close`.

    Args:
        path: where the pipe is made; only this user can open it.
        on_expired: called after a process was killed.
        loop: the running event loop.

    Raises:
        OSError: the pipe cannot be made; names it.
    """

    def __init__(
        self, path: str, on_expired: Callable[[Expired], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.path = path
        self._on_expired = on_expired
        self._loop = loop
        self._timers: dict[tuple[int, str], _Timer] = {}  # by process and key
        self._unread = b""  # the begin of a line
        os.mkfifo(path, 0o600)
        # Open for writing as well, so that it does not end with each writer.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        loop.add_reader(self._pipe, self._read)

    def clear(self) -> None:
        """Forget all blocks: the workers of the round have ended."""
        for key in tuple(self._timers):
            self._release(key)

    def close(self) -> None:
        """Stop watching and remove the pipe; harmless when repeated."""
        if self._pipe < 0:
            return
        self.clear()
        self._loop.remove_reader(self._pipe)
        os.close(self._pipe)
        self._pipe = -1
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def _read(self) -> None:
        try:
            data = os.read(self._pipe, _READ_SIZE)
        except BlockingIOError:
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        if len(self._unread) > MAX_LINE:
            self._unread = b""  # the rest of it will be refused
        for line in lines:
            try:
                self._handle(decode(line))
            except (ValueError, RecursionError) as error:
                _log.warning("a message about a timer makes no sense: %.200s", error)

    def _handle(self, message: Message) -> None:
        key = (message.pid, message.key)
        self._release(key)
        if message.expiration < 0:
            return
        if len(self._timers) >= _MAX_TIMERS:
            _log.warning("%d timers run at once: %r is not watched", _MAX_TIMERS, message.scope)
            return
        try:
            pidfd = os.pidfd_open(message.pid)
        except OSError:
            return  # it has ended already
        # The wall clock is common to both sides; from here on it may be set.
        after = max(0.0, message.expiration - time.time())
        handle = self._loop.call_later(after, self._expire, key, message, after)
        self._timers[key] = _Timer(handle, pidfd)

    def _expire(self, key: tuple[int, str], message: Message, after: float) -> None:
        timer = self._timers[key]
        try:
            signal.pidfd_send_signal(timer.pidfd, message.signal)
        except OSError:
            return  # it ended without a word
        finally:
            self._release(key)
        expired = Expired(message.pid, message.rank, message.scope, round(after, 1) or after)
        self._on_expired(expired)

    def _release(self, key: tuple[int, str]) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.handle.cancel()
            os.close(timer.pidfd)
