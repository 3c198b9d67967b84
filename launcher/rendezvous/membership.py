"""`Membership`: one agent's standing among the agents of a run, in the store they share.

Announces the node under a lease, follows the record, and leads when nobody else does. Knows nothing
of what the node wants. Used by `dynamic`.

Theory of operation
-------------------
Three tasks run while a membership is open. One follows the record and who leads. One waits until
nobody leads, tries to, and leads if it won: it watches all announcements and writes what `Leader`
makes of them. One makes sure that the store answers and that the lease lives. Both keys of a node,
its announcement and perhaps the leadership, hang on its one lease, so that both end with it. If the
store is lost, everything fails, now and later. If it moves, its last record says where to: the
tasks end, what this node announced is said again there, and they begin anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from asyncrpc.observe import Clock, time_limit
from asyncrpc.store import (
    PrefixStore,
    Store,
    StoreConnectionError,
    StoreError,
)
from launcher.errors import RendezvousClosedError, RendezvousConnectionError, RendezvousError
from launcher.rendezvous.announcement import Announcement
from launcher.rendezvous.changes import Changes, keeping_up
from launcher.rendezvous.guidance import guide
from launcher.rendezvous.keys import HEIR, HOST, LEADER, NODES, OFFERS, PREFIX, RECORD, SHARED
from launcher.rendezvous.leader import Leader, Terms, move
from launcher.rendezvous.leading import lead
from launcher.rendezvous.place import HostedPlace, LastingPlace, Place, SilentStoreError
from launcher.rendezvous.state import End, Node, Record, decode_node, decode_record, encode

__all__ = ("Membership",)

_logger = logging.getLogger("launcher.rendezvous")


class Membership:
    """Takes part in the common record of a run.

    Args:
        place: where the agents meet.
        terms: of the run, for the case that this node leads.
        interval: seconds between signs of life, of this node and of the store.
        ttl: seconds of silence after which this node is lost, or the store for this node.
        clock: tells the time.
    """

    def __init__(
        self, place: Place, terms: Terms, *, interval: float, ttl: float, clock: Clock
    ) -> None:
        self.changes = Changes(clock)
        """Of the record; of the failure too."""
        self.announcement = Announcement(ttl, clock)
        """Of this node."""
        self._place = place
        self._terms = terms
        self._interval = interval
        self._ttl = ttl
        self._clock = clock
        self._record = Record()  # as far as it is known here
        self._stored = b""  # its form in the store, which compare-and-set expects
        self._leader = ""  # id of the node that leads; empty: nobody, or we do not know yet
        self._failure: RendezvousError | None = None  # why there is no way on
        self._host = ""  # label of the node that the store goes with; empty: of none
        self._store: PrefixStore | None = None  # None until it is open
        self._opening = asyncio.Lock()
        self._moving = asyncio.Lock()  # around whatever must not happen while the store moves
        self._is_heir = False  # whether this node was asked to take over the store
        self._stays = False  # while the others go where the store moves
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_open(self) -> bool:
        """Whether the store was reached, and neither lost nor left since."""
        return self._store is not None and self._failure is None

    @property
    def is_silent(self) -> bool:
        """Whether the store was lost because it did not answer."""
        return isinstance(self._failure, SilentStoreError)

    @property
    def has_announced(self) -> bool:
        """Whether the others may know of this node."""
        return self.announcement.node is not None and self.is_open

    @property
    def record(self) -> Record:
        """The record, as far as it is known here.

        Raises:
            RendezvousError: the store was lost or left.
        """
        if self._failure is not None:
            raise type(self._failure)(str(self._failure)) from self._failure.__cause__
        return self._record

    @property
    def store(self) -> PrefixStore:
        """What the agents share.

        Raises:
            RendezvousError: it was lost or left.
        """
        _ = self.record
        assert self._store is not None
        return self._store

    @property
    def leader(self) -> str:
        """Id of the node that leads; empty: nobody, or it is not known yet."""
        return self._leader

    def round_store(self, number: int) -> Store:
        """Return the store of one round, which nothing of another round is in."""
        assert self._store is not None
        return PrefixStore(f"rounds/{number}", self._store)

    async def open(self, timeout: float) -> None:
        """Reach the store, once, and read the record.

        Args:
            timeout: seconds to try.

        Raises:
            RendezvousError: it cannot be reached, or was lost or left.
        """
        async with self._opening:
            if self._store is None and self._failure is None:
                self._store = PrefixStore(PREFIX, await self._place.open(timeout))
                await self._look()
                if self._record.moved:
                    await self._move()
                self._spawn(self._follow)
        _ = self.record

    async def announce(self, node: Node) -> None:
        """Let the others know what is new of this node; from now on it may lead.

        Raises:
            RendezvousError: the store was lost or left.
        """
        async with self._moving:
            is_first = self.announcement.node is None
            with self._translated():
                await self.announcement.make(self.store, node)
                if is_first:
                    await self._take_part(node)

    async def _take_part(self, node: Node) -> None:
        if self._place.is_host:
            await self.store.set(HOST, node.label)
        self._spawn(partial(self._lead_when_needed, node.id))
        self._spawn(self._keep_alive)

    async def nodes(self) -> dict[str, Node]:
        """Return every announcement there is, by the node's id.

        Raises:
            RendezvousError: the store was lost or left, or holds something else.
        """
        async with self._moving:
            with self._translated():
                values, _version = await self.store.snapshot(NODES)
        return {key.removeprefix(NODES): decode_node(value) for key, value in values.items()}

    async def end(self, why: str) -> None:
        """End the run for everybody, if it is not over yet.

        Args:
            why: for people.

        Raises:
            RendezvousError: the store was lost or left.
        """
        async with self._moving:
            with self._translated():
                while self.record.end is End.NOT_YET:
                    await self.write(self._record._replace(end=End.CLOSED, why=why))

    async def move(self, endpoint: str, reason: str) -> Record:
        """Send the others on to another store; this node stays.

        Args:
            endpoint: of that store.
            reason: why, for people.

        Returns:
            The last record of this store.

        Raises:
            RendezvousError: the store was lost or left.
        """
        self._stays = True
        with self._translated():
            while not self.record.moved:
                await self.write(move(self._record, endpoint, reason, (reason,)))
        return self.record

    async def close(self, timeout: float) -> None:
        """Withdraw the announcement and let go of the store. Idempotent.

        Args:
            timeout: seconds for what needs the store.
        """
        self._fail(RendezvousClosedError("this node has left the run"))
        await _end(self._tasks)
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(timeout):
                await self.announcement.withdraw()
        if self._store is not None and self._record.end is not End.NOT_YET:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._forget(self._store)
        await self._place.close()

    async def _forget(self, store: Store) -> None:
        """Let nothing but the end of the run be left of it, once the last node goes."""
        place = self._place
        if isinstance(place, LastingPlace) and not await store.list_keys(NODES):
            await place.forget(f"{PREFIX}/{RECORD}")

    # The record

    async def _look(self) -> int:
        """Read what all share, and return the version of that moment."""
        assert self._store is not None
        with self._translated():
            values, version = await self._store.snapshot(SHARED)
        self._take(RECORD, values.get(RECORD, b""))
        self._take(LEADER, values.get(LEADER, b""))
        self._take(HOST, values.get(HOST, b""))
        self._take(HEIR, values.get(HEIR, b""))
        return version

    def _take(self, key: str, value: bytes) -> None:
        if key == LEADER:
            self._leader = value.decode("ascii", "replace")
        elif key == HOST:
            self._host = value.decode("utf-8", "replace")
        elif key == HEIR:
            self._inherit(value.decode("ascii", "replace"))
        elif key == RECORD and value:
            record = decode_record(value)
            if record.revision <= self._record.revision:
                return  # our own write told us earlier than the watch did
            self._record, self._stored = record, value
        self.changes.notify()

    async def write(self, record: Record) -> None:
        """Write the record if the one known here is still there; know the one that is there."""
        assert self._store is not None
        data = encode(record._replace(revision=self._record.revision + 1))
        self._take(RECORD, await self._store.compare_set(RECORD, self._stored, data))

    async def _follow(self) -> None:
        """Know the record and who leads, as they change; go along when the store moves."""
        while True:
            version = await self._look()
            if self._has_to_move():
                await self._move()
                continue
            async with self.store.watch(SHARED, since=version) as watch:
                with keeping_up():
                    async for event in watch:
                        self._take(event.key, event.value)
                        if self._has_to_move():
                            break

    # Moving

    def _has_to_move(self) -> bool:
        return bool(self._record.moved) and not self._stays

    def _inherit(self, node_id: str) -> None:
        """Offer a store to the node that leaves with its own, if it asks this one."""
        own = self.announcement.node
        is_asked = own is not None and node_id == own.id
        if is_asked and not self._is_heir and isinstance(self._place, HostedPlace):
            self._is_heir = True
            self._spawn(partial(self._offer, node_id, self._place))

    async def _offer(self, node_id: str, place: HostedPlace) -> None:
        try:
            await self.store.set(OFFERS + node_id, await place.offer())
        except RendezvousConnectionError as error:
            _logger.warning("the run's store cannot be taken over here: %s", error)

    async def _move(self) -> None:
        """Go where the run's store has gone, and say there what was said here."""
        place = self._place
        assert isinstance(place, HostedPlace)
        async with self._moving:
            await _end({task for task in self._tasks if task is not asyncio.current_task()})
            store = PrefixStore(PREFIX, await place.follow(self._record.moved, self._ttl))
            with self._translated():
                await store.wait([RECORD], self._ttl)  # the last that is brought there
                values, _version = await store.snapshot(RECORD)
                self._store, self._leader, self._is_heir = store, "", False
                self._stored = values[RECORD]
                self._record = decode_record(self._stored)
                if (node := self.announcement.node) is not None:
                    self.announcement.lease = None  # it was in the other store
                    await self.announcement.make(store, node)
                    await self._take_part(node)
        self.changes.notify()
        await place.settle()
        if place.is_host:
            _logger.warning(
                "this node now hosts the run's store: --rdzv-endpoint=%s for new nodes",
                place.endpoint,
            )
            self._spawn(partial(self._guide, place))

    async def _guide(self, place: HostedPlace) -> None:
        """Send on those who look for the run where its store was at first."""
        while True:
            await guide(place, self._interval)
            await self._clock.sleep(self._interval)

    # Leading

    async def _lead_when_needed(self, node_id: str) -> None:
        assert self._store is not None
        while True:
            while self._leader:
                await self.changes.wait()
            lease = await self.announcement.hold(self._store)
            try:
                found = await self._store.compare_set(LEADER, "", node_id, lease=lease)
            except StoreConnectionError:
                raise
            except StoreError:  # it has lapsed, and we are the last to know
                lease.mark_lost()
                continue
            self._take(LEADER, found)
            while self._leader == node_id:
                await lead(self, self.store, node_id, Leader(self._terms), self._clock)

    # Staying alive

    async def _keep_alive(self) -> None:
        """Notice a lease that has lapsed, and a store that says nothing any more."""
        assert self._store is not None
        while True:
            await self._clock.sleep(self._interval)
            # Who has slept itself asks once more.
            patience = max(self.announcement.silent_at - self._clock.time(), self._interval / 2)
            try:
                async with time_limit(self._clock, patience):
                    await self.announcement.hold(self._store)
                    await self._store.check([])
            except TimeoutError as error:
                if self._place.is_host:
                    continue  # this process stood still, and the store with it
                raise self._place.lost(error, self._host) from error

    # Failing

    def _spawn(self, activity: Callable[[], Awaitable[None]]) -> None:
        self._tasks.add(asyncio.create_task(self._guarded(activity)))

    async def _guarded(self, activity: Callable[[], Awaitable[None]]) -> None:
        try:
            with self._translated():
                await activity()
        except RendezvousError as error:
            self._fail(error)

    def _fail(self, error: RendezvousError) -> None:
        if self._failure is None:
            self._failure = error
            self.changes.notify()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Tell errors of the store in the user's words; the store is lost then for good."""
        try:
            yield
        except StoreError as error:
            lost = self._place.lost(error, self._host)
            self._fail(lost)
            raise lost from error


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
