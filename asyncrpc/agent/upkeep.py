"""What a link says about itself: signs of life, fences, names of functions, goodbyes.

Used by `Connection`, which sends what these frames need past the fault hook: they are exempt from
fault plans, from cancels and from priority.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncrpc.errors import RemoteProtocolError
from asyncrpc.wire import Frame, MessageType, encode_frame

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection

__all__ = ("Upkeep",)

_PING = int(MessageType.PING)
_PONG = int(MessageType.PONG)
_GOAWAY = int(MessageType.GOAWAY)
_INTERN = int(MessageType.INTERN)
_MAX_FUNCTIONS = 65_536  # names one peer may intern


class Upkeep:
    """Control frames of one link.

    Args:
        agent: whose link.
        connection: the link.
    """

    __slots__ = ("_agent", "_connection", "_fences", "_next", "functions", "misses", "rtt")

    def __init__(self, agent: Agent, connection: Connection) -> None:
        self._agent = agent
        self._connection = connection
        self._fences: dict[int, asyncio.Future[None]] = {}
        self._next = 0
        self.misses = 0
        """Pings in a row that the peer has not answered."""
        self.rtt = 0.0
        """Seconds that the last ping took."""
        self.functions: dict[int, str] = {}
        """The peer's interned names; they die with the link."""

    @property
    def handlers(self) -> dict[int, Callable[[Frame], None]]:
        """Handlers of these frames by type, but for PING, which may have to wait."""
        return {_PONG: self._on_pong, _GOAWAY: self._on_goaway, _INTERN: self._on_intern}

    # -- out

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._connection.write(encode_frame(_PING, 0, remaining=self._agent.clock.time()))

    def answer_ping(self, frame: Frame) -> None:
        """Give a sign of life."""
        self._connection.write(encode_frame(_PONG, frame[3], remaining=frame[5]))

    def fence(self) -> asyncio.Future[None]:
        """Return a future that is done once all sent before has arrived, or the link ended."""
        done = self._agent.loop.create_future()
        self._next += 1
        self._fences[self._next] = done
        self._connection.write(encode_frame(_PING, self._next))
        return done

    def goaway(self, kind: str, reason: str) -> None:
        """Say that this side leaves the group, how and why."""
        self._connection.write(encode_frame(_GOAWAY, 0, f"{kind}\n{reason}".encode()))

    def introduce(self, function: int, name: str) -> None:
        """Say which name an id of this side's stands for."""
        self._connection.write(encode_frame(_INTERN, 0, name.encode(), function=function))

    def end(self) -> None:
        """Let those go on that wait for a fence: the link is gone."""
        fences, self._fences = self._fences, {}
        for fence in fences.values():
            _pass(fence)

    # -- in

    def _on_pong(self, frame: Frame) -> None:
        self.misses = 0
        if frame[3]:
            _pass(self._fences.pop(frame[3], None))
        else:
            self.rtt = max(0.0, self._agent.clock.time() - frame[5])

    def _on_goaway(self, frame: Frame) -> None:
        kind, _, reason = bytes(frame[7]).decode(errors="replace").partition("\n")
        self._connection.peer.said_goodbye(kind, reason)

    def _on_intern(self, frame: Frame) -> None:
        if len(self.functions) >= _MAX_FUNCTIONS:
            raise RemoteProtocolError(f"more than {_MAX_FUNCTIONS} function names interned")
        try:
            self.functions[frame[4]] = bytes(frame[7]).decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("interned name is not UTF-8") from error


def _pass(fence: asyncio.Future[None] | None) -> None:
    if fence is not None and not fence.done():
        fence.set_result(None)
