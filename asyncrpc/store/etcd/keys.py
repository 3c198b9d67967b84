"""Where in etcd the things of one store lie: all under its prefix, one folder for each kind.

Pure. What somebody may wait for lies in neighbouring folders, so that one watch covers it and
nothing else. The name of a queue or barrier is preceded by its length: no name is then the
beginning of another.
"""

from __future__ import annotations

__all__ = ("Layout", "revision_from", "version_at", "version_of")

_BITS = 20  # of a version that number the events of one revision; a transaction has far fewer
_LAST = (1 << _BITS) - 1


class Layout:
    """Keys of etcd for what a store holds.

    Args:
        prefix: of the store, without slashes around it.
    """

    def __init__(self, prefix: str) -> None:
        self.root = f"/{prefix}/".encode()
        self.values = self.root + b"k/"
        """Prefix of all values."""
        self.awaited = (self.root + b"a/", self.root + b"u")
        """Range of all that a wait may end with."""
        self.contents = (self.root, self.root + b"w/")
        """Range of all but the notes of clients."""

    def value(self, key: str) -> bytes:
        """Where a value lies; also the prefix of those whose keys start alike."""
        return self.values + key.encode()

    def key(self, place: bytes) -> str:
        """Return the key of a value that lies at some place."""
        return place[len(self.values) :].decode("utf-8", "replace")

    def arrivals(self, barrier: str) -> bytes:
        """Prefix of who has arrived at a barrier."""
        return self._folder(b"a/", barrier)

    def items(self, queue: str) -> bytes:
        """Prefix of what is in a queue, in order."""
        return self._folder(b"q/", queue)

    def tickets(self, queue: str) -> bytes:
        """Prefix of who waits at a queue."""
        return self._folder(b"t/", queue)

    def tail(self, queue: str) -> bytes:
        """Where the number of the last item that was put into a queue lies."""
        return self._folder(b"v/", queue)

    def writer(self, name: str) -> bytes:
        """Where a client notes its last write."""
        return self.root + b"w/" + name.encode()

    def _folder(self, kind: bytes, name: str) -> bytes:
        data = name.encode()
        return b"%s%s%04x/%s/" % (self.root, kind, len(data), data)


def version_at(revision: int) -> int:
    """Return the store's version once all of a revision has happened."""
    return revision << _BITS | _LAST


def version_of(revision: int, index: int) -> int:
    """Return the version of one event of a revision, numbered from 0."""
    return revision << _BITS | min(index, _LAST)


def revision_from(version: int) -> int:
    """Return the first revision of which something may have happened after a version."""
    return max((version + 1) >> _BITS, 1)  # etcd takes 0 for now
