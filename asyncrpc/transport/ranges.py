"""Which parts of a stretch of memory are taken: first fit, so that what was used is used again.

Pure. Used by `shm.Arena`, whose pages cost much when they are first touched and nothing later.
"""

from __future__ import annotations

from bisect import bisect_left

__all__ = ("Ranges",)


class Ranges:
    """The free and taken ranges from ``start`` to ``end``.

    Args:
        start: first byte that can be had, a multiple of ``unit``.
        end: first byte behind those.
        unit: every range begins and ends at a multiple of it.
    """

    __slots__ = ("_ends", "_starts", "_taken", "_unit")

    def __init__(self, start: int, end: int, unit: int) -> None:
        self._unit = unit
        # Free ranges in order, no two of which touch: where they begin, and where they end.
        self._starts = [start]
        self._ends = [end]
        self._taken: dict[int, int] = {}  # start -> end

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, size: int) -> int | None:
        """Return where ``size`` bytes, from 1, were taken, ``None`` where there is no such room."""
        size = -(-size // self._unit) * self._unit
        for index, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            if end - start >= size:
                self._taken[start] = start + size
                if end - start == size:
                    del self._starts[index], self._ends[index]
                else:
                    self._starts[index] = start + size
                return start
        return None

    def gaps(self) -> list[tuple[int, int]]:
        """Return the free ranges: where they begin, and the first byte behind them."""
        return list(zip(self._starts, self._ends, strict=True))

    def free(self, start: int) -> None:
        """Give back a range.

        Raises:
            KeyError: none that begins there is taken.
        """
        end = self._taken.pop(start)
        at = bisect_left(self._starts, start)
        starts, ends = self._starts, self._ends
        starts.insert(at, start)
        ends.insert(at, end)
        if at + 1 < len(starts) and starts[at + 1] == end:
            del starts[at + 1], ends[at]
        if at and ends[at - 1] == start:
            del starts[at], ends[at - 1]
