"""`Announcement`: what the others know of a node, and until when they do if it falls silent.

It hangs on a lease, so that it ends with the node. Used by `membership`.

A node that hears nothing of the store knows from its last renewal how long its lease lives at
least, and stops its workers a little earlier: when the others go on without it, none of them runs
any more.
"""

from __future__ import annotations

import asyncio
import math

from asyncrpc.observe import Clock
from asyncrpc.store import Lease, Store, StoreConnectionError, StoreError
from launcher.rendezvous.keys import NODES
from launcher.rendezvous.state import Node, encode

__all__ = ("Announcement",)

_MARGIN = 1 / 12  # of a lease's life: for workers to end in order, and again before it lapses

_KILL_TIME = 0.2  # seconds that killing workers takes, with some to spare


class Announcement:
    """What is announced of one node.

    Args:
        ttl: seconds of silence after which the node is lost for the others.
        clock: tells the time.
    """

    def __init__(self, ttl: float, clock: Clock) -> None:
        self.node: Node | None = None
        """The node as it was announced last; ``None`` before."""
        self.lease: Lease | None = None
        """What it hangs on, and the leadership as well; ``None`` until something is announced."""
        self._ttl = ttl
        self._clock = clock
        self._leasing = asyncio.Lock()  # around making a lease

    @property
    def silent_at(self) -> float:
        """When to take a store for lost that says nothing: a little before `expiry`."""
        return self.expiry - self._ttl * _MARGIN

    @property
    def expiry(self) -> float:
        """Until when the others are sure to take this node for alive if it says nothing more."""
        if self.lease is None:
            return self._clock.time()
        return self.lease.renewed + self._ttl * (1 - _MARGIN)

    @property
    def lapse(self) -> float:
        """When the others give this node up if it says nothing more, but for the time of a kill."""
        if self.lease is None:
            return math.inf
        return self.lease.renewed + self._ttl - min(self._ttl * _MARGIN, _KILL_TIME)

    async def make(self, store: Store, node: Node) -> None:
        """Say what is new of the node.

        Raises:
            StoreError: the store was lost.
        """
        self.node = node
        before = self.lease
        lease = await self.hold(store)
        if lease is not before:
            return  # it was announced along with the new lease
        try:
            await store.set(NODES + node.id, encode(node), lease=lease)
        except StoreConnectionError:
            raise
        except StoreError:  # it has lapsed, and we are the last to know
            lease.mark_lost()
            await self.hold(store)

    async def hold(self, store: Store) -> Lease:
        """Return the lease that it hangs on, both made anew if it has lapsed.

        Raises:
            StoreError: the store was lost.
        """
        assert self.node is not None
        async with self._leasing:
            if self.lease is None or not self.lease.is_alive:
                lease = await store.lease(self._ttl).__aenter__()
                self.lease = lease
                await store.set(NODES + self.node.id, encode(self.node), lease=lease)
            return self.lease

    async def withdraw(self) -> None:
        """Let nobody know of the node any more, if anybody did.

        Raises:
            StoreError: the store was lost.
        """
        lease, self.lease = self.lease, None
        if lease is not None:
            await lease.__aexit__(None, None, None)
