"""What the sessions of a table have open, and what became due for them.

A request that waits stands in the index of what it waits for and among the deadlines; a watch
stands among the watchers. Both are known by session and number here, so that they can be
withdrawn. Pure: no clock, no I/O; used by the other parts of the table.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Literal

from asyncrpc.errors import StoreError
from asyncrpc.store.table.changes import Watcher, Watchers
from asyncrpc.store.table.waiting import Deadlines, Horizon, Waiter

__all__ = ("BEHIND", "PENDING", "Handler", "Pending", "Requests")

_MAX_WAITING = 1 << 16  # requests and watches of one session: more is a leak in the client


class Pending(enum.Enum):
    """The type of `PENDING`."""

    PENDING = "pending"


PENDING: Literal[Pending.PENDING] = Pending.PENDING
"""What `Table.apply` returns for a request that waits."""


class Behind(enum.Enum):
    """The type of `BEHIND`."""

    BEHIND = "behind"


BEHIND: Literal[Behind.BEHIND] = Behind.BEHIND
"""What is in the outbox behind a part of a watch's past: `Table.replay` gives the next one."""

Handler = Callable[[Any, int, Any, float], object]
"""Runs one kind of command: of a session, with its number, at a time; see `Table.apply`."""


class Requests:
    """All waiting requests and watches, by session and number.

    Args:
        horizon: of the table.

    Attributes:
        outbox: what became due for others than who is being answered, as `Table.outbox`; one list
            for ever, since all parts hold it.
        watchers: the watches by prefix.
        deadlines: the waiting requests by time.
    """

    __slots__ = ("_by_session", "deadlines", "outbox", "watchers")

    def __init__(self, horizon: Horizon) -> None:
        self.outbox: list[tuple[Any, int, object]] = []
        self.watchers = Watchers()
        self.deadlines = Deadlines(horizon)
        # Invariant: no session without a request.
        self._by_session: dict[Hashable, dict[int, Waiter | Watcher]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_session.values()))

    def enlist(self, waiter: Waiter, timeout: float) -> Pending:
        """Have a request wait.

        Raises:
            StoreTimeoutError: it may not wait.
            StoreError: its session has too many of them, or one of that number.
        """
        self._enter(waiter)
        waiter.index.add(waiter)
        if not timeout > 0:
            error = waiter.index.late(waiter)
            self._forget(waiter.session, waiter.request)
            self._retire(waiter)
            raise error
        self.deadlines.add(waiter)
        return PENDING

    def enlist_watch(self, watcher: Watcher) -> None:
        """Let a watch hear of changes.

        Raises:
            StoreError: its session has too many requests, or one of that number.
        """
        self._enter(watcher)
        self.watchers.add(watcher)

    def answer(self, waiter: Waiter, outcome: object) -> None:
        """End a request that waits: its outcome is due."""
        self._forget(waiter.session, waiter.request)
        self._retire(waiter)
        self.outbox.append((waiter.session, waiter.request, outcome))

    def expire(self, now: float) -> None:
        """Time out those whose deadline has come."""
        for waiter in self.deadlines.due(now):
            self.answer(waiter, waiter.index.late(waiter))

    def withdraw(self, session: Hashable, request: int) -> bool:
        """End a request or a watch without an answer; say whether there was one."""
        entry = self._forget(session, request)
        if entry is None:
            return False
        self._drop(entry)
        return True

    def close_session(self, session: Hashable) -> None:
        """End all that a session has open."""
        for entry in self._by_session.pop(session, {}).values():
            self._drop(entry)

    def watch(self, session: Hashable, request: int) -> Watcher | None:
        """Return the watch of that number, if there is one."""
        entry = self._by_session.get(session, {}).get(request)
        return entry if isinstance(entry, Watcher) else None

    def watches(self, session: Hashable) -> Iterator[Watcher]:
        """Yield the watches of a session."""
        for entry in self._by_session.get(session, {}).values():
            if isinstance(entry, Watcher):
                yield entry

    def _enter(self, entry: Waiter | Watcher) -> None:
        requests = self._by_session.setdefault(entry.session, {})
        if len(requests) >= _MAX_WAITING:
            raise StoreError(f"this client has {_MAX_WAITING} waiting requests, no more are taken")
        if entry.request in requests:
            raise StoreError(f"request {entry.request} of this client is waiting already")
        requests[entry.request] = entry

    def _forget(self, session: Hashable, request: int) -> Waiter | Watcher | None:
        requests = self._by_session.get(session)
        if requests is None:
            return None
        entry = requests.pop(request, None)
        if not requests:
            del self._by_session[session]
        return entry

    def _drop(self, entry: Waiter | Watcher) -> None:
        if isinstance(entry, Watcher):
            self.watchers.remove(entry)
        else:
            self._retire(entry)

    def _retire(self, waiter: Waiter) -> None:
        if waiter.is_waiting:
            waiter.is_waiting = False
            waiter.index.remove(waiter)
            self.deadlines.forget(waiter)
