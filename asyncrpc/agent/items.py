"""Puts the items of one served stream on the link that its call came on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncrpc.agent.inlet import NUMBERS
from asyncrpc.agent.request import Request
from asyncrpc.errors import EncodingError, MessageTooLargeError
from asyncrpc.wire import CHUNK_SIZE, HEADER, MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("Items",)

_STREAM_ITEM = int(MessageType.STREAM_ITEM)
pack_header = HEADER.pack


class Items:
    """The `asyncrpc.execution.Outlet`'s way to the caller.

    Args:
        agent: encodes the items.
        connection: to the caller.
        ident: id of the call.
    """

    __slots__ = ("_agent", "_connection", "_encode", "_ident", "_limit", "_plain")

    def __init__(self, agent: Agent, connection: Connection, ident: int) -> None:
        self._agent = agent
        self._connection = connection
        self._encode = agent.codec.encode
        self._ident = ident
        self._limit = connection.max_message_size
        self._plain = min(CHUNK_SIZE, self._limit + 1)

    def send_item(self, number: int, item: object) -> None:
        """Send an item.

        Raises:
            EncodingError: it cannot travel, or who owns what it refers to is not known yet.
            MessageTooLargeError: it is above ``limits.max_message_size``.
        """
        connection = self._connection
        body, buffers = self._encode(item, "item", connection.peer)
        number %= NUMBERS
        if buffers or len(body) >= self._plain:
            self._send_large(Request(_STREAM_ITEM, self._ident, body, buffers, function=number))
            return
        frame = pack_header(len(body), _STREAM_ITEM, 0, 0, self._ident, number, 0, 0.0) + body
        if connection.hook is None:
            connection.write(frame)
        else:
            connection.send(frame)

    def _send_large(self, item: Request) -> None:
        connection = self._connection
        if item.size > self._limit:
            if item.enclosed:
                self._agent.references.take_back(item.enclosed, connection.peer)
            raise MessageTooLargeError(
                f"item has {item.size} bytes, above max_message_size {self._limit}"
            )
        if item.enclosed and self._agent.references.is_held_back(item):
            self._agent.references.take_back(item.enclosed, connection.peer)
            raise EncodingError(
                "item has a reference to a value on a worker that is still being looked up: await "
                "the reference first"
            )
        if item.enclosed:
            connection.server.passing((item.call_id, item.function), item.enclosed)
        connection.send(item.frame(0.0))

    def is_writable(self) -> bool:
        """Whether the link takes more without piling it up."""
        return self._connection.stream.is_writable and self._connection.is_idle

    async def drained(self) -> None:
        """Wait until what was sent before has arrived: a ping behind it came back."""
        await self._connection.upkeep.fence()
