"""What every rendezvous of several nodes must do, over every backend there is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest

from launcher.rendezvous import (
    Change,
    Ending,
    Outcome,
    RendezvousClosedError,
    RendezvousGracefulExitError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousTimeoutError,
)
from launcher.rendezvous.dynamic import DynamicRendezvous
from tests.launcher.rendezvous.meeting import KINDS, Make

pytestmark = pytest.mark.asyncio

SUCCESS = Outcome()


class Meet(Protocol):
    """Opens a place for the handlers of a run."""

    def __call__(self, min_nodes: int, max_nodes: int) -> AbstractAsyncContextManager[Make]: ...


@pytest.fixture(params=sorted(KINDS))
def meet(request: pytest.FixtureRequest) -> Meet:
    """Return what opens a place of each kind."""
    found: Meet = KINDS[request.param]
    return found


def failure(max_restarts: int = 0) -> Outcome:
    """Return how a round ends in which workers fail."""
    return Outcome("rank 1 exited with status 7", 7, max_restarts)


async def enter(handlers: Iterable[RendezvousHandler]) -> list[RendezvousInfo]:
    """Let handlers enter the next round together."""
    return await asyncio.gather(*(handler.next_rendezvous() for handler in handlers))


async def waiting(handler: RendezvousHandler) -> asyncio.Task[RendezvousInfo]:
    """Let a handler wait for a round until the others can see it; return the waiting."""
    assert isinstance(handler, DynamicRendezvous)
    members = handler._members
    task = asyncio.create_task(handler.next_rendezvous())
    async with asyncio.timeout(10):
        while (node := members.announcement.node) is None or node.id not in await members.nodes():
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # for those who lead to act on it
    return task


def hurry(handler: RendezvousHandler, seconds: float) -> None:
    """Let a handler that has reached its store wait for the next round no longer than that."""
    assert isinstance(handler, DynamicRendezvous)
    handler._settings = handler._settings._replace(join_timeout=seconds)


async def test_nodes_agree_on_a_round(meet: Meet) -> None:
    """Ranks are dense and unique, and all know of one place and one store."""
    async with meet(3, 3) as make:
        infos = await enter([make(), make(), make()])
        await infos[0].store.set("key", b"value")

        assert sorted(info.rank for info in infos) == [0, 1, 2]
        assert {(info.world_size, info.round, info.restarts) for info in infos} == {(3, 0, 0)}
        assert len({info.bootstrap_store_info for info in infos}) == 1
        assert len({info.store_url for info in infos}) == 1
        assert await infos[2].store.get("key", 5.0) == b"value"


async def test_ranks_that_were_asked_for_are_given(meet: Meet) -> None:
    """Whoever comes first."""
    async with meet(3, 3) as make:
        infos = await enter([make(rank=2), make(rank=0), make(rank=1)])

        assert [info.rank for info in infos] == [2, 0, 1]


async def test_a_rank_that_two_nodes_ask_for_is_given_to_one(
    meet: Meet, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one is told."""
    async with meet(2, 2) as make:
        infos = await enter([make(rank=1), make(rank=1)])

    assert sorted(info.rank for info in infos) == [0, 1]
    assert "node_rank=1: another node has it, this one gets rank 0" in caplog.text


async def test_the_last_call_ends(meet: Meet) -> None:
    """Then those who are there begin."""
    async with meet(1, 2) as make:
        info = await make(last_call_timeout=0.05).next_rendezvous()

        assert (info.rank, info.world_size) == (0, 1)


async def test_the_last_call_ends_when_the_expected_have_come(meet: Meet) -> None:
    """However long it would have lasted."""
    async with meet(1, 3) as make:
        infos = await enter([make(expect_nodes=2), make(expect_nodes=2)])

        assert [info.world_size for info in infos] == [2, 2]


async def test_a_newcomer_starts_a_round_for_all(meet: Meet) -> None:
    """Who was there keeps its rank; no restart is counted; nothing of the old round is seen."""
    async with meet(1, 2) as make:
        one, two = make(expect_nodes=1), make()
        first = await one.next_rendezvous()
        await first.store.set("key", b"1")
        joining = await waiting(two)
        change = await one.round_over()
        infos = await asyncio.gather(one.next_rendezvous(), joining)

        assert isinstance(change, Change)
        assert change.reason.endswith("joined")
        assert [(i.rank, i.world_size, i.round, i.restarts) for i in infos] == [
            (0, 2, 1, 0),
            (1, 2, 1, 0),
        ]
        assert infos[0].bootstrap_store_info != first.bootstrap_store_info
        assert not await infos[0].store.check(["key"])


async def test_who_leaves_is_not_waited_for(meet: Meet) -> None:
    """The others go on at once, and no restart is counted."""
    async with meet(1, 2) as make:
        one, two = make(), make()
        await one.is_closed()  # it is the host, if there is one
        await enter([one, two])
        await two.leave()
        change = await one.round_over()
        info = await one.next_rendezvous()

        assert isinstance(change, Change)
        assert change.reason.endswith("left")
        assert (info.rank, info.world_size, info.round, info.restarts) == (0, 1, 1, 0)


async def test_a_failure_restarts_all_nodes_once(meet: Meet) -> None:
    """Two failures in one round are one restart, the same number on every node."""
    async with meet(2, 2) as make:
        both = make(), make()
        await enter(both)
        await asyncio.gather(*(handler.report(failure(1)) for handler in both))
        changes = await asyncio.gather(*(handler.round_over() for handler in both))
        infos = await enter(both)

        assert all(isinstance(change, Change) for change in changes)
        assert "exited with status 7" in str(changes[0])
        assert [(info.round, info.restarts) for info in infos] == [(1, 1), (1, 1)]


async def test_a_failure_without_restarts_left_ends_the_run(meet: Meet) -> None:
    """Once all nodes have stopped, it is known that it was nobody's death that caused it."""
    async with meet(2, 2) as make:
        one, two = make(), make()
        await enter([one, two])
        await one.report(failure())
        changes = await asyncio.gather(one.round_over(), two.round_over())
        errors = await asyncio.gather(
            one.next_rendezvous(), two.next_rendezvous(), return_exceptions=True
        )

        assert all(isinstance(change, Change) for change in changes)
        for error in errors:
            assert isinstance(error, RendezvousClosedError)
            assert str(error).startswith("run run is finished: rank 1 exited with status 7 on ")


async def test_a_failure_because_a_node_left_costs_nothing(meet: Meet) -> None:
    """Workers fail when their peers vanish, and may be the first to be heard of."""
    async with meet(1, 2) as make:
        one, two = make(), make()
        await one.is_closed()  # it is the host, if there is one
        await enter([one, two])
        await one.report(failure())
        assert isinstance(await one.round_over(), Change)
        await two.close()
        info = await one.next_rendezvous()

        assert (info.world_size, info.restarts) == (1, 0)


async def test_the_run_succeeds_when_all_nodes_are_done(meet: Meet) -> None:
    """Who is done waits, and can name for whom."""
    async with meet(2, 2) as make:
        one, two = make(), make()
        await enter([one, two])
        await one.report(SUCCESS)
        missing = await one.missing()
        await two.report(SUCCESS)

        assert len(missing) == 1
        assert "agent" in missing[0]
        assert await one.round_over() == await two.round_over() == Ending(is_success=True)


async def test_late_nodes_hear_how_the_run_ended(meet: Meet) -> None:
    """A success needs them no more, a failure is told."""
    async with meet(1, 2) as make:
        one, two = make(expect_nodes=1), make()
        await one.next_rendezvous()
        await one.report(SUCCESS)
        await one.round_over()
        with pytest.raises(RendezvousGracefulExitError, match=r"run run is finished$"):
            await two.next_rendezvous()

        assert await two.is_closed()


async def test_a_spare_takes_over(meet: Meet) -> None:
    """It waits for as long as it takes, and gets the rank that has become free."""
    async with meet(2, 2) as make:
        one, two, spare = make(), make(), make()
        await one.is_closed()  # it is the host, if there is one
        infos = await enter([one, two])
        standing_by = await waiting(spare)
        hurry(spare, 0.1)
        await asyncio.sleep(0.3)
        assert not standing_by.done()
        hurry(spare, 600)
        await two.leave()
        await one.round_over()
        again, taken = await asyncio.gather(one.next_rendezvous(), standing_by)

        assert (again.rank, taken.rank) == (infos[0].rank, infos[1].rank)


async def test_a_spare_goes_when_the_run_has_succeeded(meet: Meet) -> None:
    """It was not needed."""
    async with meet(2, 2) as make:
        both, spare = (make(), make()), make()
        await enter(both)
        standing_by = await waiting(spare)
        await asyncio.gather(*(handler.report(SUCCESS) for handler in both))

        with pytest.raises(RendezvousGracefulExitError, match="run run is finished"):
            await standing_by


async def test_nodes_that_wait_are_counted(meet: Meet) -> None:
    """Those for whom there is room, and those of the round that want another one."""
    async with meet(1, 3) as make:
        one, two = make(expect_nodes=1, join_debounce=600), make()
        assert await one.num_nodes_waiting() == 0
        await one.next_rendezvous()
        assert await one.num_nodes_waiting() == 0
        joining = await waiting(two)

        assert await one.num_nodes_waiting() == 1
        joining.cancel()
        await asyncio.wait({joining})
        assert await one.num_nodes_waiting() == 0


async def test_a_closed_run_is_closed_for_all(meet: Meet) -> None:
    """For those in a round and for those who come."""
    async with meet(1, 2) as make:
        one, two = make(expect_nodes=1), make()
        await one.next_rendezvous()
        assert not await two.is_closed()
        await two.set_closed()
        end = await one.round_over()

        assert await one.is_closed()
        assert isinstance(end, Ending)
        assert not end.is_success
        assert "closed the run" in end.reason
        with pytest.raises(RendezvousClosedError, match=r"run run is closed: .* closed the run"):
            await two.next_rendezvous()


async def test_who_has_a_seat_ends_the_run_by_shutting_down(meet: Meet) -> None:
    """Who has none only goes. Shutting down twice is harmless."""
    async with meet(1, 2) as make:
        one, two, three = make(), make(), make()
        await one.is_closed()  # it is the host, if there is one
        await enter([one, two])
        await three.is_closed()
        assert await three.shutdown()
        assert not await one.is_closed()
        assert await two.shutdown()
        end = await one.round_over()

        assert isinstance(end, Ending)
        assert "ended the run" in end.reason
        assert await two.shutdown()


async def test_who_waits_in_vain_hears_who_came(meet: Meet) -> None:
    """And which ranks did not, if ranks were given."""
    async with meet(3, 3) as make:
        one, two = make(rank=0), make(rank=2)
        await two.is_closed()
        hurry(two, 0.3)
        other = await waiting(one)
        with pytest.raises(RendezvousTimeoutError) as caught:
            await two.next_rendezvous()
        other.cancel()
        await asyncio.wait({other})

    text = str(caught.value)
    assert "no round within join_timeout=0.3 s" in text
    assert "2 of at least 3 nodes came" in text
    assert text.count("(agent ") == 2
    assert "missing node ranks: 1" in text


async def test_who_waits_for_a_replacement_in_vain_hears_who_was_lost(meet: Meet) -> None:
    """The node that is missed is named."""
    async with meet(2, 2) as make:
        one, two = make(), make()
        await one.is_closed()  # it is the host, if there is one
        await enter([one, two])
        hurry(one, 0.3)
        await two.close()
        await one.round_over()

        with pytest.raises(RendezvousTimeoutError, match=r"1 of at least 2 .*\(agent \d+\) left"):
            await one.next_rendezvous()


async def test_each_who_waits_in_vain_hears_it(meet: Meet) -> None:
    """The first to give up does not end the run for the others, who miss the same node."""
    async with meet(3, 3) as make:
        one, two, three = make(), make(), make()
        await two.is_closed()  # it is the host, if there is one
        await enter([one, two, three])
        hurry(two, 0.3)
        hurry(three, 0.6)
        await one.close()
        await asyncio.gather(two.round_over(), three.round_over())
        waiting_on = asyncio.create_task(three.next_rendezvous())
        with pytest.raises(RendezvousTimeoutError, match=r"\(agent \d+\) left"):
            await two.next_rendezvous()
        assert not await three.is_closed()

        with pytest.raises(RendezvousTimeoutError, match=r"\(agent \d+\) left"):
            await waiting_on


async def test_a_handler_is_opened_once(meet: Meet) -> None:
    """Whatever is asked of it at the same time."""
    async with meet(1, 2) as make:
        one = make(expect_nodes=1)
        found = await asyncio.gather(
            one.is_closed(), one.next_rendezvous(), one.num_nodes_waiting(), one.is_closed()
        )

        assert (found[0], found[2], found[3]) == (False, 0, False)


async def test_a_node_that_stops_waiting_is_not_waited_for(meet: Meet) -> None:
    """Being cancelled it takes its announcement back."""
    async with meet(2, 2) as make:
        one, two, three = make(), make(), make()
        first = await waiting(one)
        first.cancel()
        await asyncio.wait({first})
        infos = await enter([two, three])

        assert sorted(info.rank for info in infos) == [0, 1]


async def test_a_handler_that_was_closed_is_of_no_more_use(meet: Meet) -> None:
    """It says so."""
    async with meet(1, 2) as make:
        one = make(expect_nodes=1)
        await one.next_rendezvous()
        await one.close()

        with pytest.raises(RendezvousClosedError, match="this node has left the run"):
            await one.next_rendezvous()
