"""`Monitor`: what happens to the members of a group, as an asynchronous iterator.

Filled by `Members`, which holds monitors weakly: one that nobody holds any more is collected.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, Self

from asyncrpc.identity import WorkerInfo

__all__ = ("MemberEvent", "Monitor")

_LIMIT = 1024  # events that wait before those of one worker are made one


@dataclasses.dataclass(frozen=True, slots=True)
class MemberEvent:
    """What became of a worker.

    Args:
        worker: which; a worker of the same name that joins later is another one.
        kind: ``"joined"``; ``"left"`` after an orderly shutdown; ``"lost"`` if it died, fell silent
            or went without one. There is nothing about a worker after the last two.
        reason: why, for people to read; empty for ``"joined"``.
    """

    worker: WorkerInfo
    kind: Literal["joined", "left", "lost"]
    reason: str = ""


class Monitor:
    """An asynchronous iterator of `MemberEvent`; close it, leave it, or let it go.

    Its queue is bounded. A reader that stays far behind loses no worker's fate but its history: of
    the events of one name that wait only the last is kept, and none of a worker that came and went
    meanwhile.

    Args:
        accepts: which workers it is about.
        present: the workers that are there; it begins with their ``joined``.
    """

    __slots__ = ("__weakref__", "_accepts", "_events", "_is_ended", "_known", "_limit", "_waiter")

    def __init__(
        self, accepts: Callable[[WorkerInfo], bool], present: Iterable[WorkerInfo]
    ) -> None:
        self._accepts = accepts
        self._events: deque[MemberEvent] = deque()
        self._known: set[str] = set()  # names of workers that the reader takes for present
        self._limit = _LIMIT
        self._is_ended = False
        self._waiter: asyncio.Future[None] | None = None
        for worker in present:
            self.put(MemberEvent(worker, "joined"))

    def put(self, event: MemberEvent) -> None:
        """Take in an event."""
        if self._is_ended or not self._accepts(event.worker):
            return
        self._events.append(event)
        if len(self._events) > self._limit:
            self._coalesce()
        self._wake()

    def end(self) -> None:
        """Let the reader take what is here, then stop. Idempotent."""
        self._is_ended = True
        self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MemberEvent:
        while not self._events:
            if self._is_ended:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("this monitor is read by another task: make one for each")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        event = self._events.popleft()
        if event.kind == "joined":
            self._known.add(event.worker.name)
        else:
            self._known.discard(event.worker.name)
        return event

    async def aclose(self) -> None:
        """Stop; what was not taken is dropped. Idempotent."""
        self._events.clear()
        self.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _coalesce(self) -> None:
        latest: dict[str, MemberEvent] = {}
        for event in self._events:
            latest.pop(event.worker.name, None)  # so that it stands where its last event does
            latest[event.worker.name] = event
        self._events = deque(
            e for e in latest.values() if e.kind == "joined" or e.worker.name in self._known
        )
        # what is left is a group's size: in a large one the next look comes after as much again
        self._limit = max(_LIMIT, 2 * len(self._events))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
