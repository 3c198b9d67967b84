"""Writes worker output to descriptors that may block: consoles, pipes, files on slow disks.

Theory of operation
-------------------
A thread writes, so that the loop never waits; a terminal cannot be made non-blocking without
doing the same to every other process that uses it. The queue between them is bounded. When it is
full, whoever reads the workers' pipes stops (`is_full`, ``on_room``), the pipes fill, and workers
wait in their own writes like those of any program whose output is not taken. But nobody waits for
ever: if nothing at all was taken for `STALL_TIMEOUT` seconds, output is dropped and counted until
something is, and a notice says how much. A descriptor whose reader is gone swallows everything.

Lines are kept whole by the callers; this module knows only chunks.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import threading
from collections import Counter, deque
from collections.abc import Callable

__all__ = ("STALL_TIMEOUT", "Writer")

STALL_TIMEOUT = 5.0  # long enough for a busy reader, short against what a stalled job costs
_CLOSE_STALL_TIMEOUT = 1.0  # at the end only the launcher itself waits
_FULL = 1 << 20
_ROOM = 1 << 18  # resume below this, so that readers do not start and stop for every chunk
_READER_GONE = (errno.EPIPE, errno.EBADF)  # `| head`, `>&-`: what the user wanted
_STREAMS = ("stdout", "stderr")
_PIECE = 1 << 14  # bytes per write: small enough to see a slow reader make progress

_log = logging.getLogger("launcher.logs")


class Writer:
    """One thread that writes to some descriptors, in order.

    Args:
        on_room: called on the loop when `is_full` has become False.
        stall_timeout: seconds without progress after which output is dropped.
    """

    def __init__(
        self, on_room: Callable[[], None], *, stall_timeout: float = STALL_TIMEOUT
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_room = on_room
        self._stall_timeout = stall_timeout
        self._thread: threading.Thread | None = None
        self._stopped = asyncio.Event()
        self._has_work = threading.Condition()
        # Under _has_work:
        self._queue: deque[tuple[int, bytes]] = deque()
        self._size = 0  # bytes queued or being written
        self._is_ending = False
        self._is_abandoned = False  # nothing may be written to descriptors any more
        # Written by the thread only:
        self._progress = 0  # bytes taken by descriptors
        self._dead: set[int] = set()  # descriptors nobody reads
        # Loop only:
        self._is_full = False
        self._is_dropping = False
        self._dropped: Counter[int] = Counter()  # lines, by descriptor
        self._watch: asyncio.TimerHandle | None = None

    @property
    def is_full(self) -> bool:
        """Whether the caller should stop writing until ``on_room``."""
        return self._is_full and not self._is_dropping

    def write(self, fd: int, data: bytes) -> None:
        """Queue a chunk; never blocks."""
        if fd in self._dead:
            return
        if self._is_dropping:
            self._dropped[fd] += data.count(b"\n")
            return
        with self._has_work:
            self._queue.append((fd, data))
            self._size += len(data)
            size = self._size
            self._has_work.notify()
        if self._thread is None and not self._start_thread():
            self._write_here()
            return
        if size >= _FULL and not self._is_full:
            self._is_full = True
            self._watch_progress()

    async def close(self) -> None:
        """Write what is queued and end the thread; gives up when nothing is taken for 1 s."""
        if self._thread is None:
            return
        with self._has_work:
            self._is_ending = True
            self._has_work.notify()
        progress = -1
        while not self._stopped.is_set():
            if progress == self._progress:
                _log.warning("output of workers lost: nobody takes it")
                self._is_abandoned = True  # the thread is a daemon, stuck in a write
                break
            progress = self._progress
            try:
                async with asyncio.timeout(_CLOSE_STALL_TIMEOUT):
                    await self._stopped.wait()
            except TimeoutError:
                continue
        else:
            self._thread.join()
        if self._watch is not None:
            self._watch.cancel()

    def _start_thread(self) -> bool:
        thread = threading.Thread(target=self._run, name="launcher output", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # workers have used up the processes that we are allowed
            return False
        self._thread = thread
        return True

    def _write_here(self) -> None:
        """Write on the loop, which may block it: better than losing what explains the trouble."""
        fd, data = self._take()
        self._size -= len(data)
        self._write_out(fd, data)

    def _watch_progress(self) -> None:
        progress = self._progress
        self._watch = self._loop.call_later(self._stall_timeout, self._check_progress, progress)

    def _check_progress(self, progress: int) -> None:
        if not self._is_full:
            return
        if progress != self._progress:
            self._watch_progress()
            return
        self._is_dropping = True
        self._on_room()

    def _make_room(self) -> None:
        """The thread has written most of the queue; runs on the loop."""
        self._is_full = self._is_dropping = False
        if self._watch is not None:
            self._watch.cancel()
        for fd, lines in self._dropped.items():
            self.write(fd, b"launcher: output was not taken, %d lines dropped\n" % lines)
        self._dropped.clear()
        self._on_room()

    def _run(self) -> None:
        while True:
            with self._has_work:
                while not self._queue and not self._is_ending:
                    self._has_work.wait()
                if not self._queue:
                    break
                fd, data = self._take()
            self._write_out(fd, data)
            with self._has_work:
                was_full = self._size >= _ROOM
                self._size -= len(data)
                has_room = was_full and self._size < _ROOM
            if has_room:
                self._call_loop(self._make_room)
        self._call_loop(self._stopped.set)

    def _take(self) -> tuple[int, bytes]:
        """Return the first chunk, joined with those after it that go the same way."""
        fd, data = self._queue.popleft()
        chunks, size = [data], len(data)
        while self._queue and self._queue[0][0] == fd and size < _PIECE:
            data = self._queue.popleft()[1]
            chunks.append(data)
            size += len(data)
        return fd, chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _write_out(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest and fd not in self._dead and not self._is_abandoned:
            try:
                written = os.write(fd, rest[:_PIECE])
            except BlockingIOError:  # somebody else made it non-blocking
                select.select([], [fd], [])
                continue
            except OSError as error:
                self._dead.add(fd)
                level = logging.INFO if error.errno in _READER_GONE else logging.WARNING
                why = error.strerror
                _log.log(level, "output of workers cannot be written to %s: %s", _name(fd), why)
                return
            rest = rest[written:]
            self._progress += written

    def _call_loop(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: we were given up long ago
            return


def _name(fd: int) -> str:
    """Name a descriptor for people."""
    if 0 < fd <= len(_STREAMS):
        return _STREAMS[fd - 1]
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"
