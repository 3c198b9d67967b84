"""Large buffers of one link through memory that both ends see, where they are on one host.

Made by a `Connection` whose ends both want it. Each side offers its own memory when it first has a
large buffer to send, with an ARENA frame; the other answers whether it can see it. Until then, if
it cannot, and while there is no room, buffers go through the stream. BUFFER_ACK frames tell which
places nobody sees any more at the receiver's. All these frames are exempt from fault plans. Memory
that was not used for a while goes back to the system.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncrpc.errors import RemoteProtocolError
from asyncrpc.transport import IS_POSSIBLE, Arena, Window
from asyncrpc.wire import ERROR, LENGTH, Frame, MessageType, Transfer, encode_frame

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("POOL", "Sharing", "features_of", "share")

_log = logging.getLogger("asyncrpc.connection")

POOL = 1 << 30
"""Bytes that all memory of one agent's may take; an all-to-all of large arrays would take as many
times what it moves as there are workers otherwise."""

_ARENA = int(MessageType.ARENA)
_BUFFER_ACK = int(MessageType.BUFFER_ACK)
_SHARES = 0x01  # hello feature: this side shares memory with peers on its host
_SIZE = 1 << 30  # bytes of one direction of a link, of address space until they are used
_KEEP = 10.0  # seconds that unused memory is kept: to get it is half as fast as to fill it
_BATCH = 4096  # places in one acknowledgement


def features_of(threshold: int | None) -> int:
    """Return the features that a worker with this ``shared_memory_threshold`` tells others."""
    return _SHARES if threshold is not None and IS_POSSIBLE else 0


def share(agent: Agent, connection: Connection) -> Sharing | None:
    """Return what shares memory over a new link, ``None`` unless both ends can and want to."""
    hello, least = connection.hello, agent.options.shared_memory_threshold
    if hello is None or not hello.features & _SHARES or hello.host != agent.host:
        return None
    if least is None or not IS_POSSIBLE or connection.stream.socket is None:
        return None
    return Sharing(agent, connection, least)


class Sharing:
    """Both directions of one link.

    Args:
        agent: whose link.
        connection: the link, whose ends both want it.
        least: bytes from which a buffer is shared.
    """

    __slots__ = (
        "_agent",
        "_connection",
        "_is_offered",
        "_least",
        "_offered",
        "_used",
        "_uses",
        "_window",
    )

    def __init__(self, agent: Agent, connection: Connection, least: int) -> None:
        self._agent = agent
        self._connection = connection
        self._least = least
        self._is_offered = False
        self._offered: Arena | None = None  # this side's, while the link lives
        self._window: Window | None = None  # on the other side's
        self._uses = 0  # of the memory, at the last look
        self._used = 0.0  # when there was a new one

    @property
    def handlers(self) -> dict[int, Callable[[Frame], None]]:
        """Handlers of the frames about shared memory, by type."""
        return {_ARENA: self._on_arena, _BUFFER_ACK: self._on_ack}

    # -- out

    def consider(self, transfer: Transfer) -> None:
        """Offer memory to the peer when the first message comes that would go through it."""
        if self._is_offered:
            return
        if any(buffer.nbytes >= self._least for buffer in transfer.buffers):
            self._is_offered = True
            try:
                self._offered = Arena(_SIZE, self._least, self._agent.pool)
            except OSError as error:
                _log.debug("no shared memory for %s: %s", self._connection.peer, error)
                return
            self._connection.write(encode_frame(_ARENA, 0, self._offered.offer))

    def _on_ack(self, frame: Frame) -> None:
        """Take back the places that the peer does not see any more.

        Raises:
            RemoteProtocolError: it never saw one of them.
        """
        arena = self._connection.bulk.arena
        places = frame[7]
        if arena is None or len(places) % LENGTH.size:
            raise RemoteProtocolError("acknowledgement of buffers that were not sent")
        for (place,) in LENGTH.iter_unpack(places):
            try:
                arena.acknowledge(place)
            except KeyError:
                raise RemoteProtocolError(f"no buffer at {place} to be acknowledged") from None

    def rest(self) -> None:
        """Look whether memory was not used for a while, and give it back; called now and then."""
        arena = self._connection.bulk.arena
        if arena is None:
            return
        now = self._agent.clock.time()
        if arena.taken or arena.uses != self._uses:
            self._uses, self._used = arena.uses, now
        elif now - self._used >= _KEEP:
            self._shrink()

    def _shrink(self) -> None:
        """Give a block back each turn, until all are or the memory is in use again."""
        arena = self._connection.bulk.arena
        if arena is not None and arena.shrink():
            self._agent.loop.call_soon(self._shrink)

    # -- in

    def _on_arena(self, frame: Frame) -> None:
        """Take an offer, which has a body, or the answer to the own one."""
        _, flags, _, _, _, _, _, body, _ = frame
        if not body:
            self._take_answer(is_seen=not flags & ERROR)
        elif self._window is not None:
            raise RemoteProtocolError("shared memory was offered twice")
        else:
            is_seen = self._open(bytes(body))
            self._connection.write(encode_frame(_ARENA, 0, flags=0 if is_seen else ERROR))

    def _take_answer(self, *, is_seen: bool) -> None:
        arena = self._offered
        if arena is None or self._connection.bulk.arena is not None:
            raise RemoteProtocolError("answer to no offer of shared memory")
        if is_seen:
            self._connection.bulk.arena = arena
        else:
            _log.debug("%s cannot see this worker's memory", self._connection.peer)
            arena.close()
            self._offered = None

    def _open(self, offer: bytes) -> bool:
        try:
            self._window = Window(offer, self._wake)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from error
        except OSError as error:  # another user, container or namespace
            _log.debug("cannot see the memory of %s: %s", self._connection.peer, error)
            return False
        self._connection.open_window(self._window.show)
        return True

    def _wake(self) -> None:
        """Have places acknowledged on the loop; called in the middle of anything, by any thread."""
        try:
            self._agent.loop.call_soon_threadsafe(self._acknowledge)
        except RuntimeError:  # the loop is closed, and with it the link
            return

    def _acknowledge(self) -> None:
        if self._window is None:
            return
        places = self._window.take_released()
        for at in range(0, len(places), _BATCH):
            body = b"".join(map(LENGTH.pack, places[at : at + _BATCH]))
            self._connection.write(encode_frame(_BUFFER_ACK, 0, body))

    # -- the end

    def close(self) -> None:
        """Give this side's memory back; what the user has of the other's stays valid."""
        if self._window is not None:
            self._window.close()
            self._window = None
        self._connection.bulk.arena = None
        if self._offered is not None:
            self._offered.close()
            self._offered = None
