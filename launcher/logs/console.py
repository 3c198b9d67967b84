"""Shows the output of several workers on one console, never two in one line."""

from __future__ import annotations

import os

from launcher.logs.writer import Writer

__all__ = ("Console", "is_same_file")


class Console:
    """The launcher's stdout or stderr, or both when they are the same terminal, pipe or file.

    Args:
        writer: does the writing.
    """

    __slots__ = ("_fd", "_mid_line", "writer")

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._mid_line: object = None  # whose unfinished line is the last thing shown
        self._fd = -1  # where that went

    def show(self, fd: int, owner: object, data: bytes, prefix: bytes, *, is_whole: bool) -> None:
        """Show output of one worker.

        Args:
            fd: descriptor to write to.
            owner: whose line it is; the rest of an unfinished line follows without a break
                unless another owner came between.
            data: lines, cut anywhere if not ``is_whole``.
            prefix: put before each line.
            is_whole: whether the data ends with the end of a line.
        """
        continues = self._mid_line is owner
        if prefix:
            text = prefix.join(data.splitlines(keepends=True))
            if not continues:
                text = prefix + text
        else:
            text = data
        if not continues and self._mid_line is not None:
            text = b"\n" + text
        self._mid_line, self._fd = None if is_whole else owner, fd
        self.writer.write(fd, text)

    @property
    def is_mid_line(self) -> bool:
        """Whether the last thing shown is an unfinished line."""
        return self._mid_line is not None

    def flush(self) -> None:
        """Show what is held back; nothing is, here."""

    def end_line(self) -> None:
        """End an unfinished line, because something else is about to be shown."""
        if self._mid_line is not None:
            self._mid_line = None
            self.writer.write(self._fd, b"\n")


def is_same_file(one: int, other: int) -> bool:
    """Return whether two descriptors are the same terminal, pipe or file; closed ones never."""
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
