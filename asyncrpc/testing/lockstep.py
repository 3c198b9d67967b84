"""`Lockstep`: what plain functions do reaches the loop in the same order in every run.

Threads end, and make blocking calls, in an order that no seed decides. In virtual time what comes
from them is kept until none of the functions computes and the loop is at rest, and is let onto the
loop then in the order in which the functions were given to threads. Used by `cluster`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from asyncrpc.agent import crossing
from asyncrpc.execution import OnDone, ServedCall, ThreadPool, current_call
from asyncrpc.testing.rest import is_idle, turns_to_rest

__all__ = ("Lockstep",)

_PATIENCE = 0.5  # seconds of real time for functions that compute: they may wait for an outcome
_POLL = 0.001  # seconds of real time between two looks at them; uvloop rounds less to none
_MAX_TURNS = 1000  # a loop that is still busy then does not come to rest


class Lockstep:
    """Keeps what comes from thread pools until it can be taken in order."""

    def __init__(self) -> None:
        self._entries: list[_Entry] = []  # not delivered yet, in the order of their start
        self._pump: asyncio.Task[None] | None = None  # while there is something to take

    @contextlib.asynccontextmanager
    async def ordering(self, pools: Sequence[ThreadPool]) -> AsyncIterator[None]:
        """Order what comes out of these pools; at the end, deliver what is left.

        Args:
            pools: of one group of workers.
        """
        for pool in pools:
            submit = partial(self._submit, pool, pool.submit)
            pool.submit = submit  # type: ignore[method-assign]  # without it nothing is in the way
        try:
            yield
        finally:
            for pool in pools:
                vars(pool).pop("submit", None)  # a profiler may have put it back already
            self._deliver(pools)
            if not self._entries and self._pump is not None:
                self._pump.cancel()
                await asyncio.wait([self._pump])

    def _submit(
        self,
        pool: ThreadPool,
        submit: Callable[..., None],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context,
        function: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        on_done: OnDone,
        *rest: Any,
    ) -> None:
        """Stand in for `ThreadPool.submit`."""
        entry = _Entry(self, pool, context.get(current_call), on_done)
        context.run(crossing.set, entry)
        submit(loop, context, function, args, kwargs, partial(self._take, entry), *rest)
        self._entries.append(entry)

    def _take(self, entry: _Entry, result: object, error: BaseException | None) -> None:
        self.arrive(entry, partial(entry.on_done, result, error), contextvars.Context())
        entry.has_ended = True

    def arrive(
        self, entry: _Entry, callback: Callable[[], object], context: contextvars.Context
    ) -> None:
        """Keep what came from a function, or take it at once where order is given up."""
        # a thread of the function's own may call at any time, even after its end
        if entry.is_given_up or entry.has_ended or entry.event is not None:
            asyncio.get_running_loop().call_soon(callback, context=context)
            return
        entry.event = (callback, context)
        entry.is_stuck = False
        if self._pump is None:
            self._pump = asyncio.create_task(
                self._work(), name="asyncrpc lockstep", context=contextvars.Context()
            )

    async def _work(self) -> None:
        """Take what has come, batch by batch, until there is nothing."""
        try:
            while any(entry.event is not None for entry in self._entries):
                await self._settle(asyncio.get_running_loop())
                self._deliver()
        finally:
            self._pump = None

    async def _settle(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until nothing else can come before what is here."""
        give_up = time.monotonic() + _PATIENCE
        idle_turns = 0
        for _ in range(_MAX_TURNS):
            if not self._is_computing():
                await asyncio.sleep(0)
                idle_turns = idle_turns + 1 if is_idle(loop) else 0
                if idle_turns >= turns_to_rest(loop):
                    return
            elif time.monotonic() < give_up:
                idle_turns = 0
                await asyncio.sleep(_POLL)
            else:
                break
        for entry in self._entries:
            entry.is_stuck = entry.event is None

    def _is_computing(self) -> bool:
        """Whether a function runs that waits for no call of its own, or is about to show its end.

        Those in the backlog of their pool do not: it may have to wait for such calls.
        """
        running = [entry for entry in self._entries if entry.is_running]
        pools = {entry.pool for entry in running}
        return len(running) > sum(pool.queued for pool in pools)

    def _deliver(self, leaving: Sequence[ThreadPool] = ()) -> None:
        """Take what has come, and no longer order what is to come from pools that leave."""
        loop = asyncio.get_running_loop()
        for entry in self._entries:
            if entry.event is not None:
                callback, context = entry.event
                loop.call_soon(callback, context=context)  # which reports what goes wrong
                entry.event = None
                entry.is_away = not entry.has_ended
            entry.is_given_up = entry.pool in leaving
        self._entries = [e for e in self._entries if not (e.has_ended or e.is_given_up)]


class _Entry:
    """A function that was given to a pool: a `Crossing` for its thread."""

    __slots__ = (
        "_call",
        "_lockstep",
        "event",
        "has_ended",
        "is_away",
        "is_given_up",
        "is_stuck",
        "on_done",
        "pool",
    )

    def __init__(
        self, lockstep: Lockstep, pool: ThreadPool, call: ServedCall | None, on_done: OnDone
    ) -> None:
        self._lockstep = lockstep
        self._call = call
        self.pool = pool
        self.on_done = on_done
        self.event: tuple[Callable[[], object], contextvars.Context] | None = None
        self.has_ended = False  # and the event, if it is still there, is its outcome
        self.is_away = False  # on the loop, with a call of its own
        self.is_stuck = False  # it may wait for what only others bring about
        self.is_given_up = False  # what it does is taken as it comes

    @property
    def is_running(self) -> bool:
        """Whether it computes: it has not ended, nor waits for a call of its own."""
        is_blocked = self.is_away or (self._call is not None and bool(self._call.nested))
        return self.event is None and not self.is_stuck and not is_blocked

    def enter(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[], object],
        context: contextvars.Context,
    ) -> None:
        """Have a call of the function wait for its turn; see `Crossing.enter`."""
        loop.call_soon_threadsafe(self._lockstep.arrive, self, callback, context)

    def leave(self) -> None:
        """Learn that it goes on; see `Crossing.leave`."""
        self.is_away = False
