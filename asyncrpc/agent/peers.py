"""One other worker as this agent sees it: its link, the calls to it, what became of it.

A peer opens its link on first use and decides what a broken link means for the calls that were out.
`Dialer` opens links, `Admission` says which calls may go now; the verdict that a worker is gone
comes from here or from the failure detector and is final for the incarnation.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.admission import Admission
from asyncrpc.agent.bounds import refuse_too_large
from asyncrpc.agent.dialing import Dialer
from asyncrpc.agent.keeping import KeptServer
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.request import Request
from asyncrpc.agent.tally import code_of
from asyncrpc.agent.unsent import unsent_requests
from asyncrpc.agent.withheld import WithheldRequest
from asyncrpc.errors import Delivery, PeerLostError, RpcError, StatusCode, UnknownWorkerError
from asyncrpc.wire import Frame, MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection
    from asyncrpc.discovery import Record

__all__ = ("Peer", "PeerState")

_log = logging.getLogger("asyncrpc.peer")

_NOTIFY = int(MessageType.NOTIFY)


class PeerState(enum.Enum):
    """What this agent knows of a worker."""

    PRESENT = "present"
    LEFT = "left"
    """It said goodbye after an orderly shutdown."""
    LOST = "lost"
    """It died, fell silent or went without an orderly shutdown."""


class Peer(Admission):
    """Another worker of the group, or this one itself.

    Args:
        agent: whose view this is.
        record: what the worker published of itself.
    """

    __slots__ = (
        "_is_new",
        "arriving",
        "info",
        "kept",
        "is_judged",
        "is_leaving",
        "reason",
        "record",
        "state",
    )

    def __init__(self, agent: Agent, record: Record) -> None:
        super().__init__(agent, Dialer(agent, self))
        self.record = record
        self.info = record.info
        self.state = PeerState.PRESENT
        self.reason = ""
        self.arriving = 0
        """Links of the worker's own that were let in and are about to be opened."""
        self.kept: KeptServer | None = None
        """Serves the worker's calls that may be sent again, once there was one."""
        self._is_new = True  # there never was a link
        self.is_leaving = False
        """Whether it said that it will leave: it answers what is out and wants nothing new."""
        self.is_judged = False
        """Whether the store holds it for lost, so that its own verdicts are void."""

    def __repr__(self) -> str:
        return self.info.name

    @property
    def is_present(self) -> bool:
        """Whether the worker has neither left nor been lost."""
        return self.state is PeerState.PRESENT

    # -- calls

    def submit(self, request: Request, future: RpcFuture[Any] | None, *, counts: bool) -> None:
        """Send a message as soon as may be: see `Admission`, and `WithheldRequest`."""
        if request.enclosed:
            withheld = WithheldRequest(self._agent, self, request, future, counts=counts)
            if withheld.is_held():
                return
        super().submit(request, future, counts=counts)

    def count(self, error: BaseException | None) -> None:
        """Count a call that failed, or was cancelled if there is no error."""
        code = StatusCode.CANCELLED if error is None else code_of(error)
        self._agent.tally.failed[code] += 1

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
            self.dialer.broke(was_used=connection.received > 0)
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
        self.enqueue_first(again)

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
