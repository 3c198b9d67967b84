"""Brings the output of workers to consoles and files, whole lines at a time.

Called by the process contexts: one `WorkerOutput` per round. A redirected stream is a file opened
by us and written by the worker itself. Every other stream is a pipe that is read on the loop and
shown; with a prefix, and copied to a file, if it is teed. A stream of which lines are to be
duplicated is always a pipe, copied to its file by us. The last lines of stderr are kept for the
failure report.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence

from launcher.logs.console import Console, is_same_file
from launcher.logs.layout import LogsDest
from launcher.logs.lines import LineAssembler, LineFilter, LineTail
from launcher.logs.writer import Writer

__all__ = ("WorkerOutput",)

TAIL_LINES = 30  # of stderr, for the failure report: a traceback and what led to it
_UNFINISHED_TIMEOUT = 0.2  # a prompt or a row of dots is shown after this
_UNFINISHED_BYTES = 1 << 16
_READ_BYTES = 1 << 16  # the capacity of a pipe
_DRAIN_TIMEOUT = 1.0  # silence after which a pipe that some stranger holds open is given up
_TAIL_BYTES = 1 << 16
_STDOUT, _STDERR = 1, 2


class _Stream:
    """One stream of one worker: a pipe, and where its data goes."""

    def __init__(
        self,
        fd: int,
        *,
        console: Console | None,
        console_fd: int,
        owner: object,
        prefix: bytes,
        file: tuple[Writer, int] | None,
        tail: LineTail | None,
        filtered: tuple[LineFilter, Writer, int] | None,
    ) -> None:
        self.is_open = True
        self.is_paused = False
        self.reads = 0  # grows with every read; tells whether the pipe is idle
        self._fd = fd
        self._console = console
        self._console_fd = console_fd
        self._owner = owner
        self._prefix = prefix
        self._file = file
        self._tail = tail
        self._filtered = filtered
        self._lines = LineAssembler()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.on_closed: Callable[[], None] = lambda: None
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._on_readable)

    def resume_if_room(self) -> None:
        """Go on reading when every writer of this stream has room."""
        if self.is_paused and self.is_open and not self._is_blocked():
            self.is_paused = False
            self._loop.add_reader(self._fd, self._on_readable)

    def close(self) -> None:
        """Read no more; show what there is of the last line."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._show_unfinished()
        if self._filtered is not None:
            line_filter, writer, fd = self._filtered
            writer.write(fd, line_filter.finish())
        self.on_closed()

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self.reads += 1
        if self._tail is not None:
            self._tail.feed(data)
        if self._file is not None:
            writer, fd = self._file
            writer.write(fd, data)
        if self._filtered is not None:
            line_filter, writer, fd = self._filtered
            writer.write(fd, line_filter.feed(data))
        if self._console is not None:
            self._show(self._console, data)
        if self._is_blocked():
            self.is_paused = True
            self._loop.remove_reader(self._fd)

    def _show(self, console: Console, data: bytes) -> None:
        whole = self._lines.feed(data)
        if whole:
            console.show(self._console_fd, self._owner, whole, self._prefix, is_whole=True)
            self._cancel_timer()
        if self._lines.unfinished >= _UNFINISHED_BYTES:
            self._show_unfinished()
        elif self._lines.unfinished and self._timer is None:
            self._timer = self._loop.call_later(_UNFINISHED_TIMEOUT, self._show_unfinished)

    def _show_unfinished(self) -> None:
        self._cancel_timer()
        data = self._lines.take_unfinished()
        if data and self._console is not None:
            is_whole = data.endswith(b"\r")
            console, fd = self._console, self._console_fd
            console.show(fd, self._owner, data, self._prefix, is_whole=is_whole)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_blocked(self) -> bool:
        return (self._console is not None and self._console.writer.is_full) or (
            self._file is not None and self._file[0].is_full
        )


class WorkerOutput:
    """The output of all workers of one round.

    Args:
        dest: where each stream goes.
        prefixes: text before each line of a teed stream, by local rank.
        stdout: our descriptor that workers' stdout is shown on.
        stderr: our descriptor that workers' stderr is shown on.
        stdout_filters: texts; lines of stdout with any of them are also copied to the file
            ``dest.filtered_stdout``, with the prefix.
        stderr_filters: the same for stderr.
    """

    def __init__(
        self,
        dest: LogsDest,
        prefixes: Mapping[int, str],
        *,
        stdout: int = _STDOUT,
        stderr: int = _STDERR,
        stdout_filters: Sequence[str] = (),
        stderr_filters: Sequence[str] = (),
    ) -> None:
        filters = {_STDOUT: stdout_filters, _STDERR: stderr_filters}
        paths = {_STDOUT: dest.filtered_stdout, _STDERR: dest.filtered_stderr}
        self._filters = {stream: texts for stream, texts in filters.items() if texts}
        self._filtered_paths = {stream: paths[stream] for stream in self._filters if paths[stream]}
        self._filtered_files: dict[int, int] = {}
        self._dest = dest
        self._prefixes = prefixes
        self._streams: list[_Stream] = []
        self._tails: dict[int, LineTail] = {}
        self._files: list[int] = []
        self._handover: dict[int, dict[int, int]] = {}  # workers' ends that we still hold
        self._changed = asyncio.Event()
        self._file_writer = Writer(self._resume)
        self._console_fds = {_STDOUT: stdout, _STDERR: stderr}
        make = _console_class(folds=dest.folds)
        out = make(Writer(self._resume))
        err = out if is_same_file(stdout, stderr) else make(Writer(self._resume))
        self._consoles = {_STDOUT: out, _STDERR: err}

    def open(self, local_rank: int) -> dict[int, int]:
        """Open the streams of a worker.

        Args:
            local_rank: the worker.

        Returns:
            Descriptors to give to the worker as 1 and 2; valid until `hand_over`.

        Raises:
            OSError: a log file cannot be opened, or there are no descriptors left.
        """
        dest = self._dest
        descriptors = self._handover[local_rank] = {}
        for stream, paths, teed in (
            (_STDOUT, dest.stdouts, dest.tee_stdouts),
            (_STDERR, dest.stderrs, dest.tee_stderrs),
        ):
            path = paths.get(local_rank, "")
            is_shown = not path or local_rank in teed
            needs_tail = stream == _STDERR and path in ("", os.devnull)
            if is_shown or needs_tail or stream in self._filtered_paths:
                descriptors[stream] = self._open_pipe(
                    local_rank,
                    stream,
                    path=path,
                    is_shown=is_shown,
                    is_teed=local_rank in teed,
                )
            else:
                descriptors[stream] = _open_log(path)
        return descriptors

    def hand_over(self, local_rank: int) -> None:
        """Close our copies of what the worker has, or will never have."""
        for fd in self._handover.pop(local_rank, {}).values():
            os.close(fd)

    def stderr_tail(self, local_rank: int) -> tuple[str, ...]:
        """Return the last lines a worker wrote to stderr, without line ends, oldest first."""
        tail = self._tails.get(local_rank)
        if tail is None:
            tail = LineTail(TAIL_LINES)
            path = self._dest.stderrs.get(local_rank, "")
            with contextlib.suppress(OSError):
                tail.feed(_read_end(path))
        return tail.lines()

    async def drain(self, *, ends_lines: bool = False) -> None:
        """Pass on everything up to the end of every stream, and close.

        A pipe that somebody outside the worker's processes holds open is given up after a second
        of silence, a console or file that takes nothing after another.

        Args:
            ends_lines: whether to end lines that workers left unfinished on the consoles, because
                more is to be shown there.
        """
        while any(stream.is_open for stream in self._streams):
            self._changed.clear()
            reads = [stream.reads for stream in self._streams]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_TIMEOUT):
                    await self._changed.wait()
            is_paused = any(stream.is_open and stream.is_paused for stream in self._streams)
            if (
                not self._changed.is_set()
                and not is_paused
                and reads == [stream.reads for stream in self._streams]
            ):
                break
        self.abort()
        for console in self._consoles.values():
            console.flush()
        if ends_lines:
            for console in self._consoles.values():
                console.end_line()
        for writer in {self._file_writer, *(c.writer for c in self._consoles.values())}:
            await writer.close()
        for fd in (*self._files, *self._filtered_files.values()):
            os.close(fd)
        self._files.clear()
        self._filtered_files.clear()

    def abort(self) -> None:
        """Read no more."""
        for local_rank in tuple(self._handover):
            self.hand_over(local_rank)
        for stream in self._streams:
            stream.close()

    def _open_pipe(
        self, local_rank: int, stream: int, *, path: str, is_shown: bool, is_teed: bool
    ) -> int:
        file = None
        if path not in ("", os.devnull):
            self._files.append(_open_log(path))
            file = (self._file_writer, self._files[-1])
        if stream == _STDERR:
            self._tails[local_rank] = LineTail(TAIL_LINES)
        prefix = self._prefixes[local_rank].encode("utf-8", "surrogateescape")
        filtered = self._filter(stream, prefix)
        prefix = prefix if is_teed else b""
        reading, writing = os.pipe()
        pipe = _Stream(
            reading,
            console=self._consoles[stream] if is_shown else None,
            console_fd=self._console_fds[stream],
            # Without a prefix a worker's two streams may share a line, as on a terminal.
            owner=(local_rank, stream) if prefix else local_rank,
            prefix=prefix,
            file=file,
            tail=self._tails.get(local_rank) if stream == _STDERR else None,
            filtered=filtered,
        )
        pipe.on_closed = self._changed.set
        self._streams.append(pipe)
        return writing

    def _filter(self, stream: int, prefix: bytes) -> tuple[LineFilter, Writer, int] | None:
        """Return what picks lines of a stream, and where they go; ``None`` if none are picked."""
        if stream not in self._filtered_paths:
            return None
        if stream not in self._filtered_files:
            self._filtered_files[stream] = _open_log(self._filtered_paths[stream])
        line_filter = LineFilter(self._filters[stream], prefix)
        return line_filter, self._file_writer, self._filtered_files[stream]

    def _resume(self) -> None:
        for stream in self._streams:
            stream.resume_if_room()


def _console_class(*, folds: bool) -> type[Console]:
    if not folds:
        return Console
    from launcher.logs.folding import FoldingConsole  # noqa: PLC0415 -- only if asked for

    return FoldingConsole


def _open_log(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)


def _read_end(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return file.read()
