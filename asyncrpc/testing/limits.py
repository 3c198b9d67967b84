"""`time_limit`: an end for code that hangs, with the stacks of all tasks.

A timer in the loop itself. What a signal handler raises, as pytest-timeout does, is swallowed by
uvloop; and `asyncio.timeout` does not say where the tasks stood. Code that keeps the loop from
turning is not stopped: that takes another thread or process.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from asyncrpc.testing.arguments import is_finite
from asyncrpc.testing.stacks import stacks_of

__all__ = ("TimeLimitError", "time_limit")

_AGAIN = 1.0  # seconds until the body is cancelled again, should it swallow the cancel


class TimeLimitError(TimeoutError):
    """The body of a `time_limit` took too long.

    Args:
        seconds: its limit.
        stacks: where each task of the loop stood then, as text.

    Example:
        ```python
        async def main():
            try:
                async with time_limit(0.01):
                    await asyncio.Event().wait()
            except TimeLimitError as error:
                assert error.seconds == 0.01
                assert "in main" in error.stacks
        ```
    """

    def __init__(self, seconds: float, stacks: str) -> None:
        super().__init__(seconds, stacks)
        self.seconds = seconds
        self.stacks = stacks

    def __str__(self) -> str:
        return f"still running after {self.seconds:g} s\n{self.stacks}"


class time_limit:  # noqa: N801 -- used as `asyncio.timeout` is, and named like it
    """Cancel the body of an ``async with`` after some seconds of real time, and say where it was.

    The body is cancelled again and again should it swallow that, and the error is raised even if
    it then ends without one. Works on every asyncio loop, uvloop too.

    Args:
        seconds: above 0.

    Raises:
        TimeLimitError: on leaving; the body took longer. Shows the stacks of all tasks.
        ValueError: ``seconds`` is no finite number above 0.

    Example:
        ```python
        async def main():
            async with time_limit(5):
                await asyncio.sleep(0.01)
        ```
    """

    def __init__(self, seconds: float) -> None:
        if not is_finite(seconds) or seconds <= 0:
            raise ValueError(f"seconds must be a finite number above 0, got {seconds!r}")
        self._seconds = seconds
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stacks: str | None = None  # of the moment when time was over
        self._cancels = 0  # how often we cancelled the task

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a time limit can be used once")
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        return self

    def _expire(self) -> None:
        assert self._task is not None
        if self._stacks is None:
            self._stacks = stacks_of(asyncio.all_tasks())
        self._cancels += 1
        self._task.cancel()
        self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._expire)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        assert self._timer is not None
        self._timer.cancel()
        others = 0
        for _ in range(self._cancels):
            others = self._task.uncancel()
        if self._stacks is None or (others and isinstance(error, asyncio.CancelledError)):
            return  # in time, or somebody else cancels us as well, and that goes on
        raise TimeLimitError(self._seconds, self._stacks) from error
