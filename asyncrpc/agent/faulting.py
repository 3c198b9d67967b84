"""Does to an agent's messages what its fault plans say, and cuts it off from other workers.

The innermost layer of messages: those above take its faults for real ones. There is a
`FaultInjector` only where a plan is set or a partition is on; without one nothing of it is in the
path. It decides nothing itself: plans do, and `partition` says who is out of reach.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

from asyncrpc.agent.delayed import Delayed, Message, head_of
from asyncrpc.agent.receipts import send_receipt
from asyncrpc.errors import Delivery, InjectedFaultError, RemoteProtocolError
from asyncrpc.faults import FaultEvent, FaultPlan
from asyncrpc.wire import ERROR, HEADER, REFERENCES, RESPONSE, Frame, MessageType, Transfer

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection
    from asyncrpc.agent.peers import Peer

__all__ = ("FaultInjector",)

_log = logging.getLogger("asyncrpc.faults")

_RREF_TAKEN = int(MessageType.RREF_TAKEN)
_LINK = frozenset(int(MessageType[n]) for n in (
    "INTERN", "PING", "PONG", "CHUNK", "CANCELLED", "ARENA", "BUFFER_ACK",
))  # fmt: skip
_UPKEEP = frozenset(int(MessageType[n]) for n in ("DRAIN", "GATHER", "MEMBER"))
_UPKEEP_NAMES = frozenset(MessageType(kind).name for kind in _UPKEEP)
# What stays true of a link while nothing gets through: names and the use of shared memory.
_LASTING = frozenset(int(MessageType[n]) for n in ("INTERN", "ARENA", "BUFFER_ACK"))
_STREAM_ITEM = int(MessageType.STREAM_ITEM)
_STREAM_END = int(MessageType.STREAM_END)
_REORDER = 0.1  # seconds a message waits for one that overtakes it, unless its rule says otherwise
_SPOILED = b"\xff" * HEADER.size  # announces more than any frame may have
_NAMES = {int(kind): kind.name for kind in MessageType}


class FaultInjector:
    """The fault hook of one agent: see `fault_hook.FaultHook`.

    Args:
        agent: whose messages.
        plans: asked in order; the first that has something to do to a message does it.
    """

    def __init__(self, agent: Agent, plans: Iterable[FaultPlan] = ()) -> None:
        self._agent = agent
        self._plans = tuple(plans)
        self._cut: set[str] = set()
        self._held: dict[Connection, list[Delayed]] = {}
        self._overtaken: dict[tuple[Connection, str], Delayed] = {}
        self._upkeep: set[tuple[Connection, int]] = set()  # whose replies are left alone
        self._lasting: dict[Connection, list[bytes]] = {}  # to be sent after the partition

    # -- partition

    def partition(self, peers: Iterable[Peer]) -> None:
        """Lose all that is sent to and comes from these peers until `heal`."""
        for peer in peers:
            self._cut.add(peer.info.name)
            connection = peer.connection
            if connection is not None and connection not in self._lasting:
                connection.hook = self
                connection.write = self._gate(connection)  # type: ignore[assignment]  # named alike

    def heal(self) -> bool:
        """Let everything through again; true if this hook has nothing more to do."""
        self._cut.clear()
        for connection, frames in self._lasting.items():
            connection.write = connection.stream.write
            for frame in frames:
                connection.write(frame)
        self._lasting.clear()
        return not self._plans

    def is_cut_off(self, name: str) -> bool:
        """Whether a worker is out of reach, so that no link to it can be opened."""
        return name in self._cut

    def _gate(self, connection: Connection) -> Callable[[bytes], None]:
        """Return what stands in for the stream's write during a partition."""
        kept = self._lasting[connection] = []

        def write(frame: bytes) -> None:
            if head_of(frame)[0] in _LASTING:
                kept.append(frame)

        return write

    # -- out

    def outgoing(self, connection: Connection, message: Message) -> None:
        """Pass a message on: now, later, more than once or never."""
        kind, flags, call_id = head_of(message)
        peer = connection.peer
        if peer.info.name in self._cut:
            return
        if self._is_exempt_reply(connection, kind, call_id):
            connection.transmit(message)
            return
        event = self._decide(connection, "out", kind, call_id, message)
        match event and event.kind:
            case None:
                connection.transmit(message)
                self._overtake(connection, "out")
            case "duplicate":
                connection.transmit(message)
                connection.transmit(_copy(message))
            case "delay" | "reorder":
                self._hold(connection, cast("FaultEvent", event), message)
            case "fail":
                self._fail_out(connection, kind, flags, call_id)
            case "corrupt" if connection.hello is not None:
                connection.transmit(_SPOILED)
            case "disconnect" if connection.hello is not None:
                # not from here: who sends goes on with this link in this turn
                self._agent.loop.call_soon(_break_link, connection)
            case _:
                pass  # lost

    def _fail_out(self, connection: Connection, kind: int, flags: int, call_id: int) -> None:
        error = _injected(kind, connection.peer, call_id, flags)
        if kind == _STREAM_ITEM:
            connection.server.fail_item(call_id, error)
        elif _is_reply(kind):
            connection.transmit(connection.server.failure(kind, call_id, error).frame(0.0))
            connection.server.taken(call_id, is_error=True)
        elif kind != _RREF_TAKEN:  # which is about a call, and none itself
            self._fail_call(connection, call_id, error)

    def _fail_call(self, connection: Connection, call_id: int, error: InjectedFaultError) -> None:
        """Fail a call that is out; what nobody waits for is lost."""
        future = self._agent.pending.get(call_id)
        if future is None or future.owner is not connection.peer:
            return
        del self._agent.pending[call_id]
        if future.counts:
            connection.peer.inflight -= 1
        if not future.done():
            future.fail(error)

    # -- in

    def incoming(self, connection: Connection, frames: list[Frame]) -> list[Frame]:
        """Return the frames to handle in place of those received.

        Raises:
            RemoteProtocolError: the plan breaks the link here; those before were handled.
        """
        if connection.peer.info.name in self._cut:
            connection.is_heard = False
            return [frame for frame in frames if frame[0] in _LASTING]
        passed: list[Frame] = []
        for frame in frames:
            if frame[0] in _UPKEEP:
                self._upkeep.add((connection, frame[3]))
            if self._is_awaited_upkeep(frame):
                passed.append(frame)
            else:
                self._take_in(connection, frame, passed)
        return passed

    def _take_in(self, connection: Connection, frame: Frame, passed: list[Frame]) -> None:
        kind, flags, _, call_id = frame[:4]
        event = self._decide(connection, "in", kind, call_id, None)
        match event and event.kind:
            case None:
                passed.append(frame)
                if kind not in _LINK:
                    self._pass_overtaken(connection, passed)
            case "duplicate":
                passed += (frame, frame)
            case "delay":
                self._hold(connection, cast("FaultEvent", event), _kept(frame))
            case "reorder":
                self._pass_overtaken(connection, passed)  # two that wait would be in order again
                self._hold(connection, cast("FaultEvent", event), _kept(frame))
            case "fail":
                self._fail_in(connection, kind, flags, call_id)
            case "corrupt" | "disconnect" if connection.hello is not None:
                connection.handle(passed)
                passed.clear()
                raise RemoteProtocolError(f"a fault was injected: {event and event.kind}")
            case _:
                pass  # lost

    def _pass_overtaken(self, connection: Connection, passed: list[Frame]) -> None:
        """Let what waits to be overtaken follow on what was read before."""
        held = self._overtaken.get((connection, "in"))
        if held is not None:
            self._forget(held)
            passed.append(held.frame(self._agent.clock.time()))

    def _fail_in(self, connection: Connection, kind: int, flags: int, call_id: int) -> None:
        error = _injected(kind, connection.peer, call_id, flags)
        if _is_reply(kind):
            self._fail_call(connection, call_id, error)
            if kind == _STREAM_ITEM:
                connection.peer.stop(call_id)  # its producer knows nothing of it
            elif flags & REFERENCES:
                send_receipt(connection, 0, call_id, is_error=True)
        else:
            connection.server.refuse(kind, call_id, error)

    # -- messages that wait

    def holds(self, connection: Connection) -> bool:
        """Whether a message of this link waits."""
        return connection in self._held

    def withdraw(self, connection: Connection, call_id: int) -> bool:
        """Take back a request that waits; true if there was one, so that it never left."""
        for held in self._held.get(connection, ()):
            if held.is_request and held.call_id == call_id:
                self._forget(held)
                self._agent.became_idle()
                return True
        return False

    def answers(self, connection: Connection, call_id: int) -> bool:
        """Whether the reply to a call has come, and waits."""
        held = self._held.get(connection, ())
        return any(one.is_reply and one.call_id == call_id for one in held)

    def take_held(self, connection: Connection) -> list[Message]:
        """Hand over what waits to go out on a link that is gone, and forget the link."""
        waiting = self._held.get(connection, [])
        for held in tuple(waiting):
            self._forget(held)
        self._lasting.pop(connection, None)
        self._upkeep = {entry for entry in self._upkeep if entry[0] is not connection}
        return [cast("Message", held.message) for held in waiting if held.is_out]

    def _hold(self, connection: Connection, event: FaultEvent, message: Message | Frame) -> None:
        clock = self._agent.clock
        now = clock.time()
        held = Delayed(connection, event, message, now)
        if event.kind == "reorder":
            self._overtake(connection, event.direction)  # as above
            self._overtaken[connection, event.direction] = held
            seconds = event.delay or _REORDER
        else:
            seconds = event.delay
        self._held.setdefault(connection, []).append(held)
        held.timer = clock.call_at(now + seconds, self._release, held)

    def _overtake(self, connection: Connection, direction: str) -> None:
        held = self._overtaken.get((connection, direction))
        if held is not None:
            self._release(held)

    def _forget(self, held: Delayed) -> None:
        """Drop a message from those that wait."""
        connection = held.connection
        waiting = [other for other in self._held.pop(connection, []) if other is not held]
        if waiting:
            self._held[connection] = waiting
        if self._overtaken.get((connection, held.direction)) is held:
            del self._overtaken[connection, held.direction]
        if held.timer is not None:
            held.timer.cancel()

    def _release(self, held: Delayed) -> None:
        """Let a message go on, unless its link is gone or cut meanwhile."""
        self._forget(held)
        connection = held.connection
        now = self._agent.clock.time()
        if not connection.stream.is_closed and connection.peer.info.name not in self._cut:
            if held.is_out:
                connection.transmit(held.outgoing(now))
            else:
                connection.deliver([held.frame(now)])
        self._agent.became_idle()

    # -- decisions

    def _is_exempt_reply(self, connection: Connection, kind: int, call_id: int) -> bool:
        """Whether it answers one of the agents' own messages, whose loss would stop the group."""
        if not kind & RESPONSE or (connection, call_id) not in self._upkeep:
            return False
        self._upkeep.discard((connection, call_id))
        return True

    def _is_awaited_upkeep(self, frame: Frame) -> bool:
        if not frame[0] & RESPONSE:
            return False
        future = self._agent.pending.get(frame[3])
        return future is not None and not future.is_user and future.function in _UPKEEP_NAMES

    def _decide(
        self,
        connection: Connection,
        direction: str,
        kind: int,
        call_id: int,
        message: Message | None,
    ) -> FaultEvent | None:
        name = _NAMES.get(kind)
        if name is None or kind in _LINK:
            return None
        identity = _identity(name, call_id, message)
        me, peer = self._agent.info.name, connection.peer.info.name
        for plan in self._plans:
            event = plan.decide(me, direction, peer, name, call_id=call_id, identity=identity)
            if event is not None:
                _log.debug("%s: %s, seed %d", me, event, plan.seed)
                return event
        return None


def _copy(message: Message) -> Message:
    if not isinstance(message, Transfer):
        return message
    return Transfer(message.header, message.sections, call=message.call)


def _kept(frame: Frame) -> Frame:
    """Return a frame that does not use the memory of the read it came in."""
    meta = None if frame[6] is None else memoryview(bytes(frame[6]))
    return (*frame[:6], meta, memoryview(bytearray(frame[7])), frame[8])


def _identity(name: str, call_id: int, message: Message | None) -> tuple[object, ...]:
    """Return what the sends of one message share: a call's id, else the ids in the payload."""
    if isinstance(message, bytes) and name.startswith(("RREF_", "CLEANUP_")):
        return (name, blake2b(message[HEADER.size :], digest_size=16).digest())
    return (name, call_id)


def _injected(kind: int, peer: Peer, call_id: int, flags: int) -> InjectedFaultError:
    """Return the error of a message that fails on purpose; a reply that failed says it ran."""
    if not _is_reply(kind):
        delivery = Delivery.NOT_SENT
    else:  # what was an error already may have been a refusal
        delivery = Delivery.UNKNOWN if flags & ERROR else Delivery.EXECUTED
    name = MessageType(kind).name
    return InjectedFaultError(
        f"Send attempt failed intentionally for {name} of call {call_id}, peer {peer}",
        delivery=delivery,
    )


def _is_reply(kind: int) -> bool:
    """Whether a message of this type goes from the callee to the caller."""
    return bool(kind & RESPONSE) or kind in (_STREAM_ITEM, _STREAM_END)


def _break_link(connection: Connection) -> None:
    if not connection.stream.is_closed:
        connection.fail(RemoteProtocolError("a fault was injected: disconnect"))
