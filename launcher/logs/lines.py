"""Cuts a worker's output into whole lines. Bytes in, bytes out; no input or output."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

__all__ = ("LineAssembler", "LineFilter", "LineTail")

_MAX_TAIL_LINE = 4096  # the tail is for people; a line of a megabyte is not
_MAX_AFTER = 10_000  # lines after an exception: what is further away was no end of the program
_TRACEBACK = b"Traceback (most recent call last)"


class LineAssembler:
    r"""Collects bytes until lines are whole.

    A line ends with ``\n``, ``\r\n`` or ``\r`` (a progress bar). A ``\r`` at the end of the data
    waits for what follows, since it may be half of ``\r\n``.
    """

    __slots__ = ("_unfinished",)

    def __init__(self) -> None:
        self._unfinished = b""

    @property
    def unfinished(self) -> int:
        """Number of bytes that wait for the end of their line."""
        return len(self._unfinished)

    def feed(self, data: bytes) -> bytes:
        """Take bytes and return the whole lines there are now, with their ends."""
        if self._unfinished:
            data = self._unfinished + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, len(data) - 1)) + 1
        self._unfinished = data[end:]
        return data[:end]

    def take_unfinished(self) -> bytes:
        """Return, and no longer keep, what waits for the end of its line."""
        data, self._unfinished = self._unfinished, b""
        return data


class LineFilter:
    """Picks the lines that have any of some texts in them, and prefixes them.

    Args:
        texts: what a line must have one of; not empty.
        prefix: put before each line that has.
    """

    __slots__ = ("_lines", "_prefix", "_texts")

    def __init__(self, texts: Iterable[str], prefix: bytes) -> None:
        self._texts = tuple(text.encode("utf-8", "surrogateescape") for text in texts)
        self._prefix = prefix
        self._lines = LineAssembler()

    def feed(self, data: bytes) -> bytes:
        """Take bytes, cut anywhere, and return the matching lines that are whole now."""
        return self._pick(self._lines.feed(data))

    def finish(self) -> bytes:
        """Return the last line if it matches and was never ended, with an end."""
        line = self._pick(self._lines.take_unfinished())
        return line + b"\n" if line else b""

    def _pick(self, data: bytes) -> bytes:
        if not any(text in data for text in self._texts):
            return b""  # most chunks: no need to look at each line
        return b"".join(
            self._prefix + line
            for line in data.splitlines(keepends=True)
            if any(text in line for text in self._texts)
        )


class LineTail:
    """Keeps the last lines of an output; of a Python exception longer than that, its first too.

    Args:
        size: number of lines to keep; below 6 there is no room for parts of a long exception.
    """

    __slots__ = ("_after", "_head", "_is_in_traceback", "_lines", "_open", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._lines: deque[bytes] = deque(maxlen=size)
        self._open = b""  # start of a line whose end has not come
        self._is_in_traceback = False
        self._head = b""  # what the last traceback ended in: the exception and its message's start
        self._after = 0  # lines after that one

    def feed(self, data: bytes) -> None:
        """Take bytes, cut anywhere."""
        data = self._open + data
        lines = data.splitlines(keepends=True)
        self._open = b""
        if lines and not lines[-1].endswith((b"\n", b"\r")):
            self._open = lines.pop()[:_MAX_TAIL_LINE]
        self._after += len(lines)
        if self._is_in_traceback or _TRACEBACK in data:
            self._find_head(lines)
        self._lines.extend(line.rstrip(b"\r\n")[:_MAX_TAIL_LINE] for line in lines[-self._size :])

    def _find_head(self, lines: list[bytes]) -> None:
        for after, line in zip(range(len(lines) - 1, -1, -1), lines, strict=True):
            if line.startswith(_TRACEBACK):
                self._is_in_traceback = True
            elif self._is_in_traceback and not line.startswith(b" "):
                self._is_in_traceback = False
                self._head = line.rstrip(b"\r\n")[:_MAX_TAIL_LINE]
                self._after = after

    def lines(self) -> tuple[str, ...]:
        """Return the lines without their ends, oldest first, an unfinished one included."""
        kept = [*self._lines, self._open] if self._open else [*self._lines]
        kept = kept[-self._size :]
        after = self._after + bool(self._open)
        # Fewer lines then, or the head were further from the end than people still see.
        rest = self._size // 2 - 2
        if self._head and rest > 0 and self._size <= after <= _MAX_AFTER:
            kept = [self._head, b"... %d more lines ..." % (after - rest), *kept[-rest:]]
        return tuple(line.decode("utf-8", "replace") for line in kept)
