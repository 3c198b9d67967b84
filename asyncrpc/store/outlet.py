"""What a client sends: requests joined into frames, on one connection after another.

Requests made while others are in flight are joined into one frame at the end of the loop's turn;
a lone one is sent by the exchange itself, at once. What is still in the batch when the connection
breaks was not sent, and stays there. Used by `exchange`.
"""

from __future__ import annotations

import asyncio

from asyncrpc.store.codec import Packer
from asyncrpc.store.commands import Command
from asyncrpc.transport import Stream

__all__ = ("Outlet",)

# A batch goes out before the turn ends when its values have that many bytes together, or it has
# that many requests: their keys may take 16 MiB. With the largest operation (64 MiB, which counts
# all it carries) that is below the 80 MiB of a frame that the server takes.
_FLUSH_AT = 1 << 20
_FLUSH_AT_COUNT = 512


class Outlet:
    """Takes numbered commands and sends them in order.

    Attributes:
        stream: the connection; ``None`` while there is none, when all stays in the batch.
        batch: what was not sent, in order.
        packer: makes the frames.
    """

    __slots__ = ("_is_scheduled", "_loop", "_size", "batch", "packer", "stream")

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self._loop = asyncio.get_running_loop()
        self.packer = Packer()
        self.batch: list[tuple[int, Command]] = []
        self._size = 0
        self._is_scheduled = False

    def post(self, number: int, command: Command, size: int = 0) -> None:
        """Send a command with all others of this turn of the loop.

        Args:
            number: of the request.
            command: what is asked.
            size: about how many bytes it carries, where that may be many.
        """
        self.batch.append((number, command))
        self._size += size
        if self._size >= _FLUSH_AT or len(self.batch) >= _FLUSH_AT_COUNT:
            self.flush()
        elif not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush_turn)

    def post_large(self, number: int, command: Command) -> None:
        """Send a command that may carry much, in a frame of its own."""
        self.post(number, command, _FLUSH_AT)

    def flush(self) -> None:
        """Send what waits, if there is a connection."""
        stream, batch = self.stream, self.batch
        if stream is None or not batch:
            return
        self.batch = []
        self._size = 0
        # Now: `write` would also ask for another turn of the loop.
        stream.write_now(self.packer.requests(batch))

    def unsent(self) -> set[int]:
        """Return the numbers of the requests that were not sent."""
        return {number for number, _ in self.batch}

    def take_unsent(self) -> list[tuple[int, Command]]:
        """Return what was not sent, and forget it."""
        batch, self.batch, self._size = self.batch, [], 0
        return batch

    def withdraw(self, number: int) -> None:
        """Forget a request that was not sent."""
        self.batch = [entry for entry in self.batch if entry[0] != number]

    def _flush_turn(self) -> None:
        self._is_scheduled = False
        self.flush()
