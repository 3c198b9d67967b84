"""`Lease`: the hold a process keeps on some keys, renewed in the background until it is left.

Made by a store's `lease(ttl)`; the store grants, renews and revokes through `LeaseHost`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from types import TracebackType
from typing import Protocol, Self

from asyncrpc.errors import StoreError, StoreTimeoutError
from asyncrpc.observe import Clock

__all__ = ("Lease", "LeaseHost")

_RENEWALS = 3  # in one ttl: two may be lost before the lease is


class LeaseHost(Protocol):
    """What a lease needs of its store."""

    clock: Clock
    """Tells the time."""

    async def grant_lease(self, lease: Lease) -> None:
        """Make the lease in the store."""
        ...

    async def renew_lease(self, lease: Lease) -> bool:
        """Start its span anew; false if it has lapsed."""
        ...

    async def revoke_lease(self, lease: Lease) -> None:
        """End it and its keys now."""
        ...


class Lease:
    """Keys written with it live while it does; async context manager.

    Entering makes the lease in the store and starts to renew it; leaving ends it, and its keys
    vanish at once. If the process dies or its connection closes, they vanish when it lapses.

    Args:
        host: the store.
        ttl: seconds it lives without renewal, above 0.
    """

    __slots__ = ("__weakref__", "_host", "_is_entered", "_renewal", "id", "lost", "renewed", "ttl")

    def __init__(self, host: LeaseHost, ttl: float) -> None:
        self.id = secrets.randbits(62) + 1  # its owner's choice, so that granting twice is once
        self.ttl = ttl
        self._host = host
        self.lost = asyncio.Event()
        """Set once the store is known to have it no more, or cannot be asked any more."""
        self.renewed = 0.0
        """When it was granted or renewed last, on the store's clock."""
        self._is_entered = False
        self._renewal: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Lease {self.id} ttl={self.ttl:g} {'alive' if self.is_alive else 'not alive'}>"

    @property
    def is_alive(self) -> bool:
        """Whether it is renewed, as far as is known here."""
        return self._renewal is not None and not self._renewal.done() and not self.lost.is_set()

    async def __aenter__(self) -> Self:
        """Make the lease in the store.

        Raises:
            RuntimeError: it was entered before.
            StoreConnectionError: the store cannot be reached.
        """
        if self._is_entered:
            raise RuntimeError("a lease can be entered only once")
        self._is_entered = True
        await self._host.grant_lease(self)
        self.renewed = self._host.clock.time()
        self._renewal = asyncio.create_task(self._renew(), name=f"renew {self!r}")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()
        # Without the store nobody can end it, but it lapses by itself.
        with contextlib.suppress(StoreError):
            await self._host.revoke_lease(self)

    def abandon(self) -> None:
        """Stop renewing without ending it: its keys live on until it lapses, at most `ttl`."""
        if self._renewal is not None:
            self._renewal.cancel()

    def mark_lost(self) -> None:
        """Note that the store no longer has it."""
        self.lost.set()
        self.abandon()

    async def _renew(self) -> None:
        is_alive = True
        while is_alive:
            await self._host.clock.sleep(self.ttl / _RENEWALS)
            try:
                is_alive = await self._host.renew_lease(self)
            except StoreTimeoutError:
                continue  # a store that stands still does not let leases lapse either
            except StoreError:
                is_alive = False
            else:
                self.renewed = self._host.clock.time()
        self.lost.set()
