"""`launcher.rendezvous.membership`: leases that lapse, leaders that go, stores that fall silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from asyncrpc.observe import LoopClock
from asyncrpc.store import MemoryStore
from launcher.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousStateError,
)
from launcher.rendezvous.leader import Terms
from launcher.rendezvous.membership import Membership
from launcher.rendezvous.state import NO_RANK, End, Node, Stage
from tests.launcher.rendezvous.meeting import MemoryPlace

pytestmark = pytest.mark.asyncio

TERMS = Terms(1, 2, 1, 600.0, 0.0)
LEASED = "launcher/nodes/"
Make = Callable[..., Membership]


def node(name: str, number: int = 0) -> Node:
    """Return an announcement; its id is the name of its host."""
    return Node(name, name, 1, name, 1000, NO_RANK, Stage.READY, number)


@asynccontextmanager
async def group(
    ttl: float = 600.0, interval: float = 600.0
) -> AsyncIterator[tuple[MemoryStore, Make]]:
    """Give a store, and a function that makes the memberships of agents."""
    made: list[Membership] = []
    async with MemoryStore() as store:

        def make() -> Membership:
            place = MemoryPlace(store)
            made.append(Membership(place, TERMS, interval=interval, ttl=ttl, clock=LoopClock()))
            return made[-1]

        try:
            yield store, make
        finally:
            for member in made:
                await member.close(5.0)


async def until(member: Membership, condition: Callable[[], bool]) -> None:
    """Wait until something holds of what a member knows."""
    while not condition():
        await member.changes.wait()


async def test_the_first_leads_and_another_takes_over() -> None:
    """When it goes; the record goes on from where it was."""
    async with group() as (store, make):
        one, two = make(), make()
        await one.open(5.0)
        await two.open(5.0)
        await one.announce(node("a"))
        await until(two, lambda: two.record.is_formed)
        assert await store.get("launcher/shared/leader", 5.0) == b"a"
        await two.announce(node("b"))
        await until(two, lambda: two.record.round == 1)
        await one.close(5.0)
        await two.announce(node("b", 1))
        await until(two, lambda: two.record.is_formed and two.record.round > 0)

        assert [seat.id for seat in two.record.seats] == ["b"]
        assert await store.get("launcher/shared/leader", 5.0) == b"b"


async def test_a_lease_that_has_lapsed_is_made_anew() -> None:
    """A process that stood still finds its announcement gone, and says again what it said."""
    async with group(ttl=0.2, interval=0.05) as (store, make):
        member = make()
        await member.open(5.0)
        await member.announce(node("a"))
        before = member.announcement.lease
        assert before is not None
        before.abandon()  # nobody renews it, as if the process stood still
        await asyncio.sleep(0.5)

        assert await store.get(f"{LEASED}a", 5.0)
        assert member.announcement.lease is not before
        assert await store.get("launcher/shared/leader", 5.0) == b"a"


async def test_an_announcement_on_a_lapsed_lease_is_made_on_a_new_one() -> None:
    """Even when nobody has noticed yet."""
    async with group() as (store, make):
        member = make()
        await member.open(5.0)
        await member.announce(node("a"))
        lease = member.announcement.lease
        assert lease is not None
        await store.revoke_lease(lease)
        await member.announce(node("a", 3))

        assert member.announcement.lease is not lease
        assert (await member.nodes())["a"].round == 3


async def test_a_store_that_says_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three signs of life that were missed."""
    async with group(ttl=0.1, interval=0.02) as (store, make):
        member = make()
        await member.open(5.0)
        await member.announce(node("a"))

        async def say_nothing(_: object) -> None:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(store, "check", say_nothing)
        with pytest.raises(RendezvousConnectionError, match="the store was lost"):
            await until(member, lambda: member.record.round == 9)


async def test_a_store_that_is_closed_is_lost() -> None:
    """Whoever waits hears of it, and whoever asks later."""
    async with group() as (store, make):
        member = make()
        await member.open(5.0)
        await member.announce(node("a"))
        waiting = asyncio.create_task(until(member, lambda: member.record.round == 9))
        await asyncio.sleep(0)
        await store.close()

        with pytest.raises(RendezvousConnectionError, match="the store was lost"):
            await waiting
        with pytest.raises(RendezvousConnectionError, match="the store was lost"):
            await member.announce(node("a"))
        assert not member.is_open


async def test_what_is_no_record_ends_the_membership() -> None:
    """Another version of the launcher wrote it."""
    async with group() as (store, make):
        member = make()
        await member.open(5.0)
        await store.set("launcher/shared/record", b"bogus")

        with pytest.raises(RendezvousStateError, match="holds no record"):
            await until(member, lambda: member.record.round == 9)


async def test_who_ends_a_run_twice_ends_it_once() -> None:
    """The first reason stands, whoever gives the second one."""
    async with group() as (_, make):
        one, two = make(), make()
        await one.open(5.0)
        await two.open(5.0)
        await asyncio.gather(one.end("first"), two.end("second"), one.end("third"))

        assert one.record == two.record
        assert (two.record.end, two.record.why) == (End.CLOSED, "first")


async def test_who_has_left_is_out() -> None:
    """Its announcement is gone, and it knows nothing any more."""
    async with group() as (store, make):
        one, two = make(), make()
        await one.open(5.0)
        await two.open(5.0)
        await one.announce(node("a"))
        await one.close(5.0)

        assert await two.nodes() == {}
        assert not await store.check([f"{LEASED}a"])
        with pytest.raises(RendezvousClosedError, match="this node has left the run"):
            await one.nodes()
