"""Large messages on their way out of one link, in turns with each other and behind small frames.

Used by `Connection`. A message above `CHUNK_SIZE` travels in chunks; a chunk is written when the
stream has room, so what is small overtakes what is large. What goes through shared memory is copied
a piece per turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from asyncrpc.transport import Arena, Stream
from asyncrpc.wire import REPLIES, Transfer

__all__ = ("Bulk",)

_INTERLEAVED = 8  # transfers that share the link; those behind wait, so that the first get done


class Bulk:
    """The transfers of one link.

    Args:
        stream: where chunks go.
        became_empty: called when the last transfer has left.
    """

    __slots__ = ("_became_empty", "_is_copying", "_next", "_stream", "_transfers", "arena")

    def __init__(self, stream: Stream, became_empty: Callable[[], None]) -> None:
        self._stream = stream
        self._became_empty = became_empty
        self._transfers: deque[Transfer] = deque()
        self._next = 1
        self._is_copying = False  # whether the loop will pump
        self.arena: Arena | None = None
        """Shared memory for large buffers, once the peer sees it."""

    def __len__(self) -> int:
        return len(self._transfers)

    def add(self, transfer: Transfer) -> None:
        """Queue a message, and write what the stream takes."""
        transfer.ident = self._next
        self._next += 1
        self._transfers.append(transfer)
        self.pump()

    def pump(self) -> None:
        """Write chunks, one of each of the first transfers in turn, while the stream takes them."""
        transfers = self._transfers
        stream = self._stream
        while transfers and stream.is_writable and not stream.is_closed:
            transfer = transfers.popleft()
            parts = transfer.next_chunk(self.arena)
            if parts is None:
                continue
            transfers.insert(_INTERLEAVED - 1, transfer)
            if not parts:  # a piece was copied, which makes no room less: others get their turn
                self._pump_soon()
                return
            stream.write_parts(parts)
        if not transfers:
            self._became_empty()

    def _pump_soon(self) -> None:
        if not self._is_copying:
            self._is_copying = True
            asyncio.get_running_loop().call_soon(self._pump_on)

    def _pump_on(self) -> None:
        self._is_copying = False
        self.pump()

    def holds(self, call_id: int) -> bool:
        """Whether a request has not left completely."""
        return self._find(call_id) is not None

    def withdraw(self, call_id: int) -> bool:
        """Take a request out; true if it did not leave completely: then it is never run."""
        transfer = self._find(call_id)
        if transfer is None:
            return False
        self._transfers.remove(transfer)
        transfer.leave_memory()
        if transfer.is_started:
            self._stream.write(transfer.abort_frame())
        return True

    def _find(self, call_id: int) -> Transfer | None:
        for transfer in self._transfers:
            if transfer.call == call_id and transfer.kind in REPLIES and not transfer.is_finished:
                return transfer
        return None

    def take_unsent(self) -> list[Transfer]:
        """Hand over what never left completely, in order, and forget the rest."""
        unsent = [transfer for transfer in self._transfers if not transfer.is_finished]
        self._transfers.clear()
        return unsent
