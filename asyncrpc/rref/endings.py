"""Waits until an owner knows of the end of a reference: what `RRef.release` returns.

Used by `context`, which hears of what ends them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from asyncrpc.agent import Agent, Deadlines
from asyncrpc.errors import Delivery, RpcTimeoutError

from .values import Deleted, GlobalId, Worker

__all__ = ("Endings",)


class Endings:
    """The waits of one agent, each under the deadline of calls.

    Args:
        agent: whose.
        name: gives the name of a worker.
    """

    def __init__(self, agent: Agent, name: Callable[[Worker], str]) -> None:
        self._agent = agent
        self._name = name
        self._waits: dict[GlobalId, _Wait] = {}  # by fork
        self._deadlines = Deadlines(agent.clock, self._waits, self._expire)

    def __len__(self) -> int:
        return len(self._waits)

    def begin(self, fork: GlobalId, owner: Worker) -> asyncio.Future[None]:
        """Return a future that is done once the owner knows of the end of a fork."""
        seconds = self._agent.caller.timeout
        wait = self._waits[fork] = _Wait(loop=self._agent.loop)
        wait.owner = owner
        wait.is_timed = False
        wait.deadline = self._agent.clock.time() + seconds if seconds else 0.0
        if 0 < wait.deadline < self._deadlines.armed:
            self._deadlines.arm(wait.deadline)
        return wait

    def deleted(self, deleted: Deleted) -> None:
        """Wake who waits for the end of a fork that its owner knows of."""
        if self._waits:
            self._end(deleted.forks)

    def _end(self, forks: Iterable[GlobalId]) -> None:
        for fork in forks:
            wait = self._waits.pop(fork, None)
            if wait is not None and not wait.done():
                wait.set_result(None)

    def owner_gone(self, owner: Worker) -> None:
        """Wake who waits for a worker that is no more."""
        self._end([fork for fork, wait in self._waits.items() if wait.owner == owner])

    def owner_found(self, stand_in: Worker, owner: Worker) -> None:
        """Learn who a worker is that was being looked up."""
        for wait in self._waits.values():
            if wait.owner == stand_in:
                wait.owner = owner

    def close(self) -> None:
        """Wake everybody."""
        self._deadlines.close()
        self._end(tuple(self._waits))

    def _expire(self, fork: GlobalId) -> None:
        wait = self._waits.pop(fork)
        if not wait.done():
            wait.set_exception(
                RpcTimeoutError(
                    f"{self._name(wait.owner)} did not say within {self._agent.caller.timeout:g} s "
                    "that it knows of the end of a reference; it will be told all the same",
                    delivery=Delivery.UNKNOWN,
                )
            )


class _Wait(asyncio.Future[None]):
    """A wait for an owner; timed by `Deadlines`."""

    __slots__ = ("deadline", "is_timed", "owner")

    deadline: float
    is_timed: bool
    owner: Worker
