"""What a function returns, on its way from the worker to the launcher: one message on a pipe.

Big buffers, such as arrays', are written where they lie and received into their final place. A
message is the number of parts (u32), the length of each (u64), and the parts: a pickle, and the
buffers that it refers to. Integers are big-endian. No loop here.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterable

__all__ = ("IncomingResult", "encode_result", "send_result")

_COUNT = struct.Struct("!I")
_LENGTH = struct.Struct("!Q")
_PROTOCOL = 5  # the first with buffers out of band


def encode_result(value: object) -> list[memoryview]:
    """Return a message that carries a value, in pieces to be written one after the other.

    Args:
        value: anything that can be pickled; its buffers are not copied and must stay unchanged.

    Raises:
        Exception: whatever pickling it raises.
    """
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, _PROTOCOL, buffer_callback=buffers.append)
    parts = [memoryview(data), *(buffer.raw() for buffer in buffers)]
    head = _COUNT.pack(len(parts)) + b"".join(_LENGTH.pack(part.nbytes) for part in parts)
    return [memoryview(head), *parts]


def send_result(fd: int, message: Iterable[memoryview]) -> None:
    """Write a message; returns when all of it was taken.

    Args:
        fd: descriptor of a pipe, blocking.
        message: what `encode_result` returned.

    Raises:
        BrokenPipeError: nobody reads.
    """
    for part in message:
        rest = part
        while rest:
            rest = rest[os.write(fd, rest) :]


class IncomingResult:
    """A message that is being received."""

    __slots__ = ("_filled", "_lengths", "_parts", "_part")

    def __init__(self) -> None:
        self._lengths: list[int] | None = None  # of the parts; None before they are known
        self._parts: list[bytearray] = []  # those that are complete
        self._part = bytearray(_COUNT.size)  # the one being filled
        self._filled = 0

    @property
    def is_complete(self) -> bool:
        """Whether all of it is there."""
        return self._lengths is not None and len(self._parts) == len(self._lengths)

    def read(self, fd: int, limit: int) -> bool:
        """Take in what there is to read now.

        Args:
            fd: the pipe, not blocking.
            limit: bytes to take at most, so that others get their turn.

        Returns:
            Whether more may come: not after the end of the message or of the pipe.
        """
        while limit > 0 and not self.is_complete:
            room = memoryview(self._part)[self._filled :][:limit]
            try:
                count = os.readv(fd, [room])
            except BlockingIOError:
                return True
            if count == 0:
                return False
            limit -= count
            self._filled += count
            while self._filled == len(self._part) and not self.is_complete:
                self._finish_part()
        return not self.is_complete

    def value(self) -> object:
        """Return what was sent; only once it is complete.

        Raises:
            Exception: whatever unpickling it raises.
        """
        data, *buffers = self._parts
        return pickle.loads(data, buffers=buffers)  # noqa: S301 -- from our own worker

    def _finish_part(self) -> None:
        part, self._filled = self._part, 0
        if self._lengths is not None:
            self._parts.append(part)
        elif len(part) == _COUNT.size:
            self._part = bytearray(_LENGTH.size * _COUNT.unpack(part)[0])
            return
        else:
            self._lengths = [length for (length,) in _LENGTH.iter_unpack(part)]
        if not self.is_complete:
            self._part = bytearray(self._lengths[len(self._parts)])
