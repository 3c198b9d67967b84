"""`asyncrpc.store.etcd.lane`: turns come in the order in which they were asked for."""

from __future__ import annotations

import asyncio

import pytest

from asyncrpc.store.etcd.lane import Lane, Turn

pytestmark = pytest.mark.asyncio


async def note(turn: Turn, name: str, order: list[str]) -> None:
    """Note a name at one's turn."""
    async with turn:
        await asyncio.sleep(0)
        order.append(name)


async def test_turns_come_in_the_order_of_joining() -> None:
    """Not in that of waiting."""
    lane, order = Lane(), list[str]()
    turns = {name: lane.join() for name in "abc"}
    await asyncio.gather(*(note(turns[name], name, order) for name in "cab"))

    assert order == ["a", "b", "c"]


async def test_who_follows_comes_before_those_who_wait() -> None:
    """Even if they have waited for longer."""
    lane, order = Lane(), list[str]()
    async with lane.join() as turn:
        waiting = asyncio.create_task(note(lane.join(), "waiting", order))
        await asyncio.sleep(0)
        following = asyncio.create_task(note(turn.follow(), "following", order))
    await asyncio.gather(waiting, following)

    assert order == ["following", "waiting"]


async def test_who_gives_up_is_passed_over() -> None:
    """Waiting, or not even that; leaving twice is harmless."""
    lane, order = Lane(), list[str]()
    first = lane.join()
    doomed = asyncio.create_task(note(lane.join(), "doomed", order))
    idle = lane.join()
    last = asyncio.create_task(note(lane.join(), "last", order))
    await asyncio.sleep(0)
    doomed.cancel()
    idle.leave()
    first.leave()
    first.leave()
    await asyncio.gather(doomed, last, return_exceptions=True)

    assert order == ["last"]


async def test_a_turn_that_was_left_early_is_over() -> None:
    """Its holder may go on without it."""
    lane = Lane()
    async with lane.join() as turn:
        turn.leave()
        async with lane.join():
            pass
    async with lane.join():
        pass
