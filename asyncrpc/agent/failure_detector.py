"""Notices workers that fell silent: a PING on every link, then the liveness thread.

Runs on the agent's clock. A closed socket is noticed by its link at once; this is for peers whose
socket stays open: a stopped process, a cut network. A worker whose loop is blocked by user code is
slow, not dead: its liveness thread still answers. The observer's own lag is never held against a
peer: a tick that comes late counts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncrpc.agent.liveness import ask_alive
from asyncrpc.errors import RpcError

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection
    from asyncrpc.observe import Timer

__all__ = ("FailureDetector",)


class FailureDetector:
    """Watches the links of one agent.

    Args:
        agent: whose links.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._interval = agent.options.heartbeat_interval
        self._misses = agent.options.heartbeat_misses
        self._timer: Timer | None = None
        self._due = 0.0
        self.lag = 0.0
        """Seconds by which this loop's latest tick was late."""

    def start(self) -> None:
        """Start watching."""
        self._due = self._agent.clock.time() + self._interval
        self._timer = self._agent.clock.call_at(self._due, self._tick)

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.lag = max(0.0, self._agent.clock.time() - self._due)
        is_late = self.lag > self._interval / 2
        self.start()
        for connection in self._agent.connections():
            connection.peer.cancel_again()
            if connection.hello is None:
                continue  # the link to oneself
            if connection.sharing is not None:
                connection.sharing.rest()
            if connection.is_heard:
                connection.upkeep.misses = 0
            elif not is_late:
                self._silent(connection)
            connection.is_heard = False
            connection.upkeep.ping()

    def _silent(self, connection: Connection) -> None:
        """Count an interval without a byte from the peer, which was asked for one."""
        connection.upkeep.misses += 1
        is_over = connection.upkeep.misses >= self._misses
        has_thread = connection.peer.record.liveness is not None
        if is_over and not (has_thread and self._misses == 1):
            self._lose(connection)
        elif has_thread:
            task = self._ask(connection, is_last=is_over)
            self._agent.spawn(task, f"ask whether {connection.peer} lives")

    async def _ask(self, connection: Connection, *, is_last: bool) -> None:
        """Ask the liveness thread; an answer counts as a sign of life."""
        try:
            await ask_alive(self._agent, connection.peer.record, timeout=self._interval)
        except (RpcError, ConnectionError, TimeoutError):
            if is_last:
                self._lose(connection)
        else:
            connection.is_heard = True

    def _lose(self, connection: Connection) -> None:
        if connection is connection.peer.connection:
            self._agent.members.lose(
                connection.peer, f"no sign of life for {self._misses * self._interval:g} s"
            )
