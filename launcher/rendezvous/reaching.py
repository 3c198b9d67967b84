"""`reach`: connects to the run's store for as long as a node may join, and says why that lasts.

Used by the places. People who watch learn what is tried, why it fails and when it will be given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from asyncrpc.errors import AuthenticationError, StatusCode
from asyncrpc.store import EtcdStore, StoreConnectionError, StoreError, TCPStore

__all__ = ("reach",)

_S = TypeVar("_S", TCPStore, EtcdStore)

_QUIET = 4.0  # seconds; waits that are short are not worth a line
_LOOK = 1.0  # seconds, to find out why it lasts

_logger = logging.getLogger("launcher.rendezvous")


async def reach(
    connect: Callable[[float], Awaitable[_S]], endpoint: str, deadline: float, patience: float
) -> _S:
    """Connect; an attempt lasts as long as the store may take to answer later.

    Args:
        connect: connects within some seconds, which are also those for the store's operations.
        endpoint: of the store, for people.
        deadline: time of the loop at which to give up.
        patience: seconds that the store may take to answer.

    Raises:
        StoreConnectionError: it cannot be reached by the deadline.
        AuthenticationError, StoreError, ValueError: as ``connect``.
    """
    telling = asyncio.create_task(_tell(connect, endpoint, deadline))
    try:
        return await _connect(connect, deadline, patience)
    finally:
        telling.cancel()
        await asyncio.wait({telling})


async def _connect(
    connect: Callable[[float], Awaitable[_S]], deadline: float, patience: float
) -> _S:
    loop = asyncio.get_running_loop()
    while True:
        remaining = deadline - loop.time()
        try:
            return await connect(min(patience, max(remaining, 0.0)))
        except StoreConnectionError as error:
            # A certificate that is refused is refused again.
            if remaining <= patience or error.code is StatusCode.UNAUTHENTICATED:
                raise


async def _tell(connect: Callable[[float], Awaitable[_S]], endpoint: str, deadline: float) -> None:
    """Say once why the store is not reached.

    An attempt of its own finds that out: the one that counts is under way, and gives its time-out
    to the store's operations, for which it must not be short.
    """
    await asyncio.sleep(_QUIET)
    # What is final, the other attempt reports.
    with suppress(AuthenticationError, StoreError, ValueError):
        try:
            store = await connect(_LOOK)
        except StoreConnectionError as error:
            left = deadline - asyncio.get_running_loop().time()
            told = "rdzv_endpoint=%s: %s; trying for another %.0f s"
            _logger.warning(told, endpoint, error, max(left, 0.0))
        else:
            await store.close()
