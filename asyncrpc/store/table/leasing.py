"""Leases of a store's table: which keys hang on them, who holds them, when they lapse.

Pure: no clock, no I/O; used by the parts of the table.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable

from asyncrpc.errors import StoreError
from asyncrpc.store.commands import NO_LEASE
from asyncrpc.store.table.waiting import Horizon

__all__ = ("LeaseRecord", "LeaseTable")


class LeaseRecord:
    """One lease: its span, its holder, the keys on it, and when it lapses."""

    __slots__ = ("deadline", "holder", "id", "keys", "surfaces", "ttl")

    def __init__(self, lease_id: int, ttl: float, holder: Hashable, deadline: float) -> None:
        self.id = lease_id
        self.ttl = ttl
        self.holder = holder
        self.deadline = deadline
        self.surfaces = deadline  # invariant: of its one valid heap entry, and <= deadline
        self.keys: dict[str, None] = {}  # in order of attachment, as they will vanish


class LeaseTable:
    """All leases; a key hangs on at most one.

    Args:
        horizon: told of new deadlines.
    """

    __slots__ = ("_heap", "_horizon", "_leases", "of_key")

    def __init__(self, horizon: Horizon) -> None:
        self._horizon = horizon
        self._leases: dict[int, LeaseRecord] = {}
        # Renewing leaves a lease's entry where it is; surfacing too early, it is pushed anew.
        self._heap: list[tuple[float, int]] = []
        self.of_key: dict[str, LeaseRecord] = {}

    def __len__(self) -> int:
        return len(self._leases)

    def grant(self, lease_id: int, ttl: float, holder: Hashable, now: float) -> None:
        """Make a lease, or renew the one of that id with the new span."""
        lease = self._leases.get(lease_id)
        if lease is None:
            lease = self._leases[lease_id] = LeaseRecord(lease_id, ttl, holder, now + ttl)
            self._push(lease)
            return
        lease.ttl = ttl
        lease.holder = holder
        self._move(lease, now + ttl)

    def renew(self, lease_id: int, holder: Hashable, now: float) -> bool:
        """Start the span anew for this holder; say whether the lease was alive."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return False
        lease.holder = holder
        lease.deadline = now + lease.ttl
        return True

    def remove(self, lease_id: int) -> LeaseRecord | None:
        """Take a lease out, detached from its keys, which the caller removes."""
        lease = self._leases.pop(lease_id, None)
        if lease is not None:
            for key in lease.keys:
                del self.of_key[key]
        return lease

    def find(self, lease_id: int) -> LeaseRecord | None:
        """Return the lease of an id, None for `NO_LEASE`.

        Raises:
            StoreError: it lapsed, was ended, or never was.
        """
        if lease_id == NO_LEASE:
            return None
        lease = self._leases.get(lease_id)
        if lease is None:
            raise StoreError(f"lease {lease_id} has lapsed or was left")
        return lease

    def attach(self, key: str, lease: LeaseRecord | None) -> None:
        """Hang a key on a lease instead of the one it hung on, or on none."""
        old = self.of_key.pop(key, None)
        if old is not None:
            del old.keys[key]
        if lease is not None:
            lease.keys[key] = None
            self.of_key[key] = lease

    def abandon(self, holder: Hashable, deadline: float) -> None:
        """Let the leases of a holder that went away lapse by ``deadline``."""
        for lease in self._leases.values():
            if lease.holder == holder and deadline < lease.deadline:
                self._move(lease, deadline)

    def next(self) -> float:
        """Return when a lease lapses at the earliest, infinity if there is none."""
        while self._heap:
            surfaced, lease_id = self._heap[0]
            lease = self._leases.get(lease_id)
            is_valid = lease is not None and lease.surfaces == surfaced
            if lease is not None and is_valid and lease.deadline == surfaced:
                return surfaced
            heapq.heappop(self._heap)
            if lease is not None and is_valid:
                self._push(lease)
        return math.inf

    def due(self, now: float) -> list[LeaseRecord]:
        """Take out the leases that have lapsed."""
        lapsed = []
        while self.next() <= now:
            _, lease_id = heapq.heappop(self._heap)
            lease = self.remove(lease_id)
            if lease is not None:
                lapsed.append(lease)
        return lapsed

    def _move(self, lease: LeaseRecord, deadline: float) -> None:
        lease.deadline = deadline
        if deadline < lease.surfaces:
            self._push(lease)

    def _push(self, lease: LeaseRecord) -> None:
        lease.surfaces = lease.deadline
        heapq.heappush(self._heap, (lease.deadline, lease.id))
        self._horizon.is_nearer = True
