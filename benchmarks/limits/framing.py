"""Length-prefixed frames for the limit rows: `u32 length, u32 call id, payload`."""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import cast

__all__ = ("FrameProtocol",)

_HEADER = Struct("<II")
_HEADER_BYTES = _HEADER.size
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from

_RECEIVE_BYTES = 1 << 18
"""As much as uvloop reads at once; one buffer is kept, so that no read allocates."""

_LARGE = 1 << 16
"""Payloads from here on are written as they are: joining them would copy them."""


class FrameProtocol(asyncio.BufferedProtocol):
    """Splits what arrives into frames and writes once per loop turn.

    A subclass gives `frame_received(call_id, payload)`; the payload is its own.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0  # bytes of _buffer that have arrived
        self._out: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=1 << 30)  # a limit row has no back-pressure

    def frame_received(self, call_id: int, payload: bytes | bytearray) -> None:
        """Take one frame."""
        raise AssertionError

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._view[self._filled :]

    def buffer_updated(self, count: int) -> None:
        self._filled = end = self._filled + count
        # Slices of bytes are cheaper than slices of a bytearray; copying large reads is not.
        data = bytes(self._view[:end]) if end < _LARGE else self._buffer
        receive = self.frame_received
        position, want = 0, _HEADER_BYTES
        while end - position >= _HEADER_BYTES:
            size, call_id = _unpack_header(data, position)
            body = position + _HEADER_BYTES
            stop = body + size
            if stop > end:
                want = stop - position
                break
            receive(call_id, data[body:stop])
            position = stop
        self._keep(position, end, want)

    def _keep(self, position: int, end: int, want: int) -> None:
        """Move the unfinished frame to the front of a buffer that can hold all of it."""
        self._filled = end - position
        source = self._view[position:end]
        if want > len(self._buffer):
            self._buffer = bytearray(2 * want)
            self._view = memoryview(self._buffer)
        elif not position:
            return
        self._view[: self._filled] = source

    def send(self, call_id: int, payload: bytes | bytearray) -> None:
        """Write a frame together with all others of this turn of the loop."""
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        size = len(payload)
        if size < _LARGE:
            out.append(_pack_header(size, call_id) + payload)
        else:
            out.append(_pack_header(size, call_id))
            self._flush()
            self._transport.write(payload)

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
