"""What the agent knows of a process that the guardian has started, and of those it left behind.

Values only; filled in by the guardian's client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ("Cleared", "Exit", "GuardedProcess")


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended."""

    code: int
    """Exit status; ``-N`` for signal N."""
    was_signalled: bool
    """Whether a signal of ours reached it while it ran."""
    at: float
    """When, seconds of ``time.monotonic``."""


class Cleared(NamedTuple):
    """How the clearing of what workers left behind ended, in numbers of processes."""

    stuck: int
    """Those that cannot be killed."""
    killed: int
    """Those that did not end by themselves, nor on the first signal."""


class GuardedProcess:
    """A process started by the guardian, leader of its own session and process group."""

    __slots__ = ("exited", "number", "pid")

    def __init__(self, number: int, exited: asyncio.Future[Exit]) -> None:
        self.number = number
        self.pid = 0
        self.exited = exited
        """Done when the process has ended and was reaped; never fails."""

    @property
    def is_running(self) -> bool:
        """Whether its end has not been reported yet."""
        return not self.exited.done()
