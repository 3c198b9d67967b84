"""Drives a handshake over a stream, before anything else is read from it.

Called by whoever opened or accepted the stream: agents, stores, control sockets. Afterwards the
stream stands still until `Stream.attach` puts the real handler on it.
"""

from __future__ import annotations

import asyncio

from asyncrpc.errors import AuthenticationError, RemoteProtocolError
from asyncrpc.observe import Clock, LoopClock, time_limit
from asyncrpc.transport.stream import Stream
from asyncrpc.wire import Handshake, Hello

__all__ = ("Greeter", "authenticate")

_ROOM = 4096  # bytes read before the peer is known
_LOOP_CLOCK = LoopClock()


class Greeter:
    """The handler of a stream whose peer is not known yet.

    Args:
        handshake: this side's machine, fresh.
        stream: the stream it sits on, where it is known already: a listener's.
    """

    def __init__(self, handshake: Handshake, stream: Stream | None = None) -> None:
        self.handshake = handshake
        self._room = memoryview(bytearray(_ROOM))
        self._early = b""  # came before the stream was known here
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error: Exception | None = None  # what ended it, when done
        self._stream = stream

    async def greet(self, stream: Stream, timeout: float, clock: Clock = _LOOP_CLOCK) -> Hello:
        """Authenticate the peer of ``stream``, on which this handler sits.

        Args:
            stream: connected; left paused on success and closed on failure.
            timeout: seconds for the whole exchange, above 0.
            clock: whose seconds.

        Returns:
            What the peer said of itself; its bytes after the handshake are ``handshake.leftover``.

        Raises:
            AuthenticationError: the peer does not have the secret, or belongs to another run.
            RemoteProtocolError: it does not speak the protocol, closed, or refused this side.
            TimeoutError: it did not finish in time.
        """
        self._stream = stream
        try:
            self._send(self.handshake.start())
            if self._early:
                self._feed(self._early)
            async with time_limit(clock, timeout):
                await self._done
        except TimeoutError as error:
            stream.abort()
            raise TimeoutError(
                f"{stream.peer} did not finish the handshake in {round(timeout, 2):g} s"
            ) from error
        except BaseException:
            stream.close()
            raise
        if self._error is not None:
            stream.close()
            raise self._error
        return self.handshake.peer

    def get_buffer(self, size_hint: int) -> memoryview:  # noqa: ARG002, D102 -- StreamHandler
        return self._room

    def buffer_updated(self, count: int) -> None:  # noqa: D102 -- StreamHandler
        data = bytes(self._room[:count])
        if self._stream is not None:
            self._feed(data)
        else:
            self._early = (self._early + data)[:_ROOM]  # no peer has so much to say

    def stream_closed(self, error: Exception | None) -> None:  # noqa: D102 -- StreamHandler
        peer = self._stream.peer if self._stream else "the peer"
        reason = f": {error}" if error else ""
        self._finish(
            RemoteProtocolError(f"{peer} closed the connection during the handshake{reason}")
        )

    def write_ready(self) -> None:
        """Have nothing large to write."""

    def _feed(self, data: bytes) -> None:
        assert self._stream is not None  # called with it known
        if self._done.done():
            return
        try:
            self._send(self.handshake.feed(data))
        except (AuthenticationError, RemoteProtocolError) as error:
            self._send(self.handshake.farewell)
            self._stream.pause_reading()
            self._finish(error)
            return
        if self.handshake.is_done:
            self._stream.pause_reading()
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if not self._done.done():
            self._error = error
            self._done.set_result(None)  # not the error: nobody may come to see it

    def _send(self, data: bytes) -> None:
        if data and self._stream is not None:
            self._stream.write(data)


async def authenticate(stream: Stream, handshake: Handshake, timeout: float = 5.0) -> Hello:
    """Drive ``handshake`` over a connected stream; see `Greeter.greet`.

    Streams from a listener should have their `Greeter` from the start: bytes that arrived while
    another handler sat on the stream are not seen here.
    """
    greeter = Greeter(handshake)
    stream.handler = greeter
    return await greeter.greet(stream, timeout)
