"""`launcher.process.guardian.fence`: when the guardian kills for an agent that is stopped."""

from __future__ import annotations

import math
import os
import signal
import subprocess

from launcher.process.guardian.fence import Fence


def refuse() -> bool:
    """Be told to kill in vain."""
    raise AssertionError("nobody is stopped")


def test_there_is_no_look_before_the_deadline() -> None:
    """Nor any at all while there is none."""
    fence = Fence(os.getpid())
    without = fence.advance(refuse, 5.0)
    fence.deadline = 7.5

    assert (without, fence.advance(refuse, 5.0)) == (None, 2.5)
    fence.deadline = math.inf
    assert fence.advance(refuse, 1e9) is None


def test_an_agent_that_runs_is_looked_at_again() -> None:
    """It may be stopped a moment later."""
    fence = Fence(os.getpid())
    fence.deadline = 7.5

    assert fence.advance(refuse, 7.5) == 0.5


def test_what_a_killed_worker_leaves_is_killed_soon() -> None:
    """Its children become ours only when it has ended."""
    with subprocess.Popen(["sleep", "100"]) as agent:
        agent.send_signal(signal.SIGSTOP)
        os.waitpid(agent.pid, os.WUNTRACED)
        fence = Fence(agent.pid)
        fence.deadline = 7.5
        waits = [fence.advance(lambda left=left: left, 8.0) for left in (True, False)]  # type: ignore[misc]  # a default binds the turn's
        agent.kill()

    assert waits == [0.05, 0.5]
