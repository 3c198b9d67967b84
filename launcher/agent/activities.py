"""`Activities`: what an agent is doing, as tasks, and what has come of it, one after the other.

Called by the agent; knows nothing of what the tasks do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from launcher.agent.state import Stimulus

__all__ = ("Activities",)


class Activities:
    """The tasks of one agent. A task's result, if it has one, is a stimulus."""

    def __init__(self) -> None:
        # Unbounded, but fed by one task at a time and by people sending signals.
        self._happened: asyncio.Queue[Stimulus | asyncio.Task[Stimulus | None]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Stimulus | None]] = set()

    def begin(self, activity: Coroutine[object, object, Stimulus | None]) -> None:
        """Run a coroutine as a task.

        Args:
            activity: returns the stimulus it produced; ``None``: there is none.
        """
        task = asyncio.create_task(activity)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._happened.put_nowait)

    def tell(self, stimulus: Stimulus) -> None:
        """Take in a stimulus that no task produced; from the loop's thread."""
        self._happened.put_nowait(stimulus)

    async def next_stimulus(self) -> Stimulus:
        """Wait for the next stimulus, in the order in which they came.

        Raises:
            Exception: what a task has raised; the tasks after it are seen by further calls.
        """
        while True:
            happened = await self._happened.get()
            stimulus = happened.result() if isinstance(happened, asyncio.Task) else happened
            if stimulus is not None:
                return stimulus

    async def end(self) -> None:
        """Cancel what is under way, and drop what came of the rest."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._happened.empty():  # what failed after that which ended the run
            happened = self._happened.get_nowait()
            if isinstance(happened, asyncio.Task) and not happened.cancelled():
                happened.exception()
