"""The members of a group as its store has them: this worker among them, and what becomes of all.

Theory of operation. A worker claims its id (in a dynamic group its name too) and keeps its record
there under a lease, which the liveness thread renews while the loop is blocked. It watches the
records of all others: who appears has joined. Who leaves says so in place of its record. The first
to find a worker dead or silent puts a verdict there by compare-and-set, and every member acts on it
when it sees it, the lost one too: it is fenced. A record that merely vanished is no verdict, since
its worker may have lost its way to the store alone: those who have no link to the worker ask
whether it lives, one after the other in the order of ids, so that mostly one does.

All members see the changes in one order. So of two workers that hold each other for lost the one
whose verdict came first is right: a verdict by a worker that was judged before is void, and its
victim puts its record back.

While the store is out of reach, verdicts are this worker's own and wait to be told.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.agent.place import Place
from asyncrpc.discovery import (
    OVER,
    WORKERS,
    GroupView,
    Record,
    Verdict,
    check_unique,
    find_entry,
    missing_error,
    missing_text,
    mixed_error,
    warn_others,
    worker_key,
)
from asyncrpc.errors import DuplicateNameError, PeerLostError
from asyncrpc.identity import WorkerInfo
from asyncrpc.observe import reminding, time_limit
from asyncrpc.store import StoreError, StoreWatch

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("Roster",)

_log = logging.getLogger("asyncrpc.members")

_MAX_TURN = 3  # of those who ask whether a worker lives; the others need not wait for longer


class Roster:
    """One agent's part in its group's records.

    Args:
        agent: whose part.
        place: its keys in the store.
        world_size: number of workers, 0 for a dynamic group.
    """

    def __init__(self, agent: Agent, place: Place, world_size: int) -> None:
        self._agent = agent
        self._place = place
        self._world_size = world_size
        self._interval = agent.options.heartbeat_interval
        self._budget = self._interval * agent.options.heartbeat_misses
        self._watch: StoreWatch | None = None
        self._unposted: dict[bytes, Peer] = {}  # verdicts the store does not have yet
        self._posting: asyncio.Task[None] | None = None
        self._vanished: set[bytes] = set()  # workers that have no record, for all that is known
        self._is_ending = False

    @property
    def is_dynamic(self) -> bool:
        """Whether workers join and leave this group at any time."""
        return not self._world_size

    # -- the start

    async def join(self, record: Record, timeout: float) -> list[Record]:
        """Take this worker's place; return all records once the group may begin.

        Args:
            record: this worker's.
            timeout: seconds to wait for the other workers of a static group.

        Raises:
            DuplicateNameError: a worker that lives has the name or the id.
            RpcTimeoutError: not all workers of a static group came in time; names who is missing.
            RpcError: the group is of the other kind.
        """
        group = self._place.group
        view = GroupView(self._world_size)
        entries, version = await group.snapshot(WORKERS)
        view.start(entries)
        watch = self._watch = group.watch(WORKERS, since=version)
        for other in view.others():
            if await self._place.is_alive(other):
                raise mixed_error(record, other)
            view.records.pop(worker_key(other.info.id))
        try:
            await self._check_name(view, record)
            await self._place.claim(record)
        except DuplicateNameError as error:
            if not self.is_dynamic:
                await warn_others(group, self._world_size, error)
            raise
        if self.is_dynamic:
            return [*view.records.values(), record]

        async def tell(seconds: float) -> None:
            text = missing_text(view, view.missing(), round(seconds), self._place.where)
            _log.warning("%s waits for its group: %s", record.info.name, text)

        clock = self._agent.clock
        try:
            async with time_limit(clock, timeout), reminding(clock, tell):
                await _complete(view, watch, record)
        except TimeoutError as error:
            raise missing_error(view, timeout, self._place.where) from error
        return list(view.records.values())

    async def _check_name(self, view: GroupView, record: Record) -> None:
        """Refuse a name that another rank of a static group has; a dynamic one has keys for that.

        Raises:
            DuplicateNameError: that worker lives.
        """
        for other in view.records.values():
            same = other.info.name == record.info.name and other.info.id != record.info.id
            if same and not self.is_dynamic and await self._place.is_alive(other):
                check_unique([other, record])

    def start(self) -> None:
        """Follow the group from here on; the agent knows what `join` returned."""
        members = self._agent.members
        members.roster = self
        self._agent.spawn(self._follow(), "follow the group")
        self._agent.spawn(self._stay(), "keep its place in the group")

    # -- what changes

    async def _follow(self) -> None:
        """Act on what changes in the store, until the agent closes."""
        while not self._is_ending:
            try:
                if self._watch is not None:
                    async for event in self._watch:
                        self._apply(event.key, event.value)
                await self._catch_up()
            except StoreError as error:
                if self._watch is not None:
                    _log.warning("%s lost sight of its group: %s", self._agent.info.name, error)
                    self._watch = None
                if not self._is_ending:
                    await self._place.mend(error)

    async def _catch_up(self) -> None:
        """Begin anew with a snapshot, after changes may have been missed."""
        group = self._place.group
        entries, version = await group.snapshot(WORKERS)
        self._watch = group.watch(WORKERS, since=version)
        _log.info("%s sees its group as of version %d", self._agent.info.name, version)
        for key, value in entries.items():
            self._apply(key, value)
        for peer in self._agent.members.present():
            key = worker_key(peer.info.id)
            if key not in entries:
                self._apply(key, b"")

    def _apply(self, key: str, value: bytes) -> None:
        """Act on one change of a worker's place; an empty value means that it vanished."""
        if self._is_ending:
            return
        entry = find_entry(value)
        if key == OVER:
            self.stop()
        elif entry is None:
            number = key.removeprefix(WORKERS)
            peer = self._agent.members.known(int(number)) if number.isdecimal() else None
            if peer is not None:
                self._vanish(peer)
        elif isinstance(entry, Record):
            self._appear(entry)
        elif entry.kind != "conflict":
            self._hear(entry)

    def _appear(self, record: Record) -> None:
        """A record was put: of a new worker, or of a known one whose lease had lapsed."""
        members = self._agent.members
        peer = members.of(record.incarnation)
        self._vanished.discard(record.incarnation)
        if peer is not None:
            if peer.state is PeerState.LOST:  # it has not heard of that
                self.post(peer)
        elif record.world_size != self._world_size:
            _log.error("%s", mixed_error(self._agent.members.own_record(), record))
        elif record.info.id == self._agent.info.id:
            members.fence(f"another run of it, {record.info.name}, took its place")
        else:
            members.join(record)

    def _hear(self, verdict: Verdict) -> None:
        """Act on a verdict, unless who gave it was judged before."""
        members = self._agent.members
        is_void = self._place.is_void(verdict)
        if verdict.incarnation == self._agent.incarnation:
            if is_void:
                self._miss_record()
            else:
                members.fence(verdict.reason)
            return
        peer = members.of(verdict.incarnation)
        if peer is None or is_void:
            return
        peer.is_judged = True
        left = verdict.kind == "left"
        if left and peer.is_leaving and peer.connection is not None:
            peer.reason = verdict.reason
            return  # it says the last word over its link
        members.gone(peer, PeerState.LEFT if left else PeerState.LOST, verdict.reason)

    def _vanish(self, peer: Peer) -> None:
        """A record has gone without a verdict: its lease lapsed."""
        if peer.record.incarnation == self._agent.incarnation:
            self._miss_record()
        elif peer.state is PeerState.PRESENT:
            self._vanished.add(peer.record.incarnation)
            self._agent.spawn(self._look_after(peer), f"look after {peer}")

    def _miss_record(self) -> None:
        """Have this worker's own record put back."""
        if self._place.lease is not None:
            self._place.lease.mark_lost()

    async def _look_after(self, peer: Peer) -> None:
        """Find out whether a worker without a record lives, when it is this worker's turn."""
        ids = [p.info.id for p in self._agent.members.present()]
        behind = [n for n in ids if n > peer.info.id] + [n for n in ids if n < peer.info.id]
        turn = min(behind.index(self._agent.info.id), _MAX_TURN)
        await self._agent.clock.sleep(turn * self._budget)
        is_open = peer.state is PeerState.PRESENT and peer.record.incarnation in self._vanished
        if not is_open or peer.connection is not None:  # its link shows whether it lives
            return
        if await self._place.is_alive(peer.record):
            peer.connect()  # so that its end is noticed without its lease
        elif peer.record.incarnation in self._vanished:
            self._agent.members.lose(peer, "its lease lapsed and it does not answer")

    # -- this worker's place

    async def _stay(self) -> None:
        """Put the record back whenever the lease was lost."""
        place = self._place
        while place.lease is not None:
            await place.lease.lost.wait()
            if self._is_ending:
                return
            try:
                await place.claim_again()
            except StoreError as error:
                await place.mend(error)
            except (DuplicateNameError, PeerLostError) as error:
                self._agent.members.fence(str(error))

    async def look_up(self, to: str | int | WorkerInfo) -> Record | None:
        """Return the record that the store has of a worker; see `Place.look_up`."""
        return await self._place.look_up(to)

    # -- verdicts

    def post(self, peer: Peer) -> None:
        """Have the group hold a worker for lost, as this one does; until the store takes it."""
        if self._is_ending:
            return
        self._unposted[peer.record.incarnation] = peer
        if self._posting is None:
            self._posting = self._agent.spawn(self._post_all(), "tell who was lost")

    async def _post_all(self) -> None:
        try:
            while self._unposted and not self._is_ending:
                incarnation, peer = next(iter(self._unposted.items()))
                try:
                    await self._place.judge(peer.record, peer.reason)
                except StoreError:
                    await self._agent.clock.sleep(self._interval)
                else:
                    self._unposted.pop(incarnation, None)
        finally:
            self._posting = None

    # -- the end

    def stop(self) -> None:
        """Act on nothing more: the group ends, or this worker does."""
        self._is_ending = True

    def give_up(self) -> None:
        """Free the place of a worker that was declared lost: it will not be needed again."""
        self.stop()
        self._agent.spawn(self._place.close(), "give up its place")

    async def clear(self) -> None:
        """Empty the group's part of the store, for the next group, before anybody leaves."""
        self.stop()
        await self._place.clear_group()

    async def leave(self, kind: str, reason: str) -> None:
        """Say in the store that this worker goes, and how."""
        self.stop()
        await self._place.say_goodbye(kind, reason)

    async def close(self) -> None:
        """Let go of the store. Idempotent."""
        self.stop()
        if self._watch is not None:
            await self._watch.aclose()
        await self._place.close()


async def _complete(view: GroupView, watch: StoreWatch, record: Record) -> None:
    """Wait until all workers of a static group have come, whatever becomes of them then."""
    async for event in watch:
        view.apply(event.key, event.value)
        mine = view.records.get(worker_key(record.info.id))
        if mine == record and view.is_full():
            check_unique(view.records.values())
            for other in view.others():
                raise mixed_error(record, other)
            return
