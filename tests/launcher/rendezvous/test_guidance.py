"""`launcher.rendezvous.guidance`: who looks for a run where its store was is sent on."""

from __future__ import annotations

import asyncio

import pytest

from launcher.rendezvous import Change
from tests.launcher.rendezvous.meeting import tcp
from tests.launcher.rendezvous.test_handover import enter

pytestmark = pytest.mark.asyncio


async def test_who_comes_back_to_the_first_endpoint_is_sent_on() -> None:
    """It would begin a run of the same name; so would those who meet it there."""
    async with tcp(1, 3) as make:
        quick = {"keep_alive_interval": 0.1, "expect_nodes": 2}
        one, two = make(**quick), make(**quick)
        await enter([one, two])
        await one.leave()
        await one.close()
        await two.round_over()
        alone = await two.next_rendezvous()
        three = make(**{**quick, "expect_nodes": 1})  # it does not wait, and begins
        astray = asyncio.create_task(three.next_rendezvous())
        change = await two.round_over()
        joining = asyncio.create_task(two.next_rendezvous())
        if astray.done() and astray.result().store_url != alone.store_url:
            assert isinstance(await three.round_over(), Change)
            astray = asyncio.create_task(three.next_rendezvous())
        infos = [await joining, await astray]
        four = make(**quick)  # it meets three at the first endpoint
        late = asyncio.create_task(four.next_rendezvous())
        await asyncio.gather(two.round_over(), three.round_over())
        all_of_them = [*await enter([two, three]), await late]

        assert isinstance(change, Change)
        assert change.reason.endswith(" joined")
        assert {(info.world_size, info.store_url) for info in infos} == {(2, alone.store_url)}
        assert {(i.world_size, i.store_url) for i in all_of_them} == {(3, alone.store_url)}
        assert sorted(info.rank for info in all_of_them) == [0, 1, 2]
