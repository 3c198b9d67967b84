"""The graceful end of a group: nobody leaves before no call runs anywhere.

Theory of operation. Each worker that shuts down announces it to the leader, the present worker with
the lowest id, and waits for the leader's answer. Once every present worker has announced, the
leader asks all of them, in rounds, for their count of calls ever served; a worker answers when it
is idle: no call of its users out or served, nothing large on its way, and everything sent without a
reply known to have arrived (a PING behind it came back). When two rounds give the same counts,
there was a moment between them when all were idle and nothing was on its way, so no call runs and
none can start: the leader answers the announcements. A leader that is lost is replaced by the next
one, to which everybody announces again.

A worker of a dynamic group leaves alone. It waits a moment for calls that it serves or has out, so
that what they call back still finds it; then it tells the others that it is leaving, which send it
nothing new from there on; and when what they had sent has come and is answered, it goes.

Source: F. Mattern, "Algorithms for distributed termination detection" (1987), the two-wave method.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.peers import Peer
from asyncrpc.errors import PeerLostError, RpcError, ShutdownTimeoutError, UnknownWorkerError
from asyncrpc.observe import reminding, time_limit
from asyncrpc.wire import MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("Drain",)

_log = logging.getLogger("asyncrpc.shutdown")

_ANNOUNCE = "announce"
_PROBE = "probe"
_STATUS = "status"
_QUIET = 1.0  # seconds in which a leaver may come to rest before it turns new calls away
_STATUS_TIMEOUT = 0.5  # seconds to ask the leader who is missing, for the text of an error


class Drain:
    """One agent's part in the end of its group.

    Args:
        agent: whose part.
        finish: awaited by the leader when all is over, before anybody is told so.
    """

    def __init__(self, agent: Agent, finish: Callable[[], Awaitable[None]]) -> None:
        self._agent = agent
        self._finish = finish
        self._is_announced = False
        self._announced: dict[Peer, list[asyncio.Future[Any]]] = {}  # as leader: who waits for us
        self._changed = asyncio.Event()
        self._phase = "announce"
        self._waiting_for: tuple[str, ...] = ()
        agent.handlers[MessageType.DRAIN] = self._on_message
        agent.members.listeners.append(self._on_gone)

    async def run(self, timeout: float) -> None:
        """Return once no call runs anywhere in the group and every present worker stops.

        Args:
            timeout: seconds, 0 for no limit.

        Raises:
            ShutdownTimeoutError: that took longer; names the phase and the workers waited for.
        """
        self._is_announced = True
        self._changed.set()
        try:
            async with (
                time_limit(self._agent.clock, timeout),
                reminding(self._agent.clock, self._tell_in_group),
            ):
                while not await self._attempt():
                    pass
                self._phase, self._waiting_for = "references", ()
                await self._agent.references.release_all(is_group_over=True)
        except TimeoutError as error:
            await self._ask_who_is_missing()
            raise self._late(timeout) from error

    async def leave(self, timeout: float) -> None:
        """Return once this worker may leave a dynamic group: no call is out or served here.

        Args:
            timeout: seconds, 0 for no limit.

        Raises:
            ShutdownTimeoutError: that took longer; names the workers waited for.
        """
        agent = self._agent
        self._phase = "calls"
        try:
            async with (
                time_limit(agent.clock, timeout),
                reminding(agent.clock, self._tell_alone),
            ):
                with contextlib.suppress(TimeoutError):
                    async with time_limit(agent.clock, _QUIET):
                        await agent.wait_idle()
                agent.is_leaving = True
                links = [link for link in agent.connections() if link.hello is not None]
                for link in links:
                    link.upkeep.goaway("leaving", "it shuts down")
                await asyncio.gather(
                    *[link.upkeep.fence() for link in links]
                )  # all before has come
                await agent.wait_idle()
                self._phase = "references"
                agent.references.note_leaks()
                await agent.references.release_all(is_group_over=False)
        except TimeoutError as error:
            self._waiting_for = agent.busy_with()
            raise self._late(timeout) from error

    async def _tell_in_group(self, seconds: float) -> None:
        await self._ask_who_is_missing()
        self._tell(seconds)

    async def _tell_alone(self, seconds: float) -> None:
        self._waiting_for = self._agent.busy_with()
        self._tell(seconds)

    def _tell(self, seconds: float) -> None:
        """Say in the log what the end waits for: without a limit that may be forever."""
        running = sorted(
            {call.target.name for s in self._agent.servers for call in s.calls.values()}
        )
        _log.warning(
            "the graceful shutdown of %s has waited for %.0f s, in phase %s, for %s%s",
            self._agent.info.name,
            seconds,
            self._phase,
            ", ".join(self._waiting_for) or "nobody",
            f"; still running here: {', '.join(running)}" if running else "",
        )

    def _late(self, timeout: float) -> ShutdownTimeoutError:
        names = ", ".join(self._waiting_for) or "nobody"
        return ShutdownTimeoutError(
            f"graceful shutdown took longer than {timeout:g} s; in phase {self._phase}, "
            f"waiting for {names}",
            phase=self._phase,
            workers=self._waiting_for,
        )

    async def _attempt(self) -> bool:
        """Lead or follow; false if the leader was lost meanwhile."""
        leader = self._agent.members.present()[0]
        if leader.info == self._agent.info:
            await self._lead()
            return True
        self._waiting_for = (leader.info.name,)
        try:
            await self._agent.caller.request(leader, MessageType.DRAIN, _ANNOUNCE)
        except (PeerLostError, UnknownWorkerError):
            return False
        return True

    # -- the leader

    async def _lead(self) -> None:
        before: list[int] | None = None
        while True:
            await self._all_announced()
            self._phase = "calls"
            counts = await self._probe_all()
            if counts is not None and counts == before:
                break
            before = counts
        await self._finish()
        for waiting in self._announced.values():
            for future in waiting:
                if not future.done():
                    future.set_result(True)
        self._announced.clear()

    async def _all_announced(self) -> None:
        self._phase = "announce"
        while missing := self._missing():
            self._waiting_for = tuple(missing)
            for name in missing:  # without a link nobody would notice that it died
                self._agent.members.route(name).connect()
            self._changed.clear()
            await self._changed.wait()
        self._waiting_for = ()

    def _missing(self) -> list[str]:
        """Return the names of the present workers that have not announced their shutdown."""
        me = self._agent.info
        missing = [
            peer.info.name
            for peer in self._agent.members.present()
            if peer not in self._announced and peer.info != me
        ]
        return missing if self._is_announced else [*missing, me.name]

    async def _probe_all(self) -> list[int] | None:
        """Return every worker's count of served calls at a moment when it was idle."""
        peers = [p for p in self._agent.members.present() if p.info != self._agent.info]
        probes = {
            self._agent.caller.request(peer, MessageType.DRAIN, _PROBE): peer for peer in peers
        }
        own = asyncio.ensure_future(self._answer_probe())  # counts at that moment, as the others do
        try:
            unanswered: set[asyncio.Future[Any]] = {*probes, own}
            while unanswered:
                waits = [probes[f].info.name for f in unanswered if f in probes]
                self._waiting_for = tuple(sorted(waits)) or (self._agent.info.name,)
                _, unanswered = await asyncio.wait(unanswered, return_when=asyncio.FIRST_COMPLETED)
            return [own.result(), *[probe.result() for probe in probes]]
        except RpcError:
            return None  # one was lost; look again at who is present
        finally:
            for future in (own, *probes):
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen

    # -- everybody

    def _on_message(self, peer: Peer, payload: object) -> object:
        if payload == _ANNOUNCE:
            done: asyncio.Future[bool] = self._agent.loop.create_future()
            self._announced.setdefault(peer, []).append(done)
            self._changed.set()
            return done
        if payload == _PROBE:
            return self._agent.spawn(self._answer_probe(), "wait until idle")
        if payload == _STATUS:
            return [self._phase, list(self._waiting_for or self._missing())]
        raise ValueError(f"unknown drain message {payload!r}")

    async def _answer_probe(self) -> int:
        await self._agent.wait_idle()
        references = self._agent.references
        references.note_leaks()  # now, for nobody releases what users hold before all calls ended
        return self._agent.served + references.handled

    def _on_gone(self, peer: Peer) -> None:
        self._announced.pop(peer, None)
        self._changed.set()

    async def _ask_who_is_missing(self) -> None:
        """Learn from the leader what everybody waits for."""
        leader = self._agent.members.present()[0]
        if leader.info == self._agent.info:
            return
        try:
            self._phase, names = await self._agent.caller.request(
                leader, MessageType.DRAIN, _STATUS, _STATUS_TIMEOUT
            )
        except RpcError:
            return
        self._waiting_for = tuple(names)
