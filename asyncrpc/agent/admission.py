"""Which messages to one worker may go now, and which wait for the link or for a place in flight.

The base of `Peer`, which has the link.

Theory of operation of the places in flight. A side never has more calls out on a link than both
sides' ``max_inflight`` allow; the handshake tells the other's. A call holds its place until the
callee is known not to count it any more: its reply came, or the callee answered its CANCEL with
CANCELLED. So what the callee counts is always part of what the caller counts, in whatever order
messages arrive, and the callee refuses only a caller that breaks this. A CANCEL whose answer was
lost is sent again with the next sign of life.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.pending import RpcFuture
from asyncrpc.agent.request import Request
from asyncrpc.wire import CALLS, MessageType, encode_frame

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection
    from asyncrpc.agent.dialing import Opener

__all__ = ("Admission",)

_log = logging.getLogger("asyncrpc.peer")

_CANCEL = int(MessageType.CANCEL)
_NOTIFY = int(MessageType.NOTIFY)
_NEVER_USED: Any = ()  # the queue of a peer that nothing was sent to: a deque takes 600 bytes
_SPARE = 64  # withdrawn entries of a queue that are not worth a pass over it


class Admission(ABC):
    """The messages to one worker.

    Args:
        agent: who sends them.
        dialer: opens the link.
    """

    __slots__ = (
        "_agent",
        "_is_admission_due",
        "_stopping",
        "_withdrawn",
        "connection",
        "dialer",
        "inflight",
        "is_fenced",
        "limit",
        "queue",
    )

    def __init__(self, agent: Agent, dialer: Opener) -> None:
        self._agent = agent
        self.dialer = dialer
        self.connection: Connection | None = None
        self.inflight = 0
        """Calls that hold a place in flight; at most `limit` but for nested ones."""
        self.limit = agent.options.limits.max_inflight
        """Places in flight: the smaller of both sides' ``max_inflight``."""
        self.queue: deque[tuple[Request, RpcFuture[Any] | None]] = _NEVER_USED
        """Messages that wait for the link or for a place in flight."""
        self.is_fenced = True
        """Whether all that was sent without a reply is known to have arrived."""
        self._withdrawn = 0  # entries of the queue that nobody waits for any more
        self._stopping: set[int] = set()  # cancelled calls that the callee may still count
        self._is_admission_due = False

    @property
    @abstractmethod
    def is_present(self) -> bool:
        """Whether the worker has neither left nor been lost."""

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
        if connection is None:
            self.enqueue(request, future)
            self.dialer.start()
        elif counts and self._is_full(request):
            self.enqueue(request, future)
        else:
            self._transmit(connection, request, future, counts=counts)

    def enqueue(self, request: Request, future: RpcFuture[Any] | None) -> None:
        """Have a message wait behind all others."""
        if self.queue is _NEVER_USED:
            self.queue = deque()
        self.queue.append((request, future))

    def enqueue_first(self, entries: Sequence[tuple[Request, RpcFuture[Any] | None]]) -> None:
        """Have messages wait before all others, in their order."""
        if self.queue is _NEVER_USED:
            self.queue = deque()
        self.queue.extendleft(reversed(entries))

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
        if self.is_present:
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

    def take_waiting(self) -> list[tuple[Request, RpcFuture[Any] | None]]:
        """Hand over what waits, in order."""
        waiting, self.queue = list(self.queue), deque()
        self._withdrawn = 0
        return waiting

    def drop_waiting(self, reason: str) -> None:
        """Forget what waits; nobody hears of one-way calls otherwise, so say it."""
        one_way = sum([request.kind == _NOTIFY for request, _ in self.queue])
        if one_way:
            _log.error("%d one-way calls to %s were not sent: %s", one_way, self, reason)
        if self.queue:
            self.queue.clear()
        self._withdrawn = 0
        self._agent.became_idle()
