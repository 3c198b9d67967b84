"""`Table`: one store, put together from its parts.

Called by `server` and `memory`, which own the clock and the connections. Every call takes `now`
(seconds of any monotonic clock) and nothing happens by itself: the caller asks `next_expiry`
when time matters next and then calls `expire`.

Theory of operation: `apply` interprets one command of one session. It returns the result, raises
the error, or returns `PENDING` and keeps the request among the waiters. Whatever becomes due for
*other* requests (a waiter's answer, a watch's event) is put in `outbox` as
``(session, request, outcome)``, in order; the caller takes it from there after each `apply` or
batch of them. An outcome is a `StoreEvent`, a `StoreError`, the result, or `BEHIND`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from asyncrpc.errors import StoreError
from asyncrpc.store.commands import (
    NO_LEASE,
    Command,
    GrantLease,
    RenewLease,
    RevokeLease,
)
from asyncrpc.store.table.barriers import Barriers
from asyncrpc.store.table.changes import History
from asyncrpc.store.table.content import DEFAULT_MAX_VALUE, Content
from asyncrpc.store.table.leasing import LeaseTable
from asyncrpc.store.table.queues import Queues
from asyncrpc.store.table.requests import Handler, Requests
from asyncrpc.store.table.values import Values
from asyncrpc.store.table.waiting import Horizon
from asyncrpc.store.table.watches import Watches

__all__ = ("DEFAULT_GRACE", "Table")

DEFAULT_GRACE = 1.0  # seconds: longer than a reconnect, shorter than anybody's patience
_MAX_EVENTS = 1 << 16
_MAX_EVENT_BYTES = 64 << 20


class Table:
    """All state of one store; see the module.

    Args:
        max_value: largest value, in bytes.
        max_events: events kept for `watch(since=)`.
        max_event_bytes: bytes of values those may hold.
        grace: seconds the leases of a closed session live on, if not shorter by themselves.
        push_wakes_one: whether a value pushed lets one of those go on who wait for the queue to
            exist, not all: as clients need that pop when they have waited.

    Attributes:
        outbox: what became due for others; see the module and `take_outbox`.
        handlers: what `apply` looks up, for those who run many commands.
        horizon: says whether `next_expiry` may have become earlier since it was asked last.
    """

    def __init__(
        self,
        *,
        max_value: int = DEFAULT_MAX_VALUE,
        max_events: int = _MAX_EVENTS,
        max_event_bytes: int = _MAX_EVENT_BYTES,
        grace: float = DEFAULT_GRACE,
        push_wakes_one: bool = False,
    ) -> None:
        self._grace = grace
        self.horizon = Horizon()
        self._requests = Requests(self.horizon)
        self._history = History(max_events, max_event_bytes)
        self._leases = LeaseTable(self.horizon)
        self._content = Content(self._requests, self._history, self._leases, max_value)
        self._watches = Watches(self._history, self._requests)
        self._barriers = Barriers(self._requests)
        queues = Queues(self._content, self._requests, push_wakes_one=push_wakes_one)
        self.outbox = self._requests.outbox
        self.handlers: dict[type[Command], Handler] = {
            **Values(self._content).handlers,
            **queues.handlers,
            **self._barriers.handlers,
            **self._watches.handlers,
            GrantLease: self._grant_lease,
            RenewLease: self._renew_lease,
            RevokeLease: self._revoke_lease,
        }

    @property
    def version(self) -> int:
        """The revision of the last write; 0 before the first."""
        return self._history.version

    def debug_info(self) -> dict[str, int]:
        """Return the sizes of all tables, for leak checks and status pages."""
        return {
            "keys": len(self._content.values),
            "queues": len(self._content.queues),
            "leases": len(self._leases),
            "waiting": len(self._requests),
            "version": self.version,
        }

    def contents(self) -> tuple[dict[str, bytes], dict[str, list[bytes]]]:
        """Return the values and the queues by key, without what hangs on a lease."""
        leased = self._leases.of_key
        values = {key: value for key, value in self._content.values.items() if key not in leased}
        return values, {key: list(queue) for key, queue in self._content.queues.items()}

    def apply(self, session: Hashable, request: int, command: Command, now: float) -> object:
        """Run one command.

        Args:
            session: whose it is; what waits is dropped by `close_session`.
            request: the session's number for it, not one that still waits.
            command: what to do.
            now: the time.

        Returns:
            The result, or `PENDING`: the answer will be in `outbox`.

        Raises:
            StoreError: the command failed and changed nothing.
        """
        return self.handlers[type(command)](session, request, command, now)

    def take_outbox(self) -> list[tuple[Any, int, object]]:
        """Return what became due for others, and forget it."""
        due = self.outbox[:]
        self.outbox.clear()
        return due

    def close_session(self, session: Hashable, now: float) -> None:
        """Withdraw all that a session waits for; its leases live on for the grace."""
        self._requests.close_session(session)
        self._leases.abandon(session, now + self._grace)

    def replay(self, session: Hashable, request: int) -> None:
        """Put more of a watch's past into the outbox, and `BEHIND` after it if that is not all."""
        self._watches.replay(session, request)

    def drop_watch(self, session: Hashable, request: int) -> None:
        """End a watch whose reader is too slow."""
        self._requests.withdraw(session, request)

    def next_expiry(self) -> float:
        """Return when `expire` must be called next; infinity if nothing can expire."""
        self.horizon.is_nearer = False
        return min(self._requests.deadlines.next(), self._leases.next())

    def expire(self, now: float) -> None:
        """Time out the waiters and lapse the leases whose time has come."""
        self._requests.expire(now)
        for lease in self._leases.due(now):
            self._content.vanish(lease)

    def _grant_lease(self, session: Hashable, _r: int, command: GrantLease, now: float) -> None:
        lease_id, ttl = command
        if lease_id == NO_LEASE or not 0 < ttl < math.inf:
            raise StoreError(f"lease {lease_id} with a ttl of {ttl} cannot be granted")
        self._leases.grant(lease_id, ttl, session, now)

    def _renew_lease(self, session: Hashable, _r: int, command: RenewLease, now: float) -> bool:
        return self._leases.renew(command.lease, session, now)

    def _revoke_lease(self, _s: object, _r: int, command: RevokeLease, _now: float) -> bool:
        lease = self._leases.remove(command.lease)
        if lease is None:
            return False
        self._content.vanish(lease)
        return True
