"""The clock of a table: one timer of the loop that expires what is due.

The shell between the pure `Table` and time; used by `memory` and `server`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from asyncrpc.observe import Clock, Timer
from asyncrpc.store.table import Table

__all__ = ("Expiry",)

_LATE = 0.25  # seconds behind time that mean this process, not a client, stood still


class Expiry:
    """Expires a table in time.

    A process that stood still (stopped, or its loop blocked) finds leases lapsed whose renewals
    wait unread in its sockets. So a timer that comes late gives the loop some time to read first.

    Args:
        table: the table.
        clock: tells the time.
        deliver: called after each expiry to carry away its outbox.
    """

    def __init__(self, table: Table, clock: Clock, deliver: Callable[[], None]) -> None:
        self._table = table
        self._clock = clock
        self._deliver = deliver
        self._due = math.inf  # when the timer fires
        self._timer: Timer | None = None

    def update(self) -> None:
        """Set the timer after the table has changed, if that may have made it earlier."""
        if self._table.horizon.is_nearer:
            self._renew()

    def close(self) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = math.inf

    def _renew(self) -> None:
        due = self._table.next_expiry()
        if due < self._due:
            self._set(due)

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._clock.call_at(due, self._fire)

    def _fire(self) -> None:
        now = self._clock.time()
        lag = now - self._due
        self._timer = None
        self._due = math.inf
        if lag > _LATE:
            self._set(now + min(lag, 1.0))
            return
        self._table.expire(now)
        self._deliver()
        self._renew()
