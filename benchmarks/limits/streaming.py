"""The message stream of OPT: one shared Packer, one streaming Unpacker, one write per loop turn."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

from msgpack import Packer, Unpacker

__all__ = ("StreamingClient", "StreamingProtocol")


class StreamingProtocol(asyncio.Protocol):
    """Packs messages into one buffer that is written once per loop turn."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._packer = Packer(autoreset=False)
        self._pack = self._packer.pack
        self._unpacker = Unpacker(max_buffer_size=1 << 30)
        self._is_flush_due = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=1 << 30)  # a limit row has no back-pressure

    def send(self, message: tuple[object, ...]) -> None:
        """Write a message together with all others of this turn of the loop."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self.flush)
        self._pack(message)

    def flush(self) -> None:
        """Write what has been packed."""
        self._is_flush_due = False
        self._transport.write(self._packer.bytes())
        self._packer.reset()


class StreamingClient(StreamingProtocol):
    """Requests are `[id, name, *args]`, replies `[id, result]`."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.Future[object]] = {}
        self._next_id = 0
        self.call = partial(self.request, "echo")

    def request(self, name: str, *args: object) -> asyncio.Future[object]:
        """Call a handler by name; return the bare future."""
        self._next_id = call_id = self._next_id + 1
        self._pending[call_id] = future = self._loop.create_future()
        self.send((call_id, name, *args))
        return future

    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        pop = self._pending.pop
        for call_id, result in self._unpacker:
            pop(call_id).set_result(result)
