"""Shows a line that several workers write at about the same time once, and says whose it is.

`LineFolder` is the pure part: it holds lines for a moment, each with the ranks that wrote it.
`FoldingConsole` stands before a `Console`; made by `tee`, if that was asked for.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from launcher.logs.console import Console
from launcher.logs.writer import Writer

__all__ = ("FoldingConsole", "LineFolder", "show_ranks")

Line = TypeVar("Line", bound=Hashable)

_WINDOW = 0.3  # seconds: workers in step are closer, and people wait for no line longer
_MAX_HELD = 10_000  # lines; beyond that the oldest are let go early


class _Held(Generic[Line]):
    """A line that is held, with the ranks that wrote it by now."""

    __slots__ = ("line", "ranks", "since")

    def __init__(self, line: Line, rank: int, since: float) -> None:
        self.line = line
        self.ranks = [rank]
        self.since = since


class LineFolder(Generic[Line]):
    """Finds equal lines of several ranks, and keeps the lines of each rank in their order.

    Args:
        window: seconds that a line is held for others to write it too.
        most: lines held at most.
    """

    def __init__(self, window: float = _WINDOW, most: int = _MAX_HELD) -> None:
        self._window = window
        self._most = most
        self._held: deque[_Held[Line]] = deque()
        self._gone = 0  # lines let go; number of the first one held
        self._numbers: dict[Line, list[int]] = {}  # of the held lines that are equal
        self._last: dict[int, int] = {}  # number of the last line of each rank

    def add(self, rank: int, line: Line, now: float) -> None:
        """Take a line: one with an equal line of others, after the last one of this rank.

        Args:
            rank: who wrote it.
            line: it, and whatever else makes it the same.
            now: seconds.
        """
        numbers = self._numbers.setdefault(line, [])
        later = bisect_right(numbers, self._last.get(rank, -1))
        if later == len(numbers):
            numbers.append(self._gone + len(self._held))
            self._held.append(_Held(line, rank, now))
        else:
            self._held[numbers[later] - self._gone].ranks.append(rank)
        self._last[rank] = numbers[later]

    def take(self, now: float) -> Iterator[tuple[Line, list[int]]]:
        """Let go of the lines that were held long enough, or are too many.

        Args:
            now: seconds; infinite lets go of all.

        Yields:
            Each with the ranks that wrote it, sorted.
        """
        while self._held and (self._is_due(now) or len(self._held) > self._most):
            held = self._held.popleft()
            numbers = self._numbers[held.line]
            del numbers[0]
            if not numbers:
                del self._numbers[held.line]
            self._gone += 1
            yield held.line, sorted(held.ranks)

    def _is_due(self, now: float) -> bool:
        return now - self._held[0].since >= self._window

    @property
    def due(self) -> float | None:
        """When the next line has been held long enough, seconds; ``None``: there is none."""
        return self._held[0].since + self._window if self._held else None


class FoldingConsole(Console):
    """A console that shows equal lines of several workers once.

    Args:
        writer: does the writing.
    """

    __slots__ = ("_folder", "_loop", "_owners", "_timer")

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer)
        self._loop = asyncio.get_running_loop()
        self._folder: LineFolder[tuple[int, bytes]] = LineFolder()
        self._owners: dict[tuple[int, int], tuple[object, bytes]] = {}  # and prefixes
        self._timer: asyncio.TimerHandle | None = None

    def show(self, fd: int, owner: object, data: bytes, prefix: bytes, *, is_whole: bool) -> None:
        """Show output of one worker, whole lines of it a moment later; see the base class."""
        rank = owner[0] if isinstance(owner, tuple) else owner
        if not is_whole or self.is_mid_line or not isinstance(rank, int):
            self.flush()
            super().show(fd, owner, data, prefix, is_whole=is_whole)
            return
        self._owners[fd, rank] = owner, prefix
        now = self._loop.time()
        for line in data.splitlines(keepends=True):
            self._folder.add(rank, (fd, line), now)
        self._show_due()

    def flush(self) -> None:
        """Show all that is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._let_go(float("inf"))

    def _show_due(self) -> None:
        self._let_go(self._loop.time())
        due = self._folder.due
        if due is not None and self._timer is None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._show_due()

    def _let_go(self, now: float) -> None:
        for (fd, line), ranks in self._folder.take(now):
            owner, prefix = self._owners[fd, ranks[0]]
            super().show(fd, owner, _noted(line, ranks), prefix, is_whole=True)


def _noted(line: bytes, ranks: list[int]) -> bytes:
    """Add to a line how many workers wrote it, and which."""
    if len(ranks) == 1:
        return line
    text = line.rstrip(b"\r\n")
    note = f" [{len(ranks)} workers: {show_ranks(ranks)}]"
    return text + note.encode() + line[len(text) :]


def show_ranks(ranks: Iterable[int]) -> str:
    """Write ranks that are in order, runs of them as first-last."""
    runs: list[tuple[int, int]] = []
    for rank in ranks:
        if runs and runs[-1][1] == rank - 1:
            runs[-1] = (runs[-1][0], rank)
        else:
            runs.append((rank, rank))
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
