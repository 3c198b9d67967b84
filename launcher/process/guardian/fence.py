"""`Fence`: ends the workers of an agent that is stopped for longer than its peers wait for it.

An agent that got SIGSTOP can end nobody, while its workers run on. The other nodes go on without
them after a while: then none of them may run any more. Used by the guardian program alone.
"""

from __future__ import annotations

from launcher.process.guardian.tree import is_stopped

TYPE_CHECKING = False  # the typing module is not worth its import time here
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Fence",)

_NEXT_LOOK = 0.5  # seconds: an agent that is late, its loop being blocked, may yet be stopped
_NEXT_KILL = 0.05  # seconds for those that have lost their parent to become our children


class Fence:
    """Knows until when the agent may be stopped, and kills when that time has come.

    Args:
        agent_pid: the agent.
    """

    def __init__(self, agent_pid: int) -> None:
        self._agent_pid = agent_pid
        self.deadline = float("inf")
        """When it may be stopped no longer, seconds of time.monotonic; infinite: it always may."""

    def advance(self, kill: Callable[[], bool], now: float) -> float | None:
        """Kill, if the deadline is over and the agent stopped.

        An agent that merely does not come round to telling a new deadline is not stopped: it, or a
        thread of it, looks after the workers itself.

        Args:
            kill: kills what is below this process, as far as that is known by now; returns whether
                there was anything.
            now: seconds of time.monotonic.

        Returns:
            Seconds until the next look; ``None``: never.
        """
        if now < self.deadline:
            return None if self.deadline == float("inf") else self.deadline - now
        if not is_stopped(self._agent_pid):
            return _NEXT_LOOK
        return _NEXT_KILL if kill() else _NEXT_LOOK
