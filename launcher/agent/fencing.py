"""`keep_fenced`: makes sure that no worker runs when the other nodes have given this one up.

An agent whose loop is late looks after its workers itself, once it comes round to it; one that is
stopped cannot, so its guardian is told until when they may run. Called by the agent, for rounds
with others.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from launcher.agent.processes import Processes
from launcher.rendezvous import RendezvousHandler

__all__ = ("keep_fenced",)

_PERIOD = 1.0  # seconds between two words to the guardian, and less for short leases
_WORDS = 4  # at least, within the life of a lease


async def keep_fenced(
    handler: RendezvousHandler, processes: Processes, is_current: Callable[[], bool]
) -> None:
    """Tell the workers' parent, again and again, when to kill them should this process be stopped.

    Args:
        handler: knows how long the others wait for this node.
        processes: the workers.
        is_current: whether the round goes on that they belong to.
    """
    while is_current():
        deadline = handler.alive_until()
        processes.fence_at(deadline)
        if deadline == math.inf:
            return
        span = deadline - time.monotonic()
        await asyncio.sleep(min(_PERIOD, max(0.05, span / _WORDS)))
