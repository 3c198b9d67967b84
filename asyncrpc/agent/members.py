"""Who is in the group, as this agent knows it: routes, joins, leaves, losses.

A worker's end is final for its incarnation and told once: to the calls that were out, and to those
who listen here (collectives, the graceful stop).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from asyncrpc.agent.dialing import CLOSING, DUPLICATE, REPLACE
from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.discovery import Record
from asyncrpc.errors import Delivery, RemoteProtocolError, UnknownWorkerError
from asyncrpc.identity import WorkerInfo
from asyncrpc.wire import Hello

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("DESTINATIONS", "Members")

_log = logging.getLogger("asyncrpc.members")

DESTINATIONS = frozenset((str, int, WorkerInfo))
"""Types of what names a destination: exact ones, since 1.0 and True are equal to the id 1."""


class Members:
    """The workers of one agent's group.

    Args:
        agent: whose view this is.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._routes: dict[str | int | WorkerInfo, Peer] = {}
        self.routes: dict[object, Peer] = {}
        """The present workers by name, id and `WorkerInfo`: what the hot path looks into."""
        self._peers: list[Peer] = []
        self._ready = asyncio.Event()
        self.listeners: list[Callable[[Peer], None]] = []
        """Called with each peer that left or was lost."""

    def add(self, records: Sequence[Record]) -> None:
        """Take workers into the group."""
        for record in records:
            peer = Peer(self._agent, record)
            self._peers.append(peer)
            for route in (record.info.name, record.info.id, record.info):
                self._routes[route] = self.routes[route] = peer
        self._ready.set()

    def route(self, to: object) -> Peer:
        """Return the present worker that a name, id or `WorkerInfo` names.

        Raises:
            ValueError: ``to`` is of another type.
            UnknownWorkerError: there is no such worker, or it left.
            PeerLostError: it was lost.
        """
        if to.__class__ not in DESTINATIONS:
            raise ValueError(
                f"Cannot get WorkerInfo from name {to!r}: a destination is a name, an int id or a "
                "WorkerInfo"
            )
        peer = self._routes.get(to)  # type: ignore[call-overload]  # the class was checked above
        if peer is None:
            raise UnknownWorkerError(
                f"name:{self._agent.info.name},rank:{self._agent.info.id} could not find "
                f"destination {to if isinstance(to, (str, WorkerInfo)) else f'id {to}'}"
            )
        if peer.state is not PeerState.PRESENT:
            raise peer.gone_error(Delivery.NOT_SENT)
        return peer  # type: ignore[no-any-return]  # as above

    def all(self) -> Sequence[Peer]:
        """Return every worker ever known, this one included."""
        return self._peers

    def present(self) -> list[Peer]:
        """Return the workers that are there, this one included, by id."""
        peers = [p for p in self._peers if p.state is PeerState.PRESENT]
        return sorted(peers, key=lambda peer: peer.info.id)

    def gone(self, peer: Peer, state: PeerState, reason: str) -> None:
        """Record that a worker left or was lost, once."""
        if peer.state is not PeerState.PRESENT or self._agent.is_closed:
            return
        if state is PeerState.LOST:
            _log.warning("%s lost %s: %s", self._agent.info.name, peer, reason)
        else:
            _log.info("%s left: %s", peer, reason)
        for route in (peer.info.name, peer.info.id, peer.info):
            self.routes.pop(route, None)
        peer.end(state, reason)
        for listener in tuple(self.listeners):
            listener(peer)

    def lose(self, peer: Peer, reason: str) -> None:
        """Record that a worker was lost, once."""
        self.gone(peer, PeerState.LOST, reason)

    def authorize(self, hello: Hello) -> str | None:
        """Say why a worker may not connect now, or ``None``.

        Called while its handshake is decided, so that of two links opened at once exactly one is
        accepted: the one from the worker whose name sorts first.
        """
        if self._agent.is_closed or self._agent.is_cut_off(hello.name):
            return CLOSING
        peer = self._routes.get(hello.name)
        if peer is None:
            return None  # the group is not known yet; `find` decides then
        if peer.record.incarnation != hello.incarnation:
            return f"{hello.name} is another run of this worker than the group knows"
        if peer.state is not PeerState.PRESENT:
            return f"{hello.name} is no longer in the group: {peer.reason}"[:200]
        if peer.is_dialing and self._agent.info.name < hello.name:
            return DUPLICATE
        if peer.connection is not None and not hello.flags & REPLACE:
            return DUPLICATE
        return None

    def known(self, to: str | int | WorkerInfo) -> Peer | None:
        """Return the worker of that name, id or identity, present or not."""
        return self._routes.get(to)

    async def find(self, hello: Hello) -> Peer:
        """Return the peer behind an authenticated link, waiting until the group is known.

        Raises:
            RemoteProtocolError: it is no worker of this group.
        """
        await self._ready.wait()
        peer = self._routes.get(hello.name)
        if peer is None or peer.record.incarnation != hello.incarnation:
            raise RemoteProtocolError(f"{hello.name!r} is no worker of this group")
        if peer.state is not PeerState.PRESENT:
            raise RemoteProtocolError(f"{hello.name} is no longer in the group: {peer.reason}")
        return peer
