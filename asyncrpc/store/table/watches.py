"""The commands of a table that are about what a session has open: pure, as all of the table."""

from __future__ import annotations

from collections.abc import Hashable

from asyncrpc.errors import StoreError
from asyncrpc.store.commands import NO_VERSION, Cancel, Command, Ping, Watch
from asyncrpc.store.table.changes import History, Watcher
from asyncrpc.store.table.requests import BEHIND, Handler, Requests

__all__ = ("Watches",)


class Watches:
    """Begins, feeds and ends watches; `handlers` has what it does by command.

    Args:
        history: of the table.
        requests: what sessions have open.
    """

    def __init__(self, history: History, requests: Requests) -> None:
        self._history = history
        self._requests = requests
        self.handlers: dict[type[Command], Handler] = {
            Watch: self._watch,
            Cancel: self._cancel,
            Ping: self._ping,
        }

    def replay(self, session: Hashable, request: int) -> None:
        """Put more of a watch's past into the outbox, and `BEHIND` after it if that is not all."""
        watcher = self._requests.watch(session, request)
        if watcher is None or watcher.position is None:
            return  # withdrawn, or new
        outbox = self._requests.outbox
        try:
            events, position = self._history.portion(watcher.position, watcher.prefix)
        except StoreError as error:  # the reader is slower than others write
            self._requests.withdraw(session, request)
            outbox.append((session, request, error))
            return
        outbox += ((session, request, event) for event in events)
        watcher.position = position if position < self._history.version else None
        if watcher.position is not None:
            outbox.append((session, request, BEHIND))

    def _watch(self, session: Hashable, request: int, command: Watch, _now: float) -> int:
        prefix, since = command
        position = None if since == NO_VERSION else since
        if position is not None:
            self._history.portion(position, prefix)  # which refuses what it cannot give
        self._requests.enlist_watch(Watcher(session, request, prefix, position))
        self.replay(session, request)
        return self._history.version

    def _cancel(self, session: Hashable, _request: int, command: Cancel, _now: float) -> bool:
        return self._requests.withdraw(session, command.request)

    def _ping(self, session: Hashable, _request: int, _command: Ping, _now: float) -> int:
        """Return the version up to which all of a session's watches were told what there is."""
        watches = self._requests.watches(session)
        behind = [watcher.position for watcher in watches if watcher.position is not None]
        return min(behind, default=self._history.version)
