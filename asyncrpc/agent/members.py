"""Who is in the group, as this agent knows it: routes, joins, leaves, losses.

A worker's end is final for its incarnation and told once: to the calls that were out, to those who
listen here (collectives, the graceful stop, remote references) and to monitors. What other members
know comes in by the `Roster`, which also carries this agent's verdicts to them.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from asyncrpc.agent.dialing import ALIVE, CLOSING, DUPLICATE, FENCED, PROBE, REPLACE
from asyncrpc.agent.monitoring import MemberEvent, Monitor
from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.agent.seeking import Seeker
from asyncrpc.discovery import Record
from asyncrpc.errors import (
    Delivery,
    PeerLostError,
    RemoteProtocolError,
    StoreError,
    UnknownWorkerError,
)
from asyncrpc.identity import WorkerInfo
from asyncrpc.wire import Hello

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.roster import Roster

__all__ = ("DESTINATIONS", "Members")

_log = logging.getLogger("asyncrpc.members")

_NAMED = 10  # workers that an error names; thousands would hide what else it says

DESTINATIONS = frozenset((str, int, WorkerInfo))
"""Types of what names a destination: exact ones, since 1.0 and True are equal to the id 1."""

_REMEMBERED = 1024  # workers that are gone; older ones are unknown, as if they had never been


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
        self._present: dict[bytes, Peer] = {}  # by incarnation, as the next one
        self._gone: dict[bytes, Peer] = {}  # oldest first
        self._ready = asyncio.Event()
        self._monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()
        self.roster: Roster | None = None
        """The group's part of the store, once the worker has its place there."""
        self.fenced = ""
        """Why the group holds this worker itself for lost, empty if it does not."""
        self.sought: dict[str | int | WorkerInfo, Seeker] = {}
        """Destinations that are being looked up."""
        self.listeners: list[Callable[[Peer], None]] = []
        """Called with each peer that left or was lost."""
        self.arrivals: list[Callable[[Peer], None]] = []
        """Called with each peer that joined after the start."""

    def add(self, records: Sequence[Record]) -> None:
        """Take the workers of the start into the group."""
        for record in records:
            self._enter(record)
        self._ready.set()

    def join(self, record: Record) -> Peer:
        """Take in a worker that joined, in the place of an earlier run of it.

        Returns:
            The peer, the one there is if that incarnation is known.
        """
        known = self.of(record.incarnation)
        if known is not None:
            return known
        for route in (record.info.name, record.info.id):
            old = self._routes.get(route)
            if old is not None and old.state is PeerState.PRESENT:
                self.gone(old, PeerState.LOST, f"another run of {record.info.name} took its place")
        peer = self._enter(record)
        _log.info("%s joined", peer)
        for listener in tuple(self.arrivals):
            listener(peer)
        self._tell(peer.info, "joined", "")
        return peer

    def _enter(self, record: Record) -> Peer:
        peer = self._present[record.incarnation] = Peer(self._agent, record)
        for route in (record.info.name, record.info.id, record.info):
            self._routes[route] = self.routes[route] = peer
            if route in self.sought:
                self.sought[route].found(peer)
        return peer

    # -- destinations

    def route(self, to: object) -> Peer:
        """Return the present worker that a name, id or `WorkerInfo` names.

        Raises:
            ValueError: ``to`` is of another type.
            UnknownWorkerError: there is no such worker, or it left.
            PeerLostError: it was lost, or this worker itself is.
        """
        peer = self._find(to)
        if peer is None:
            raise self.unknown_error(to)
        return peer

    def destination(self, to: object) -> Peer:
        """Return the worker that a call goes to; in a dynamic group perhaps one to be looked up.

        Errors are those of `route`; that there is no such worker may be found out later.
        """
        peer = self._find(to)
        if peer is None:
            if self.roster is None or not self.roster.is_dynamic:
                raise self.unknown_error(to)
            assert isinstance(to, (str, int, WorkerInfo))  # _find has seen to that
            seeker = self.sought.get(to) or Seeker(self._agent, to)
            self.sought[to] = seeker
            return seeker.peer
        return peer

    async def look_up(self, to: str | int | WorkerInfo) -> Record | None:
        """Return what the store has of a worker, ``None`` if nothing.

        Raises:
            StoreError: it does not answer.
        """
        return None if self.roster is None else await self.roster.look_up(to)

    def _find(self, to: object) -> Peer | None:
        if to.__class__ not in DESTINATIONS:
            raise ValueError(
                f"Cannot get WorkerInfo from name {to!r}: a destination is a name, an int id or a "
                "WorkerInfo"
            )
        if self.fenced:
            raise self.fenced_error(Delivery.NOT_SENT)
        peer = self._routes.get(to)  # type: ignore[call-overload]  # the class was checked above
        if peer is not None and (peer.state is not PeerState.PRESENT or peer.is_leaving):
            raise peer.gone_error(Delivery.NOT_SENT)
        return peer  # type: ignore[no-any-return]  # as above

    def unknown_error(self, to: object, why: str = "") -> UnknownWorkerError:
        """Return the error of a call to a worker that the group does not have."""
        me = self._agent.info
        name = to if isinstance(to, (str, WorkerInfo)) else f"id {to}"
        return UnknownWorkerError(
            f"name:{me.name},rank:{me.id} could not find destination {name}{why or self._known()}"
        )

    def _known(self) -> str:
        names = [peer.info.name for peer in self.present()]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"; the workers it knows are {', '.join(names[:_NAMED])}{more}"

    def fenced_error(self, delivery: Delivery) -> PeerLostError:
        """Return the error of a call by a worker that the group holds for lost."""
        return PeerLostError(
            f"{self._agent.info.name} itself was declared lost by its group: {self.fenced}",
            delivery=delivery,
        )

    # -- who there is

    def all(self) -> list[Peer]:
        """Return the present workers, this one included, and those that are being looked up."""
        return [*self._present.values(), *self._sought_peers()]

    def present(self) -> list[Peer]:
        """Return the workers that are there, this one included, by id."""
        return sorted(self._present.values(), key=lambda peer: peer.info.id)

    def own_record(self) -> Record:
        """Return the record of this worker itself."""
        return self._present[self._agent.incarnation].record

    def gone_count(self) -> int:
        """Return how many workers are remembered that left or were lost."""
        return len(self._gone)

    def known(self, to: str | int | WorkerInfo) -> Peer | None:
        """Return the worker of that name, id or identity, or the last one, present or not."""
        return self._routes.get(to)

    def of(self, incarnation: bytes) -> Peer | None:
        """Return the worker of that incarnation, present or not, or what stands for one."""
        peer = self._present.get(incarnation) or self._gone.get(incarnation)
        if peer is None and self.sought:
            sought = [p for p in self._sought_peers() if p.record.incarnation == incarnation]
            return sought[0] if sought else None
        return peer

    def is_sought(self, peer: Peer) -> bool:
        """Whether a peer stands for a worker that is being looked up."""
        return any(peer is other for other in self._sought_peers())

    def _sought_peers(self) -> list[Peer]:
        return [seeker.peer for seeker in self.sought.values()]

    # -- the end of workers

    def gone(self, peer: Peer, state: PeerState, reason: str) -> None:
        """Record that a worker left or was lost, once."""
        if self._present.get(peer.record.incarnation) is not peer or self._agent.is_closed:
            return
        if state is PeerState.LOST:
            _log.warning("%s lost %s: %s", self._agent.info.name, peer, reason)
        else:
            _log.info("%s left: %s", peer, reason)
        self._remove(peer, state, reason)
        self._tell(peer.info, "left" if state is PeerState.LEFT else "lost", reason)

    def _remove(self, peer: Peer, state: PeerState, reason: str) -> None:
        del self._present[peer.record.incarnation]
        self._gone[peer.record.incarnation] = peer
        self.forget_routes(peer)
        peer.end(state, reason)
        for listener in tuple(self.listeners):
            listener(peer)
        while len(self._gone) > _REMEMBERED:
            oldest = self._gone.pop(next(iter(self._gone)))
            for route in (oldest.info.name, oldest.info.id, oldest.info):
                if self._routes.get(route) is oldest:
                    del self._routes[route]

    def forget_routes(self, peer: Peer) -> None:
        """Let no new call go to a worker."""
        for route in (peer.info.name, peer.info.id, peer.info):
            if self.routes.get(route) is peer:
                del self.routes[route]

    def lose(self, peer: Peer, reason: str) -> None:
        """Record that a worker was lost, once, and have the whole group hold it for lost."""
        if self._present.get(peer.record.incarnation) is not peer:
            return
        if peer.is_judged:  # it has left, as the store says; only its last word did not come
            self.gone(peer, PeerState.LEFT, peer.reason)
            return
        self.gone(peer, PeerState.LOST, reason)
        if self.roster is not None:
            self.roster.post(peer)

    def fence(self, reason: str) -> None:
        """Learn that the group holds this worker for lost: everything it has out fails."""
        if self.fenced or self._agent.is_closed:
            return
        self.fenced = reason
        _log.error("%s was declared lost by its group: %s", self._agent.info.name, reason)
        self.routes.clear()
        self._agent.caller.give_up(self.fenced_error(Delivery.UNKNOWN))
        why = f"{self._agent.info.name} was declared lost itself: {reason}"
        for peer in self.present():
            if peer.record.incarnation != self._agent.incarnation:
                self._remove(peer, PeerState.LOST, why)
        self._tell(self._agent.info, "lost", reason)
        self.end_monitors()
        if self.roster is not None:
            self.roster.give_up()

    # -- monitors

    def monitor(self, accepts: Callable[[WorkerInfo], bool]) -> Monitor:
        """Return a monitor of the workers that ``accepts`` is true for.

        That of a worker which was declared lost says that, and nothing of the others.
        """
        is_over = self._agent.is_closed or bool(self.fenced)
        monitor = Monitor(accepts, [] if is_over else [peer.info for peer in self.present()])
        self._monitors.add(monitor)
        if self.fenced:
            monitor.put(MemberEvent(self._agent.info, "lost", self.fenced))
        if is_over:
            monitor.end()
        return monitor

    def end_monitors(self) -> None:
        """Let monitors end after what they have."""
        for monitor in tuple(self._monitors):
            monitor.end()

    def _tell(
        self, worker: WorkerInfo, kind: Literal["joined", "left", "lost"], reason: str
    ) -> None:
        for monitor in tuple(self._monitors):
            monitor.put(MemberEvent(worker, kind, reason))

    # -- links in

    def authorize(self, hello: Hello) -> str | None:
        """Say why a worker may not connect now, or ``None``.

        Called while its handshake is decided, so that of two links opened at once exactly one is
        accepted: the one from the worker whose name sorts first.
        """
        if self._agent.is_closed or self._agent.is_cut_off(hello.name):
            return CLOSING
        if self.fenced:
            return f"{self._agent.info.name} was declared lost itself"
        if hello.flags & PROBE:
            return ALIVE + self._agent.incarnation.hex()
        if self._agent.is_leaving:
            return CLOSING
        peer = self.of(hello.incarnation)
        if peer is None:
            return None  # the group is not known yet, or has news; `find` decides then
        if peer.state is PeerState.LOST:
            return FENCED + peer.reason
        if peer.state is PeerState.LEFT:
            return f"{hello.name} is no longer in the group: {peer.reason}"
        if peer.is_dialing and self._agent.info.name < hello.name:
            return DUPLICATE
        if peer.connection is not None and not hello.flags & REPLACE:
            return DUPLICATE
        return None

    async def find(self, hello: Hello) -> Peer:
        """Return the peer behind an authenticated link, waiting until the group is known.

        One that nobody has told of yet is looked up in the store.

        Raises:
            RemoteProtocolError: it is no worker of this group.
        """
        await self._ready.wait()
        peer = self.of(hello.incarnation)
        if peer is None:
            try:
                record = await self.look_up(hello.worker_id)
            except StoreError as error:
                raise RemoteProtocolError(f"cannot look up {hello.name!r}: {error}") from error
            if record is not None and record.incarnation == hello.incarnation:
                peer = self.join(record)
        if peer is None:
            raise RemoteProtocolError(f"{hello.name!r} is no worker of this group")
        if peer.state is not PeerState.PRESENT:
            raise RemoteProtocolError(f"{hello.name} is no longer in the group: {peer.reason}")
        return peer
