"""Arrays over a bare stream: the bytes go out as they are and arrive in their final place.

`BufferedProtocol` lets the kernel copy straight into the array. The warm kind receives into memory
that was allocated and touched before: what a transport can do at best. The fresh kind allocates
for each message, as an RPC system that hands the array to its user must do.
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import cast

import numpy as np

__all__ = ("ArrayClient", "ArrayServer")

_HEADER = Struct("<QI")  # bytes that follow, what the server does with them
_ACK, _ACK_FRESH, _ECHO = 0, 1, 2


class _ArrayStream(asyncio.BufferedProtocol):
    """Reads a header, then the body into `place(size, action)`, then calls `received`."""

    def __init__(self) -> None:
        self._header = memoryview(bytearray(_HEADER.size))
        self._target = self._header
        self._filled = 0  # bytes of _target that have arrived
        self._in_body = False
        self._action = _ACK
        self._warm = np.zeros(0, dtype=np.uint8)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=1 << 30)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._target[self._filled :]

    def buffer_updated(self, count: int) -> None:
        self._filled += count
        if self._filled < len(self._target):
            return
        if not self._in_body:
            size, self._action = _HEADER.unpack(self._header)
            if size:
                self._expect(self._place(size), in_body=True)
                return
        body = self._target if self._in_body else self._target[:0]
        self._expect(self._header, in_body=False)
        self.received(body, self._action)

    def received(self, body: memoryview, action: int) -> None:
        """Take a whole message; `body` is valid until the next one."""
        raise AssertionError

    def send(self, body: memoryview, action: int) -> None:
        """Write a message; `body` must not change until it has been answered."""
        self._transport.write(_HEADER.pack(len(body), action))
        if body:
            self._transport.write(body)

    def _expect(self, target: memoryview, *, in_body: bool) -> None:
        self._target, self._filled, self._in_body = target, 0, in_body

    def _place(self, size: int) -> memoryview:
        if self._action == _ACK_FRESH:
            return np.empty(size, dtype=np.uint8).data
        if self._warm.nbytes != size:
            self._warm = np.zeros(size, dtype=np.uint8)
            self._warm.fill(1)
        return self._warm.data


class ArrayServer(_ArrayStream):
    """Answers an array with nothing or with itself."""

    def received(self, body: memoryview, action: int) -> None:
        self.send(body if action == _ECHO else body[:0], _ACK)


class ArrayClient(_ArrayStream):
    """Sends one array at a time."""

    async def send_array(self, array: np.ndarray) -> None:
        """Send into warm memory and wait for the server to have it."""
        await self._request(array, _ACK)

    async def send_fresh(self, array: np.ndarray) -> None:
        """Send into memory that the server allocates for this message."""
        await self._request(array, _ACK_FRESH)

    async def echo_array(self, array: np.ndarray) -> np.ndarray:
        """Send and receive back, both into warm memory."""
        body = await self._request(array, _ECHO)
        return np.frombuffer(body, dtype=array.dtype).reshape(array.shape)

    def received(self, body: memoryview, action: int) -> None:
        self._answer.set_result(body)

    async def _request(self, array: np.ndarray, action: int) -> memoryview:
        self._answer: asyncio.Future[memoryview] = asyncio.get_running_loop().create_future()
        self.send(array.data.cast("B"), action)
        return await self._answer
