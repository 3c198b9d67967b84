"""What changed in a store: the history of events and the watches that hear of new ones.

Pure: no clock, no I/O; used by the parts of the table.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Literal

from asyncrpc.errors import StoreError
from asyncrpc.store.commands import StoreEvent

__all__ = ("History", "Watcher", "Watchers")

_PORTION = 1 << 10  # past events looked at in one go: some milliseconds
_PORTION_BYTES = 1 << 20  # of values in them, far below what may wait for a reader


class History:
    """The last events, so that a watch can resume after a version it has seen.

    Args:
        max_events: how many are kept, at least 1.
        max_bytes: how many bytes of values they may hold together.
    """

    __slots__ = ("_bytes", "_events", "_max_bytes", "_max_events", "version")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._events: deque[tuple[Literal["put", "delete", "expire"], str, bytes]] = deque()
        self._bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self.version = 0  # invariant: the version of the last event; each adds exactly 1

    def record(self, kind: Literal["put", "delete", "expire"], key: str, value: bytes) -> None:
        """Enter one change, dropping the oldest beyond the limits."""
        self.version += 1
        events = self._events
        events.append((kind, key, value))
        self._bytes += len(value)
        if len(events) > self._max_events or self._bytes > self._max_bytes:
            self._bytes -= len(events.popleft()[2])
            while self._bytes > self._max_bytes:
                self._bytes -= len(events.popleft()[2])

    def portion(self, version: int, prefix: str) -> tuple[list[StoreEvent], int]:
        """Return some events after ``version`` whose key starts with ``prefix``.

        Returns:
            Events, few enough to be sent at once, and the version that they lead to.

        Raises:
            StoreError: events after ``version`` were dropped, or the store has not come to it.
        """
        oldest = self.version - len(self._events)
        if version < oldest:
            raise StoreError(
                f"version {version} is too old to resume a watch: "
                f"the store keeps events after version {oldest}"
            )
        if version > self.version:
            raise StoreError(
                f"version {version} is not of this store, which is at version {self.version}"
            )
        start = version - oldest
        events: list[StoreEvent] = []
        size = 0
        for kind, key, value in itertools.islice(self._events, start, start + _PORTION):
            version += 1
            if key.startswith(prefix):
                events.append(StoreEvent(kind, key, value, version))
                size += len(value)
                if size >= _PORTION_BYTES:
                    break
        return events, version


class Watcher:
    """One watch: whose it is, under which prefix it stands, and how far it has come.

    Attributes:
        session: who watches.
        request: the watch's number there.
        prefix: of the keys that it is about.
        position: version up to which it was told of the past; ``None`` if that is over, so that it
            is told of each change as it comes.
    """

    __slots__ = ("position", "prefix", "request", "session")

    def __init__(self, session: Hashable, request: int, prefix: str, position: int | None) -> None:
        self.session = session
        self.request = request
        self.prefix = prefix
        self.position = position


class Watchers:
    """The watches by prefix: many watch the same few prefixes, so an event tests each once.

    Attributes:
        by_prefix: empty while nobody watches; read only.
    """

    __slots__ = ("by_prefix",)

    def __init__(self) -> None:
        self.by_prefix: dict[str, dict[Watcher, None]] = {}

    def add(self, watcher: Watcher) -> None:
        """Enter a watch."""
        self.by_prefix.setdefault(watcher.prefix, {})[watcher] = None

    def remove(self, watcher: Watcher) -> None:
        """Take a watch out."""
        watchers = self.by_prefix[watcher.prefix]
        del watchers[watcher]
        if not watchers:
            del self.by_prefix[watcher.prefix]

    def of(self, key: str) -> Iterator[Watcher]:
        """Yield the watches a key belongs to."""
        for prefix, watchers in self.by_prefix.items():
            if key.startswith(prefix):
                yield from watchers
