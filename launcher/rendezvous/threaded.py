"""`ThreadedHandler`: a handler whose methods block, as torch's do, behind our interface.

Made by the registry for handlers of other packages that are not ours. Knows torch's classes by
their names alone, so that nothing of torch is loaded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar, cast

from asyncrpc.store import Store
from launcher.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from launcher.rendezvous.base import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
    Told,
    read_name,
)

__all__ = ("ThreadedHandler",)

T = TypeVar("T")

_ERRORS = {
    error.__name__: error
    for error in (
        RendezvousClosedError,
        RendezvousConnectionError,
        RendezvousError,
        RendezvousGracefulExitError,
        RendezvousStateError,
        RendezvousTimeoutError,
    )
}


class ThreadedHandler(RendezvousHandler):
    """Takes part in rounds by a handler whose methods block; each call has a thread of its own.

    Args:
        handler: has torch's methods.
    """

    def __init__(self, handler: Any) -> None:
        self._handler = handler
        self._rounds = 0

    @property
    def use_agent_store(self) -> bool:
        """Whether MASTER_ADDR:MASTER_PORT leads to the handler's own store."""
        return bool(getattr(self._handler, "use_agent_store", False))

    def get_backend(self) -> Told:
        """Name the backend."""
        return Told(read_name(self._handler.get_backend()))

    def get_run_id(self) -> Told:
        """Name the run."""
        return Told(read_name(self._handler.get_run_id()))

    async def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round; see the base class."""
        found = await _in_thread(self._handler.next_rendezvous)
        if isinstance(found, RendezvousInfo):
            return found
        number, self._rounds = self._rounds, self._rounds + 1
        where = found.bootstrap_store_info
        if where is None:
            raise RendezvousStateError(f"{self.get_backend()} says of no round where rank 0 is")
        return RendezvousInfo(
            store=cast("Store", _ThreadedStore(found.store)),
            rank=found.rank,
            world_size=found.world_size,
            bootstrap_store_info=RendezvousStoreInfo(where.master_addr, int(where.master_port)),
            round=number,
            restarts=self.restarts,
        )

    async def is_closed(self) -> bool:
        """Say whether the run is over, for every agent."""
        return bool(await _in_thread(self._handler.is_closed))

    async def set_closed(self) -> None:
        """Declare the run over, for every agent."""
        await _in_thread(self._handler.set_closed)

    async def num_nodes_waiting(self) -> int:
        """Count the nodes that wait for the next round."""
        return int(await _in_thread(self._handler.num_nodes_waiting))

    async def shutdown(self) -> bool:
        """End the run and release what the handler holds; see the base class."""
        return bool(await _in_thread(self._handler.shutdown))


class _ThreadedStore:
    """The part of a store that agents use, on a store whose methods block."""

    def __init__(self, store: Any) -> None:
        self._store = store
        # One call after the other, in their order: a client of torch's that waits for a key lets
        # nobody set one meanwhile.
        self._calling = asyncio.Lock()

    async def set(self, key: str, value: str | bytes) -> None:
        await self._call(lambda: self._store.set(key, value))

    async def multi_get(self, keys: Iterable[str], timeout: float | None = None) -> list[bytes]:  # noqa: ARG002 -- it has its own
        return await self._call(lambda: [bytes(self._store.get(key)) for key in keys])

    async def _call(self, function: Callable[[], T]) -> T:
        async with self._calling:
            try:
                return await _in_thread(function)
            except RendezvousError:
                raise
            except Exception as error:
                raise RendezvousConnectionError(f"the round's store failed: {error}") from error


async def _in_thread(function: Callable[[], T]) -> T:
    """Call what blocks; a cancelled call ends whenever it does, and nobody waits for it.

    What is a coroutine function all the same is awaited here.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(settle: Callable[[Any], None], outcome: object) -> None:
        if not done.done():
            settle(outcome)

    def call() -> None:
        try:
            outcome: tuple[Callable[[Any], None], object] = (done.set_result, function())
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is for the caller
            outcome = (done.set_exception, error)
        with suppress(RuntimeError):  # the loop is over
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=call, name="launcher-rendezvous", daemon=True).start()
    try:
        outcome = await done
        return await outcome if isinstance(outcome, Coroutine) else outcome
    except Exception as error:
        names = (kind.__name__ for kind in type(error).__mro__)
        ours = next((_ERRORS[name] for name in names if name in _ERRORS), None)
        if ours is None:
            raise
        raise ours(str(error)) from error
