"""`rpc_stream`: the items of an async generator on another worker, as far ahead as there is room.

A stream is a call that is answered by STREAM_ITEMs before its STREAM_END; early closing is a
cancel. What a lost link, a deadline or a shutdown does to calls, it does to streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from asyncrpc.agent.ambient import ambient
from asyncrpc.agent.inlet import HeldItem, Inlet, StreamFuture
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.receipts import send_receipt
from asyncrpc.agent.request import Request
from asyncrpc.errors import RemoteProtocolError, RpcError
from asyncrpc.execution import current_call
from asyncrpc.wire import ERROR, REFERENCES, Frame, MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("RpcStream", "Streams")

T = TypeVar("T")

_STREAM_CALL = int(MessageType.STREAM_CALL)
_STREAM_ITEM = int(MessageType.STREAM_ITEM)
_MAX_WINDOW = 1 << 20  # items; a peer may send as many that nobody has asked for yet


class RpcStream(Generic[T]):
    """The items of a remote async generator: iterate over it, once.

    Leaving ``async with``, `aclose`, cancelling the task that waits for an item, and dropping the
    last reference close the generator on the producer, whose ``finally`` runs as soon as it hears
    of it. An error of the producer, and the
    loss of its worker, are raised after the items that came before; then the stream is over.
    """

    def __init__(self, inlet: Inlet, future: StreamFuture) -> None:
        self._inlet = inlet
        self.ended: RpcFuture[int] = future
        """The call behind it: done with the number of items when all came, or with an error."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next item.

        Raises:
            StopAsyncIteration: the stream is over.
            RpcTimeoutError: no item came in time; the stream is closed.
            PeerLostError: the producer's worker was lost, or the link broke.
            RuntimeError: two tasks wait for items.
        """
        inlet = self._inlet
        if not inlet.items:
            await inlet.wait()
        return cast("T", inlet.take())

    async def aclose(self) -> None:
        """Close the stream: the producer is told, items that were not read are dropped."""
        self._drop_unread()
        self.ended.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # from whichever thread collects it; on a loop that is closed nothing is left to do
        if not self.ended.done():
            with contextlib.suppress(RuntimeError):
                self.ended.get_loop().call_soon_threadsafe(self.ended.cancel)
        else:
            self._drop_unread()

    def _drop_unread(self) -> None:
        """Hold no longer what was not read: there may be references in it."""
        self._inlet.items.clear()

    def __repr__(self) -> str:
        return f"<RpcStream {self.ended.function} on {self.ended.owner}>"


class Streams:
    """The streams that one agent reads.

    Args:
        agent: whose streams.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def open(
        self,
        to: object,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: float,
        window: object,
        site: FrameType,
    ) -> RpcStream[Any]:
        """Send the request; see `asyncrpc.rpc_stream`."""
        if type(window) is not int or not 1 <= window <= _MAX_WINDOW:
            raise ValueError(f"window must be an int from 1 to {_MAX_WINDOW}, got {window!r}")
        caller = self._agent.caller
        peer, function, body, buffers = caller.prepare(to, func, args, kwargs)
        future = StreamFuture(loop=self._agent.loop)
        depth, deadline = caller.begin(future, peer, function, site)
        future.timeout = timeout
        future.inlet = inlet = Inlet(self._agent, future, window, timeout)
        request = Request(
            _STREAM_CALL,
            future.call_id,
            body,
            buffers,
            function=function,
            depth=depth,
            deadline=deadline,
            meta=caller.carried(peer, ambient.get(), current_call.get(), window),
        )
        caller.submit(peer, request, future)
        return RpcStream(inlet, future)

    # -- from the link

    def take_item(self, connection: Connection, frame: Frame) -> None:
        """Give an item to its stream."""
        future = self._find(connection, frame)
        if future is None:  # closed meanwhile
            if frame[1] & REFERENCES:
                send_receipt(connection, _STREAM_ITEM, frame[3], is_error=True, number=frame[4])
            return
        references = self._agent.references
        try:
            item = self._agent.codec.decode(frame[7], frame[8])
            future.inlet.check(frame[4])
            if references.arrived:
                held = HeldItem(self, connection, future, frame[4], item)
                send_receipt(connection, _STREAM_ITEM, frame[3], number=frame[4])
                references.hold(held)
                return
            future.inlet.put(frame[4], item)
        except RpcError as error:
            references.arrived.clear()
            connection.peer.withdraw(future)
            self._agent.caller.undecodable(future, error)
        self.look(connection, future)

    def take_end(self, connection: Connection, frame: Frame) -> None:
        """Learn that a stream failed, or how many items it has."""
        future = self._find(connection, frame)
        if future is None or frame[1] & ERROR:
            self._agent.caller.take_reply(connection, frame)
            return
        total = self._agent.codec.decode(frame[7], frame[8])
        if type(total) is not int or total < 0:
            raise RemoteProtocolError(f"a stream must end with a count, got {total!r:.50}")
        future.inlet.total = total
        self.look(connection, future)

    def look(self, connection: Connection, future: StreamFuture) -> None:
        """End a stream of which all items are here."""
        if future.inlet.is_complete:
            self._finish(connection, future)

    def _find(self, connection: Connection, frame: Frame) -> StreamFuture | None:
        future = self._agent.pending.get(frame[3])
        if future is None:
            return None
        if not isinstance(future, StreamFuture) or future.owner is not connection.peer:
            raise RemoteProtocolError("stream item for a call that is no stream of this worker")
        return future

    def _finish(self, connection: Connection, future: StreamFuture) -> None:
        if self._agent.pending.pop(future.call_id, None) is None:
            return
        if future.counts:
            connection.peer.inflight -= 1
        future.succeed(future.inlet.total or 0)
