"""`wait_all`: a scope that waits for every call started in it.

The caller's side tells the scope that is open of each call it starts.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from asyncrpc.agent.ambient import Surrounding

__all__ = ("WaitAll",)


class WaitAll:
    """Waits on exit for the calls that this task started inside; raises the first failure.

    A failure ends the wait at once: the other calls go on, and their errors are not reported. An
    error of the body is raised in place of theirs. Cancelling the task that waits cancels them all.
    """

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[Any]] = []
        self._task: asyncio.Task[Any] | None = None
        self._surrounding = Surrounding()

    def add(self, future: asyncio.Future[Any]) -> None:
        """Take a call in, if the task that opened the scope started it."""
        if asyncio.current_task() is self._task:
            self._futures.append(future)

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._surrounding.enter(scope=self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._surrounding.leave()
        for future in self._futures:
            future.add_done_callback(_look_at)
        if isinstance(error, asyncio.CancelledError):
            self._cancel()
        if error is not None or not self._futures:
            return
        try:
            done, _ = await asyncio.wait(self._futures, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:
            self._cancel()
            raise
        for future in self._futures:
            if future in done:
                future.result()

    def _cancel(self) -> None:
        """Cancel the calls: nobody waits for them any more."""
        for future in self._futures:
            future.cancel()


def _look_at(future: asyncio.Future[Any]) -> None:
    """Keep a failure that the scope has taken care of from being reported."""
    if not future.cancelled():
        future.exception()
