"""`Lane`: the operations of one client, one after the other in the order of their calls.

Requests over HTTP overtake each other; what one client asks for must not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

__all__ = ("Lane", "Turn")


class Turn:
    """A place in the lane, from the call of `Lane.join` on; an async context manager."""

    __slots__ = ("_came", "_lane")

    def __init__(self, lane: deque[Turn]) -> None:
        self._lane = lane
        self._came: asyncio.Future[None] | None = None  # None: nobody is waiting for it

    async def __aenter__(self) -> Self:
        """Wait for those who joined before."""
        try:
            while self._lane[0] is not self:
                self._came = asyncio.get_running_loop().create_future()
                await self._came
        except BaseException:
            self.leave()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def follow(self) -> Turn:
        """Take the place right behind this one, which is its holder's turn."""
        turn = Turn(self._lane)
        self._lane.insert(self._lane.index(self) + 1, turn)
        return turn

    def leave(self) -> None:
        """Let the next one come; who never had its turn gives up its place. Idempotent."""
        if self in self._lane:
            self._lane.remove(self)
        if self._lane:
            came = self._lane[0]._came
            if came is not None and not came.done():
                came.set_result(None)


class Lane:
    """Gives turns."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: deque[Turn] = deque()

    def join(self) -> Turn:
        """Take the place behind all that have one; it must be left."""
        turn = Turn(self._turns)
        self._turns.append(turn)
        return turn
