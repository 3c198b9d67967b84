"""One other worker as this agent sees it: its link, the calls to it, what became of it.

A peer opens its link on first use, gives it calls up to the limit, queues the rest, and decides
what a broken link means for the calls that were out. `Dialer` opens links; the verdict that a
worker is gone comes from here or from the failure detector and is final for the incarnation.

Theory of operation of the places in flight. A side never has more calls out on a link than both
sides' ``max_inflight`` allow; the handshake tells the other's. A call holds its place until the
callee is known not to count it any more: its reply came, or the callee answered its CANCEL with
CANCELLED. So what the callee counts is always part of what the caller counts, in whatever order
messages arrive, and the callee refuses only a caller that breaks this. A CANCEL whose answer was
lost is sent again with the next sign of life.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.bounds import refuse_too_large
from asyncrpc.agent.dialing import Dialer, Opener
from asyncrpc.agent.keeping import KeptServer
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.request import Request
from asyncrpc.agent.tally import code_of
from asyncrpc.agent.unsent import unsent_requests
from asyncrpc.agent.withheld import WithheldRequest
from asyncrpc.errors import Delivery, PeerLostError, RpcError, StatusCode, UnknownWorkerError
from asyncrpc.wire import CALLS, Frame, MessageType, encode_frame

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection
    from asyncrpc.discovery import Record

__all__ = ("Peer", "PeerState")

_log = logging.getLogger("asyncrpc.peer")

_CANCEL = int(MessageType.CANCEL)
_NOTIFY = int(MessageType.NOTIFY)
_SPARE = 64  # withdrawn entries of a queue that are not worth a pass over it


class PeerState(enum.Enum):
    """What this agent knows of a worker."""

    PRESENT = "present"
    LEFT = "left"
    """It said goodbye after an orderly shutdown."""
    LOST = "lost"
    """It died, fell silent or went without an orderly shutdown."""


class Peer:
    """Another worker of the group, or this one itself.

    Args:
        agent: whose view this is.
        record: what the worker published of itself.
    """

    __slots__ = (
        "_agent",
        "_is_admission_due",
        "_is_new",
        "_stopping",
        "_withdrawn",
        "arriving",
        "connection",
        "dialer",
        "inflight",
        "info",
        "is_fenced",
        "kept",
        "limit",
        "is_judged",
        "is_leaving",
        "queue",
        "reason",
        "record",
        "state",
    )

    def __init__(self, agent: Agent, record: Record) -> None:
        self._agent = agent
        self.record = record
        self.info = record.info
        self.state = PeerState.PRESENT
        self.reason = ""
        self.connection: Connection | None = None
        self.inflight = 0
        """Calls that hold a place in flight; at most `limit` but for nested ones."""
        self.limit = agent.options.limits.max_inflight
        """Places in flight: the smaller of both sides' ``max_inflight``."""
        self.queue: deque[tuple[Request, RpcFuture[Any] | None]] = deque()
        """Messages that wait for the link or for a place in flight."""
        self.is_fenced = True
        """Whether all that was sent without a reply is known to have arrived."""
        self.arriving = 0
        """Links of the worker's own that were let in and are about to be opened."""
        self.kept: KeptServer | None = None
        """Serves the worker's calls that may be sent again, once there was one."""
        self._withdrawn = 0  # entries of the queue that nobody waits for any more
        self._stopping: set[int] = set()  # cancelled calls that the callee may still count
        self._is_admission_due = False
        self._is_new = True  # there never was a link
        self.is_leaving = False
        """Whether it said that it will leave: it answers what is out and wants nothing new."""
        self.is_judged = False
        """Whether the store holds it for lost, so that its own verdicts are void."""
        self.dialer: Opener = Dialer(agent, self)

    def __repr__(self) -> str:
        return self.info.name

    @property
    def is_present(self) -> bool:
        """Whether the worker has neither left nor been lost."""
        return self.state is PeerState.PRESENT

    # -- calls out

    @property
    def waiting(self) -> int:
        """How many messages wait for the link or for a place in flight."""
        return len(self.queue) - self._withdrawn

    @property
    def stopping(self) -> int:
        """How many cancelled calls still hold a place in flight."""
        return len(self._stopping)

    def submit(self, request: Request, future: RpcFuture[Any] | None, *, counts: bool) -> None:
        """Send a message as soon as there is a link and, for calls, a place in flight."""
        connection = self.connection
        if (
            request.enclosed
            and WithheldRequest(self._agent, self, request, future, counts=counts).is_held()
        ):
            return
        if connection is None:
            self.queue.append((request, future))
            self.dialer.start()
        elif counts and self._is_full(request):
            self.queue.append((request, future))
        else:
            self._transmit(connection, request, future, counts=counts)

    def admit(self) -> None:
        """Send what waits, as far as there are places in flight."""
        connection = self.connection
        queue = self.queue
        while queue and connection is not None:
            request, future = queue[0]
            if future is not None and future.done():
                queue.popleft()
                self._withdrawn = max(0, self._withdrawn - 1)
                continue
            counts = request.kind in CALLS
            if counts and self._is_full(request):
                return
            queue.popleft()
            self._transmit(connection, request, future, counts=counts)
        if not queue:
            self._agent.became_idle()

    def _admit_uncounted(self) -> None:
        """Send control messages and nested calls that wait behind calls without a place."""
        waiting, self.queue = self.queue, deque()
        self._withdrawn = 0
        connection = self.connection
        for request, future in waiting:
            if future is not None and future.done():
                continue
            if connection is None or (request.kind in CALLS and not request.depth):
                self.queue.append((request, future))
            else:
                counts = request.kind in CALLS
                self._transmit(connection, request, future, counts=counts)

    def _is_full(self, request: Request) -> bool:
        # a nested call waits for nobody's place: the call it serves may hold the last one
        return self.inflight >= self.limit and not request.depth

    def _transmit(
        self,
        connection: Connection,
        request: Request,
        future: RpcFuture[Any] | None,
        *,
        counts: bool,
    ) -> None:
        if request.function:
            connection.announce(request.function, self._agent.caller.name_of(request.function))
        if future is not None:
            future.is_sent = True
            future.counts = counts
        if counts:
            self.inflight += 1
        connection.send(request.frame(self._agent.clock.time()))

    def withdraw(self, future: RpcFuture[Any]) -> None:
        """Forget a call that was cancelled or timed out, and stop it where it runs."""
        self._agent.pending.pop(future.call_id, None)
        if not future.is_sent:
            if not future.is_resting:
                self._skip(future)
            if future.may_have_run:
                self.stop(future.call_id)
            return
        connection = self.connection
        if connection is None or connection.cancel(future.call_id):
            future.is_sent = False
            if future.counts:
                self.inflight -= 1
                self._admit_soon()
            if future.may_have_run:
                self.stop(future.call_id)
        else:
            self.is_fenced = False
            if future.counts:
                self._stopping.add(future.call_id)
        future.counts = False

    def count(self, error: BaseException | None) -> None:
        """Count a call that failed, or was cancelled if there is no error."""
        code = StatusCode.CANCELLED if error is None else code_of(error)
        self._agent.tally.failed[code] += 1

    def stopped(self, connection: Connection, call_id: int) -> None:
        """Take back the place of a cancelled call: the callee does not count it any more."""
        if call_id in self._stopping and connection is self.connection:
            self._stopping.remove(call_id)
            self.inflight -= 1

    def cancel_again(self) -> None:
        """Repeat what nobody answered: a CANCEL or the answer to it may be lost."""
        if self.connection is not None:
            for call_id in self._stopping:
                self.connection.send(encode_frame(_CANCEL, call_id))

    def _admit_soon(self) -> None:
        """Admit after this turn, in which more calls may be withdrawn: each once, not in vain."""
        if self.queue and not self._is_admission_due:
            self._is_admission_due = True
            self._agent.loop.call_soon(self._admit_due)

    def _admit_due(self) -> None:
        self._is_admission_due = False
        self.admit()

    def stop(self, call_id: int) -> None:
        """End a call that may run there although it is not out: its link broke, or its reply did.

        Without a link it is ended as soon as there is one.
        """
        if self.state is PeerState.PRESENT:
            self.submit(Request(_CANCEL, call_id, b""), None, counts=False)
            self.is_fenced = False

    def repeat(self, request: Request) -> None:
        """Send a request once more that is out, unless its first send has not left completely."""
        connection = self.connection
        if connection is not None and not connection.bulk.holds(request.call_id):
            connection.send(request.frame(self._agent.clock.time()))

    def unqueue(self, future: RpcFuture[Any]) -> None:
        """Take a call out of the queue."""
        for index, (_, queued) in enumerate(self.queue):
            if queued is future:
                del self.queue[index]
                return

    def _skip(self, future: RpcFuture[Any]) -> None:
        """Count a message of the queue that nobody waits for; drop them when they are most."""
        self._withdrawn += 1
        if self._withdrawn * 2 > len(self.queue) + _SPARE:
            self.queue = deque(
                entry
                for entry in self.queue
                if entry[1] is None or not (entry[1] is future or entry[1].done())
            )
            self._withdrawn = 0

    # -- calls in

    def keep(self, connection: Connection, frame: Frame) -> None:
        """Serve a call of the worker's that it may send again."""
        if self.kept is None:
            self.kept = KeptServer(self._agent, connection)
        self.kept.take(connection, frame)

    # -- the link

    @property
    def is_dialing(self) -> bool:
        """Whether this side is opening a link right now."""
        return self.dialer.is_dialing

    def connect(self) -> None:
        """Open a link if there is none, so that the worker's end is noticed."""
        if self.connection is None and self.state is PeerState.PRESENT:
            self.dialer.start()

    async def fence(self) -> None:
        """Make sure that all that was sent has arrived: a link keeps the order."""
        connection = self.connection
        self.is_fenced = True
        if connection is not None:
            await connection.upkeep.fence()

    def opened(self, connection: Connection) -> None:
        """Take an authenticated link into use and send what waits."""
        old, self.connection = self.connection, connection
        self.dialer.opened()
        self._agent.references.link_opened(self, is_first=self._is_new)
        self._is_new = False
        if old is not None:
            old.stream.abort()
            self._break(old, None)
        self.limit = self._agent.options.limits.max_inflight
        if connection.hello is not None and connection.hello.max_inflight:
            self.limit = min(self.limit, connection.hello.max_inflight)
        if connection.max_message_size < self._agent.options.limits.max_message_size:
            refuse_too_large(self._agent, self)
        self.admit()
        if self.queue:
            self._admit_uncounted()

    def link_lost(self, connection: Connection, error: Exception | None) -> None:
        """Sort the calls that were out on a broken link; find out whether the worker lives."""
        if connection is not self.connection:
            return
        self.connection = None
        self._break(connection, error)
        self._agent.references.link_lost(self)
        if self.state is PeerState.PRESENT and not self._agent.is_closed:
            self.dialer.start()
        self._agent.became_idle()

    def _break(self, connection: Connection, error: Exception | None) -> None:
        unsent = unsent_requests(connection)
        self.is_fenced = True  # what was out is lost or was received; nothing more will come
        again: list[tuple[Request, RpcFuture[Any] | None]] = []
        self.inflight -= len(self._stopping)
        self._stopping.clear()
        for future in [f for f in self._agent.pending.values() if f.owner is self and f.is_sent]:
            if future.counts:
                self.inflight -= 1
            request = unsent.get(future.call_id) or future.send_again()
            if request is None:
                self._fail(future, self._broken(future, error))
            else:
                future.is_sent = future.counts = False
                request.deadline = future.deadline
                again.append((request, future))
        again += [(request, None) for request in unsent.values() if request.kind == _NOTIFY]
        again.sort(key=lambda entry: entry[0].call_id)  # the order in which they were made
        self.queue.extendleft(reversed(again))

    def _broken(self, future: RpcFuture[Any], error: Exception | None) -> PeerLostError:
        reason = f": {error}" if error else ""
        return PeerLostError(
            f"the connection to {self.info.name} broke while {future.function} was out{reason}",
            delivery=Delivery.UNKNOWN,
        )

    # -- the end

    def said_goodbye(self, kind: str, reason: str) -> None:
        """Take the worker's own word that it leaves, or soon will."""
        if kind == "leaving":
            self._let_go(reason)
            return
        state = PeerState.LEFT if kind == "left" else PeerState.LOST
        self._agent.members.gone(self, state, reason or f"{self.info.name} shut down")

    def _let_go(self, reason: str) -> None:
        """Give the worker nothing new; it still answers what it has."""
        self.is_leaving = True
        self.reason = reason
        self._agent.members.forget_routes(self)
        self.fail_waiting(self.gone_error(Delivery.NOT_SENT))

    def end(self, state: PeerState, reason: str) -> None:
        """Close the link and fail every call; the agent has recorded the verdict."""
        self.state = state
        self.reason = reason
        self.dialer.stop()
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.stream.abort()
            connection.server.close()
        if self.kept is not None:
            self.kept.close()
        self.is_fenced = True
        self._stopping.clear()
        self.inflight = 0
        self.drop_waiting(reason)
        for future in [f for f in self._agent.pending.values() if f.owner is self]:
            delivery = Delivery.UNKNOWN if future.is_sent else Delivery.NOT_SENT
            self._fail(future, self.gone_error(delivery, future.function))

    def fail_waiting(self, error: RpcError) -> None:
        """Fail what waits for a link that cannot be had."""
        waiting = tuple(self.queue)
        self.drop_waiting(str(error))
        for _, future in waiting:
            if future is not None:
                # each gets its own: who raises one adds a traceback to it
                self._fail(future, type(error)(str(error), delivery=Delivery.NOT_SENT))

    def take_waiting(self) -> list[tuple[Request, RpcFuture[Any] | None]]:
        """Hand over what waits, in order."""
        waiting, self.queue = list(self.queue), deque()
        self._withdrawn = 0
        return waiting

    def refuse(self, future: RpcFuture[Any]) -> None:
        """Fail a call that was to go to a worker that has gone meanwhile."""
        self._fail(future, self.gone_error(Delivery.NOT_SENT, future.function))

    def drop(self, request: Request, future: RpcFuture[Any] | None, error: RpcError) -> None:
        """Fail a message that was not sent and will not be."""
        if future is not None:
            self._fail(future, error)
            return
        _log.error("a one-way call to %s was not sent: %s", self, error)
        self._agent.references.taken(request.call_id, self)
        self._agent.references.take_back(request.enclosed, self)

    def drop_waiting(self, reason: str) -> None:
        """Forget what waits; nobody hears of one-way calls otherwise, so say it."""
        one_way = sum([request.kind == _NOTIFY for request, _ in self.queue])
        if one_way:
            _log.error("%d one-way calls to %s were not sent: %s", one_way, self, reason)
        self.queue.clear()
        self._withdrawn = 0
        self._agent.became_idle()

    def gone_error(self, delivery: Delivery, function: str = "") -> RpcError:
        """Return the error of a call to a worker that is no longer there."""
        what = f"{function} on " if function else ""
        if self.state is PeerState.LEFT or self.is_leaving:
            return UnknownWorkerError(
                f"{self._agent.info}: could not find destination {self.info.name}: "
                f"{what}{self.info.name} left the group ({self.reason})",
                delivery=delivery,
            )
        return PeerLostError(f"{what}{self.info.name} was lost: {self.reason}", delivery=delivery)

    def _fail(self, future: RpcFuture[Any], error: RpcError) -> None:
        self._agent.pending.pop(future.call_id, None)
        if not future.done():
            future.fail(error)
