"""The remote references of one agent: the shell around `Lifecycle`, and the values it keeps.

It tells the machine what happened, carries out its instructions in their order, and makes RRefs
travel. All of it happens on the agent's loop, but for RRef objects that are dropped: those may be
collected in any thread and inside any lock, so `dropped` only appends and wakes the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from threading import get_ident
from types import FrameType
from typing import Any, TypeVar

from asyncrpc.agent import Agent, Peer, Request, Waiting, run_there
from asyncrpc.errors import EncodingError, RpcError
from asyncrpc.wire import Hook, MessageType

from .control import ControlMessages
from .endings import Endings
from .futures import FAILED
from .holding import Holder
from .ids import maker_of, number_of, pack_fork, unpack_fork
from .intercepting import InterceptedHolder
from .keeping import Keeper
from .lifecycle import Lifecycle
from .reference import NO_PICKLE, RRef
from .sought import Sought
from .values import (
    AnswerFetch,
    Deleted,
    FailFetch,
    FailParked,
    Fork,
    FreeValue,
    GlobalId,
    RunParked,
    Send,
    WantFlush,
    Worker,
)

__all__ = ("RRefContext",)

_log = logging.getLogger("asyncrpc.rref")

_CODE = 1  # of RRefs among the codec's extensions
_CONTROL = ("RREF_USER_DELETE", "RREF_FORK_REQUEST", "RREF_CHILD_ACCEPT", "RREF_SYNC")
_TURN = 1024  # RRefs dropped that one turn of the loop deals with, some milliseconds

T = TypeVar("T")


class RRefContext:
    """See `agent.References`."""

    def __init__(self) -> None:
        self.hook: Hook = (RRef, _CODE, self._encode, self._decode, self._undo)
        self.arrived: list[Any] = []
        self.handled = 0
        self.leaks: tuple[str, ...] = ()
        self._dropped: deque[GlobalId] = deque()
        self._is_woken = False
        self._is_performing = False
        self._is_used = False
        self._unsure: dict[Peer, dict[int, Sequence[Fork]]] = {}
        self.sought = Sought()
        """What is known of workers that are being looked up."""
        self._is_over: Callable[[], bool] = lambda: False
        self._over: asyncio.Future[None] | None = None
        self._actions: dict[type, Callable[[Any], None]] = {
            RunParked: lambda i: i.token.run(),
            FailParked: lambda i: i.token.fail(i.cause.error()),
            AnswerFetch: lambda i: i.token.run(),
            FailFetch: lambda i: i.token.fail(i.cause.error()),
            WantFlush: self._want_flush,
        }

    def attach(self, agent: Agent) -> None:
        """See `References.attach`."""
        self.agent = agent
        self.thread = get_ident()
        self.peer = agent.members.of
        """Gives a worker by its incarnation, present or not; ``None`` if it is not known."""
        self.machine = Lifecycle(agent.incarnation)
        self.machine.fit(agent.options.limits.max_message_size)
        self._endings = Endings(agent, self.name)
        self._actions[Deleted] = self._endings.deleted
        self._control = ControlMessages(agent, self)
        self._actions[Send] = self._control.send
        self.keeper = Keeper(self)
        self._actions[FreeValue] = self.keeper.free
        interception = agent.interception
        self.holder = (
            Holder(self) if interception is None else InterceptedHolder(self, interception)
        )
        self.method = self.keeper.method
        self.serve = self.keeper.serve
        for name in _CONTROL:
            agent.handlers[MessageType[name]] = self._make_handler(MessageType[name])
        agent.members.listeners.append(self._on_gone)

    def _make_handler(self, kind: MessageType) -> Callable[[Peer, object], object]:
        def handle(peer: Peer, payload: object) -> object:
            self.handled += 1
            answer = self.machine.handle(kind, payload, peer.record.incarnation)
            self.perform()
            return answer

        return handle

    # -- workers

    def name(self, worker: Worker) -> str:
        """Return a worker's name for people."""
        peer = self.peer(worker)
        return worker.hex() if peer is None else peer.info.name

    def show(self, ident: GlobalId) -> str:
        """Return an id for people, as the reference system shows it."""
        peer = self.peer(maker_of(ident))
        maker = maker_of(ident).hex() if peer is None else peer.info.id
        return f"GloballyUniqueId(created_on={maker}, local_id={number_of(ident)})"

    def run_on_loop(self, function: Callable[[], T]) -> T:
        """Return what ``function`` does on the loop: at once there, else blocking this thread."""
        if self.is_loop_thread():
            return function()
        return run_there(self.agent.loop, function)

    def is_loop_thread(self) -> bool:
        """Whether this is the thread of the agent's loop."""
        return get_ident() == self.thread

    def _on_gone(self, peer: Peer) -> None:
        gone = peer.record.incarnation
        self._unsure.pop(peer, None)
        self.machine.worker_gone(gone, f"{peer}: {peer.reason}")
        self.perform()
        self._endings.owner_gone(gone)

    def link_opened(self, peer: Peer, *, is_first: bool) -> None:
        """See `References.link_opened`."""
        if peer.connection is not None:
            self.machine.fit(peer.connection.max_message_size)
        if self._is_used and not is_first:
            self.machine.reconnected(peer.record.incarnation)
            self.perform()

    def link_lost(self, peer: Peer) -> None:
        """See `References.link_lost`."""
        for enclosed in self._unsure.pop(peer, {}).values():
            self.doubt(enclosed, peer)

    # -- instructions

    def perform(self) -> None:
        """Carry out what the machine says, in its order, also where one thing leads to another."""
        if self._is_performing:
            return
        if self.machine.exchange.instructions:
            self._is_performing = True
            try:
                while todo := self.machine.take():
                    for instruction in todo:
                        self._actions[type(instruction)](instruction)
            finally:
                self._is_performing = False
        if self._over is not None and not self._over.done() and self._is_over():
            self._over.set_result(None)

    def answered(self, ticket: int, answer: object) -> None:
        """Take the answer to a control message."""
        try:
            self.machine.acked(ticket, answer)
        except ValueError as error:
            _log.warning("an answer about references makes no sense: %s", error)
        self.perform()
        if self.agent.idle_waiters and self.is_quiet:
            self.agent.became_idle()

    def exhausted(self, ticket: int, reason: str) -> None:
        """Learn that a control message cannot be sent as it is."""
        _log.warning("a message about references was not sent: %s", reason)
        self.machine.exhausted(ticket, reason)
        self.perform()

    def _want_flush(self, _: WantFlush) -> None:
        self.agent.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.machine.flush()
        self.perform()

    # -- RRef objects

    def make(self, handle: Fork) -> RRef:
        """Return an RRef object for a handle that counts it."""
        self._is_used = True
        rref = RRef.__new__(RRef)
        rref._take(self, handle)
        if self.sought:
            self.sought.add(handle.owner, rref)
        return rref

    def begin(self, peer: Peer) -> Fork:
        """Return the first handle of a value that ``peer`` is to be asked for."""
        if self.agent.members.sought and self.agent.members.is_sought(peer):
            self.sought.begin(peer.record.incarnation)
        return self.machine.create(peer.record.incarnation)

    def create(
        self,
        to: object,
        func: object,
        args: Sequence[object] | None,
        kwargs: Mapping[str, object] | None,
        timeout: object,
        site: FrameType,
    ) -> RRef:
        """Have a function make a value; see `asyncrpc.remote`."""
        if get_ident() != self.thread:
            create = partial(self.create, to, func, args, kwargs, timeout, site)
            return run_there(self.agent.loop, create)
        handle, is_script = self.holder.create(to, func, args, kwargs, timeout, site)
        rref = self.make(handle)
        rref._is_script = is_script
        return rref

    def refer_to(self, value: object) -> RRef:
        """Return a reference to a value, which is kept here."""
        return self.run_on_loop(lambda: self.make(self.own(value)))

    def own(self, value: object) -> Fork:
        """Keep a value of this worker's own; return its handle."""
        self._is_used = True
        handle = self.machine.own()
        self.keeper.keep(handle.rref, value)
        return handle

    def dropped(self, fork: GlobalId) -> None:
        """Learn that an RRef object was collected; from any thread, inside any lock."""
        self._dropped.append(fork)
        if not self._is_woken:
            self._is_woken = True
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: so is everything else
            self.agent.loop.call_soon_threadsafe(self._release_dropped)

    def _release_dropped(self) -> None:
        self._is_woken = False  # first: what is dropped from now on wakes the loop again
        dropped = self._dropped
        self.machine.release([dropped.popleft() for _ in range(min(len(dropped), _TURN))])
        self.perform()
        if dropped and not self._is_woken:
            self._is_woken = True
            self.agent.loop.call_soon(self._release_dropped)

    def release(self, fork: GlobalId, owner: Worker) -> asyncio.Future[None] | None:
        """Count out an RRef object.

        Returns:
            What is done once the owner knows, if it was the last one of its fork; it fails with
            RpcTimeoutError if that takes longer than calls may by default.
        """
        if not self.machine.release((fork,)):
            self.perform()
            return None
        ending = self._endings.begin(fork, owner)
        self.perform()
        return ending

    # -- references in messages

    def _encode(self, rref: RRef, to: object) -> tuple[bytes, Fork]:
        if not isinstance(to, Peer):
            raise EncodingError(NO_PICKLE)
        if rref._context is not self:
            raise EncodingError(f"{rref!r} belongs to another agent of this process")
        fork = self.machine.fork(rref._usable()._fork, to.record.incarnation)
        return pack_fork(fork), fork

    def _decode(self, data: object) -> RRef:
        rref = self.make(self.machine.receive(unpack_fork(data)))
        self.arrived.append(rref)
        return rref

    def _undo(self, enclosed: Sequence[Fork], to: object) -> None:
        assert isinstance(to, Peer)
        self.take_back(enclosed, to)

    def take_back(self, enclosed: Sequence[Fork], peer: Peer) -> None:
        """See `References.take_back`."""
        self.machine.roll_back(enclosed, peer.record.incarnation)
        self.perform()

    def doubt(self, enclosed: Sequence[Fork], peer: Peer) -> None:
        """See `References.doubt`."""
        self.machine.doubt(enclosed, peer.record.incarnation)
        self.perform()

    def keep(self, enclosed: Sequence[Fork]) -> Sequence[GlobalId]:
        """See `References.keep`."""
        return [self.machine.share(fork) for fork in enclosed]

    def let_go(self, kept: Sequence[GlobalId]) -> None:
        """See `References.let_go`."""
        self.machine.release(kept)
        self.perform()

    def enclose_again(self, request: Request, kept: Sequence[GlobalId], peer: Peer) -> None:
        """See `References.enclose_again`."""
        for fork in kept:
            self.machine.check(fork)  # before any is made
        forks = [self.machine.fork(fork, peer.record.incarnation) for fork in kept]
        for old, new in zip(request.enclosed, forks, strict=True):
            request.replace(pack_fork(old), pack_fork(new))
        request.enclosed = forks

    def found(self, stand_in: Peer, peer: Peer) -> None:
        """See `References.found`."""
        old, new = stand_in.record.incarnation, peer.record.incarnation
        self.machine.found(old, new)
        self._endings.owner_found(old, new)
        unsure = self._unsure.pop(stand_in, None)
        if unsure is not None:
            self._unsure.setdefault(peer, {}).update(unsure)
        self.sought.found(old, new)

    def unfound(self, stand_in: Peer, error: RpcError) -> None:
        """See `References.unfound`."""
        for enclosed in self._unsure.pop(stand_in, {}).values():
            self.take_back(enclosed, stand_in)
        self.sought.unfound(stand_in.record.incarnation, f"{FAILED}: {error}")
        self.machine.unfound(stand_in.record.incarnation)
        self.perform()

    def hold_back(self, message: Request, waiting: Waiting) -> bool:
        """See `References.hold_back`."""
        return self.sought.hold(message, waiting)

    def is_held_back(self, message: Request) -> bool:
        """See `References.is_held_back`."""
        return self.sought.lacks(message) is not None

    def notified(self, call_id: int, enclosed: Sequence[Fork], peer: Peer) -> None:
        """See `References.notified`."""
        self._unsure.setdefault(peer, {})[call_id] = enclosed

    def taken(self, call_id: int, peer: Peer) -> None:
        """See `References.taken`."""
        unsure = self._unsure.get(peer)
        if unsure is not None:
            unsure.pop(call_id, None)
            if not unsure:
                del self._unsure[peer]

    def hold(self, waiting: Waiting) -> None:
        """See `References.hold`."""
        forks = [rref._fork for rref in self.arrived]
        self.arrived.clear()
        self.machine.park(waiting, forks)
        self.perform()

    def withdraw(self, waiting: Waiting) -> None:
        """See `References.withdraw`."""
        self.machine.unpark(waiting)

    # -- the end

    @property
    def is_quiet(self) -> bool:
        """See `References.is_quiet`."""
        return self.machine.is_quiet and not self._dropped

    def note_leaks(self) -> None:
        """See `References.note_leaks`."""
        if self.agent.options.check_leaks:
            self.leaks = tuple([self.keeper.describe(row) for row in self.machine.leaks()])

    async def release_all(self, *, is_group_over: bool) -> None:
        """See `References.release_all`."""
        kept = [peer.kept for peer in self.agent.members.all() if peer.kept is not None]
        for server in (*self.agent.servers, *kept):
            for ident in server.passed:
                server.doubt_passed(ident)
        for peer in tuple(self._unsure):
            self.link_lost(peer)
        machine = self.machine
        machine.release_all()
        self._is_over = lambda: machine.is_drained if is_group_over else machine.holds_nothing
        self._over = self.agent.loop.create_future()
        self.perform()
        await self._over

    def close(self) -> None:
        """See `References.close`."""
        self.machine.close()
        self.perform()
        self._endings.close()
        self._unsure.clear()
        if self._over is not None:
            self._over.cancel()
