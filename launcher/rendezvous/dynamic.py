"""Rendezvous of several nodes: one agent's part in it, over a store that all of them share.

The thin shell around `state.decide`: it announces what this node wants and waits until the record
says what follows. `membership` does the talking. Made by the backends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from contextlib import suppress
from functools import cache
from typing import Any

from asyncrpc.observe import Clock, LoopClock
from asyncrpc.store import StoreError
from launcher.errors import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousTimeoutError,
)
from launcher.rendezvous.agreement import agree
from launcher.rendezvous.attendance import tell_absence, tell_progress
from launcher.rendezvous.base import (
    Change,
    Ending,
    Outcome,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    Told,
)
from launcher.rendezvous.endpoint import check_port, free_port
from launcher.rendezvous.handover import hand_over
from launcher.rendezvous.leader import Terms
from launcher.rendezvous.membership import Membership
from launcher.rendezvous.place import HostedPlace, LastingPlace, Place, SilentStoreError
from launcher.rendezvous.settings import Settings
from launcher.rendezvous.state import (
    NO_RANK,
    End,
    Enter,
    GiveUp,
    Node,
    Over,
    Record,
    Renew,
    Stage,
    StandBy,
    Wait,
    decide,
)

__all__ = ("DynamicRendezvous",)

_logger = logging.getLogger("launcher.rendezvous")


class DynamicRendezvous(RendezvousHandler):
    """Takes part in the rounds of a run with several nodes.

    Args:
        parameters: of the run.
        settings: of the run.
        place: where the agents meet.
        min_nodes: nodes that a round needs; ``None``: the parameters'.
        master: where rank 0's workers are to listen in every round; ``None``: on rank 0's host, at
            a new free port in each round.
        clock: tells the time; ``None`` for the real one.
    """

    def __init__(
        self,
        parameters: RendezvousParameters,
        settings: Settings,
        place: Place,
        *,
        min_nodes: int | None = None,
        master: RendezvousStoreInfo | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._parameters = parameters
        self._settings = settings
        self._place = place
        self._min_nodes = min_nodes or parameters.min_nodes
        self._master = master
        self._clock: Clock = clock or LoopClock()
        self._node = Node(
            id=os.urandom(8).hex(),
            name=parameters.local_addr or os.uname().nodename,
            pid=os.getpid(),
            address="",
            port=0,
            rank=NO_RANK if settings.rank is None else settings.rank,
            stage=Stage.READY,
            round=0,
        )
        self._round = NO_RANK  # that this node entered last
        self._given_ports: set[int] = set()
        self._is_told = False  # that this node is a spare
        self._is_closed = False
        self._leaving: asyncio.Task[None] | None = None  # of a node that hosts the store
        self._terms = Terms(
            min_nodes=self._min_nodes,
            max_nodes=parameters.max_nodes,
            expect_nodes=settings.expect_nodes or parameters.max_nodes,
            last_call=settings.last_call_timeout,
            join_debounce=settings.join_debounce,
        )
        self._members = self._new_membership()

    # What agents ask

    def get_backend(self) -> Told:
        """Name the backend."""
        return Told(self._parameters.backend)

    def get_run_id(self) -> Told:
        """Name the run."""
        return Told(self._parameters.run_id)

    async def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round and wait until it is formed; see the base class."""
        deadline = self._clock.time() + self._settings.join_timeout
        while True:
            await self._open(deadline - self._clock.time())
            if self._round == NO_RANK:
                await self._check_terms()
            try:
                await self._announce_ready(self._round + 1)
                return await self._enter(deadline)
            except SilentStoreError as error:
                _logger.warning("%s; waiting for it", error)
            except BaseException:
                await self._withdraw()
                raise

    async def report(self, outcome: Outcome) -> None:
        """Announce how the workers of the round ended here; see the base class."""
        with suppress(SilentStoreError):  # then there will be another round, if any
            await self._announce(
                stage=Stage.FAILED if outcome.failure else Stage.DONE,
                round=self._round,
                failure=outcome.failure,
                exitcode=outcome.exitcode,
                max_restarts=outcome.max_restarts,
                restart_window=outcome.restart_window,
            )

    async def round_over(self) -> Change | Ending:
        """Wait until the record has left the round; see the base class."""
        while True:
            try:
                record = self._members.record
            except SilentStoreError as error:
                return Change(
                    str(error), max(0.0, self._members.announcement.expiry - self._clock.time())
                )
            if record.end is not End.NOT_YET:
                return Ending(record.end is End.SUCCEEDED, record.why, record.exitcode)
            has_seat = record.rank_of(self._node.id) != NO_RANK
            if record.round != self._round or not has_seat:
                is_later = has_seat or record.round > self._round
                # Else the store has moved to that of another history, which counts for itself.
                self._round = min(self._round, record.round - 1)
                return Change(record.reason if is_later else "the run goes on elsewhere")
            await self._members.changes.wait()

    def alive_until(self) -> float:
        """Return when the lease lapses; never where the store stands still with us."""
        if self._place.is_host:
            return math.inf
        return time.monotonic() + self._members.announcement.lapse - self._clock.time()

    def store_credentials(self) -> bytes:
        """Return what lets workers into the run's store; see the base class."""
        return self._place.credentials if isinstance(self._place, LastingPlace) else b""

    async def missing(self) -> tuple[str, ...]:
        """Name the nodes of the round whose workers have not all ended; see the base class."""
        try:
            nodes = await self._members.nodes()
        except SilentStoreError:
            return ()
        return tuple(
            seat.label
            for seat in self._members.record.seats
            if seat.id in nodes and nodes[seat.id].stage is Stage.READY
        )

    async def progress(self) -> str:
        """Say who has come and how many are awaited; see the base class."""
        if not self._members.is_open or self._is_told:
            return ""
        nodes = await self._members.nodes()
        wanted = self._settings.expect_nodes or self._parameters.max_nodes
        return tell_progress(nodes.values(), wanted, self._min_nodes)

    async def is_closed(self) -> bool:
        """Say whether the run is over."""
        await self._open()
        return self._members.record.end is not End.NOT_YET

    async def set_closed(self) -> None:
        """Declare the run over."""
        await self._open()
        await self._members.end(f"{self._node.label} closed the run")

    async def num_nodes_waiting(self) -> int:
        """Count the nodes that wait for another round than the one that is formed.

        Nodes for which there is no room in a round are not counted, as torchrun does.
        """
        await self._open()
        record = self._members.record
        if not record.is_formed:
            return 0
        has_room = len(record.seats) < self._parameters.max_nodes
        return sum(
            node.stage is Stage.READY
            and (has_room if record.rank_of(node.id) == NO_RANK else node.round > record.round)
            for node in (await self._members.nodes()).values()
        )

    async def shutdown(self) -> bool:
        """End the run, if this node has a part in it, and release everything."""
        is_in_order = True
        if self._members.is_open and self._has_seat():
            try:
                async with asyncio.timeout(self._settings.close_timeout):
                    await self._members.end(f"{self._node.label} ended the run")
            except (RendezvousError, TimeoutError) as error:
                _logger.warning("the run could not be ended for the others: %s", error)
                is_in_order = False
        await self.close()
        return is_in_order

    async def leave(self) -> None:
        """Tell the others that this node goes.

        If it hosts the store, the next node takes that over, or the run ends with it where there
        are too few to go on.
        """
        if self._leaving is None:
            if not self._members.is_open or self._members.record.end is not End.NOT_YET:
                return
            if not isinstance(self._place, HostedPlace) or not self._place.is_host:
                await self._withdraw()
                return
            self._leaving = asyncio.create_task(self._leave_store(self._place))
        await asyncio.shield(self._leaving)  # who waits may be told to wait no more

    async def _leave_store(self, place: HostedPlace) -> None:
        label = self._node.label
        try:
            async with asyncio.timeout(self._settings.close_timeout):
                if await hand_over(
                    self._members,
                    place,
                    self._node,
                    min_nodes=self._min_nodes,
                    patience=self._settings.heartbeat_timeout,
                ):
                    return
            async with asyncio.timeout(self._settings.heartbeat_timeout):
                await self._members.end(f"{label}, which hosts the run's store, was stopped")
        except (RendezvousError, StoreError, TimeoutError) as error:
            _logger.debug("the others could not be told: %s", error)

    async def close(self) -> None:
        """Leave, and release everything; the handler cannot be used again."""
        if not self._is_closed:
            self._is_closed = True
            await self.leave()
            await self._members.close(self._settings.heartbeat_timeout)

    # Parts of it

    def _new_membership(self) -> Membership:
        return Membership(
            self._place,
            self._terms,
            interval=self._settings.keep_alive_interval,
            ttl=self._settings.ttl,
            clock=self._clock,
        )

    async def _open(self, timeout: float | None = None) -> None:
        """Reach the store, anew if it did not answer any more."""
        is_back = self._members.is_silent and not self._is_closed
        if is_back:
            await self._members.close(0.0)
            self._members = self._new_membership()
        await self._members.open(self._settings.join_timeout if timeout is None else timeout)
        if is_back and self._members.record.rank_of(self._node.id) == NO_RANK:
            self._round = min(self._round, self._members.record.round - 1)
        self._node = self._node._replace(address=self._place.address)

    async def _check_terms(self) -> None:
        """Refuse to join where this node would not fit in."""
        if self._master is not None and self._place.is_host:
            check_port(*self._master)
        nodes = f"{self._parameters.min_nodes}:{self._parameters.max_nodes}"
        settings = {"nnodes": nodes, **self._parameters.alike}
        try:
            await agree(self._members.store, self._node.label, settings)
        except StoreError as error:
            raise self._place.lost(error, "") from error

    def _has_seat(self) -> bool:
        record = self._members.record
        return record.is_formed and record.rank_of(self._node.id) != NO_RANK

    async def _announce(self, **fields: Any) -> None:
        self._node = self._node._replace(**fields)
        await self._members.announce(self._node)

    async def _announce_ready(self, number: int) -> None:
        await self._announce(stage=Stage.READY, round=number, port=self._free_port())

    async def _withdraw(self) -> None:
        """Let nobody wait for this node; without the store, nobody does."""
        if not self._members.has_announced:
            return
        try:
            async with asyncio.timeout(self._settings.heartbeat_timeout):
                await self._announce(stage=Stage.LEAVING)
        except (RendezvousError, TimeoutError) as error:
            _logger.debug("the others could not be told: %s", error)

    async def _enter(self, deadline: float) -> RendezvousInfo:
        """Wait until there is a round with a seat for this node."""
        is_spare = False
        while True:
            record = self._members.record
            now = self._clock.time()
            if is_spare:  # once there is room, it may wait for as long as any newcomer
                deadline = now + self._settings.join_timeout
            node = self._members.announcement.node
            assert node is not None
            action = decide(
                record,
                node,
                now,
                deadline=deadline,
                max_nodes=self._parameters.max_nodes,
            )
            match action:
                case Enter(rank):
                    return self._info(record, rank)
                case Over():
                    raise self._over(record)
                case GiveUp():
                    raise await self._timed_out(record)
                case Renew(number):
                    await self._announce_ready(number)
                case StandBy():
                    if not self._is_told:
                        self._is_told = True
                        _logger.warning("all seats are taken: this node is a spare")
                    is_spare = True
                    await self._members.changes.wait()
                case Wait(until):
                    is_spare = False
                    await self._members.changes.wait(until)

    def _info(self, record: Record, rank: int) -> RendezvousInfo:
        self._round = number = record.round
        if rank != self._node.rank != NO_RANK and self._node.rank < len(record.seats):
            _logger.warning(
                "node_rank=%d: another node has it, this one gets rank %d", self._node.rank, rank
            )
        first = record.seats[0]
        return RendezvousInfo(
            store=cache(lambda: self._members.round_store(number)),
            rank=rank,
            world_size=len(record.seats),
            bootstrap_store_info=self._master or RendezvousStoreInfo(first.address, first.port),
            round=number,
            store_url=self._place.url,
            restarts=record.restarts,
        )

    def _free_port(self) -> int:
        try:
            port = free_port(self._place.address, self._given_ports)
        except OSError:  # the address is how others see this host, not one of its own
            port = free_port("", self._given_ports)
        self._given_ports.add(port)
        return port

    def _over(self, record: Record) -> RendezvousError:
        run = f"run {self._parameters.run_id}"
        if record.end is End.SUCCEEDED:
            return RendezvousGracefulExitError(f"{run} is finished")
        if record.end is End.FAILED:
            run_ended = f"{run} is finished: {record.why}"
        else:
            run_ended = f"{run} is closed: {record.why}"
        return RendezvousClosedError(run_ended, record.why, record.exitcode)

    async def _timed_out(self, record: Record) -> RendezvousTimeoutError:
        """Make the error that names who came and who did not."""
        nodes = await self._members.nodes()
        absence = tell_absence(nodes.values(), record, self._min_nodes)
        return RendezvousTimeoutError(
            f"run {self._parameters.run_id}: no round within join_timeout="
            f"{self._settings.join_timeout:g} s: {absence}"
        )
