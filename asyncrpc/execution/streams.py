"""The callee's end of a stream: an async generator that runs as far as its caller has room.

Theory of operation. The caller grants room for items in absolute numbers: "up to item n". The
outlet sends numbered items and stops before the first one without room, or when the link has
enough to do. Grants may come twice or late, the greatest counts. However the stream ends, the
generator is closed, so its ``finally`` runs: at its own end, at an error, and when the call is
cancelled because the caller closed the stream or is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

__all__ = ("ItemSender", "Outlet")


class ItemSender(Protocol):
    """Puts items of one stream on the link."""

    def send_item(self, number: int, item: object) -> None:
        """Send an item; raises what keeps it from travelling."""
        ...

    def is_writable(self) -> bool:
        """Whether the link takes more without piling it up."""
        ...

    async def drained(self) -> None:
        """Wait until what was sent before has arrived."""
        ...


class Outlet:
    """One stream at the worker that produces it.

    Args:
        sender: the way to the caller.
        limit: items that may be sent before more room is granted.
    """

    __slots__ = ("_limit", "_sender", "_waiter", "count", "error")

    def __init__(self, sender: ItemSender, limit: int) -> None:
        self._sender = sender
        self._limit = limit
        self._waiter: asyncio.Future[None] | None = None
        self.count = 0
        """Items sent."""
        self.error: Exception | None = None
        """What kept an item from being sent, if that ended the stream: no error of the user's."""

    def take_error(self, error: BaseException) -> bool:
        """Whether this kept an item from being sent; forget it: its frames hold the item."""
        kept, self.error = self.error, None
        return error is kept

    def grant(self, limit: int) -> None:
        """Let items up to the ``limit``-th be sent."""
        if limit > self._limit:
            self._limit = limit
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def run(
        self,
        function: Callable[..., AsyncGenerator[Any, None]],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> int:
        """Send what an async generator function yields; return how many items there were."""
        generator = function(*args, **kwargs)
        try:
            async for item in generator:
                self._send(item)
                if self.count >= self._limit or not self._sender.is_writable():
                    await self._room()
        finally:
            await generator.aclose()
        return self.count

    def _send(self, item: object) -> None:
        try:
            self._sender.send_item(self.count, item)
        except Exception as error:
            self.error = error
            raise
        self.count += 1
        if self.error is not None:  # a fault plan failed the send
            raise self.error

    async def _room(self) -> None:
        while self.count >= self._limit:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if not self._sender.is_writable():
            await self._sender.drained()
