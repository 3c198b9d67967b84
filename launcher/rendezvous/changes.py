"""`Changes`: many wait for the next change of something, or for a point in time.

`keeping_up` is for those who hear of changes by a watch, and may fall behind.

Used by `membership` and `dynamic`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from asyncrpc.observe import Clock
from asyncrpc.store import StoreConnectionError, StoreError

__all__ = ("Changes", "keeping_up")

_logger = logging.getLogger("launcher.rendezvous")


class Changes:
    """Wakes whoever waits, whenever something has changed.

    Look first, then wait: nothing can change between the two, as long as nothing is awaited there.

    Args:
        clock: tells the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake all who wait."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, until: float = math.inf) -> None:
        """Wait for the next change.

        Args:
            until: time of the clock to wait for at most.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = None
        if until < math.inf:
            timer = self._clock.call_at(until, _wake, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()


@contextmanager
def keeping_up() -> Iterator[None]:
    """Let a watch end that fell behind, so that its reader looks anew."""
    try:
        yield
    except StoreConnectionError:
        raise
    except StoreError as error:
        _logger.info("looking anew at what changed: %s", error)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
