"""`launcher.agent.preemption`: what the agent does about the notice, without processes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from asyncrpc.store import MemoryStore
from launcher.agent.preemption import Preemption
from launcher.preemption import SOCKET_VARIABLE
from launcher.process import IGNORED_VARIABLE
from launcher.rendezvous import RendezvousInfo, RendezvousStoreInfo

pytestmark = pytest.mark.asyncio


def guardian() -> Any:
    """Return what stands for the guardian: nothing is left that it would have to remove."""
    return SimpleNamespace(remove_at_end=lambda path: None)


def info(store: MemoryStore | None = None, rank: int = 0, nodes: int = 1) -> RendezvousInfo:
    """Return a round of some nodes that share a store."""

    def open_store() -> Any:
        assert store is not None, "one node needs no store"
        return store

    return RendezvousInfo(
        rank=rank,
        world_size=nodes,
        bootstrap_store_info=RendezvousStoreInfo("127.0.0.1", 1),
        round=0,
        store_url="",
        store=open_store,
    )


async def test_workers_are_told_where_to_ask_and_what_to_ignore() -> None:
    """As long as they are served."""
    preemption = Preemption(60, 30, [signal.SIGUSR1, signal.SIGUSR2])
    with preemption.serve(guardian()):
        path = preemption.variables[SOCKET_VARIABLE]
        is_there = os.path.exists(path)

    ignored = preemption.variables[IGNORED_VARIABLE].split(",")
    assert [signal.Signals(int(number)).name for number in ignored] == ["SIGUSR1", "SIGUSR2"]
    assert is_there
    assert not os.path.exists(path)


@pytest.mark.parametrize(("notice", "grace", "kept"), [(60, 30, 15), (300, 30, 30), (2, 30, 0.5)])
async def test_some_of_the_notice_is_kept_for_the_end(
    notice: float, grace: float, kept: float
) -> None:
    """A quarter at most, and what workers have at any other end."""
    assert Preemption(notice, grace).grace == kept


async def test_a_folder_without_sockets_keeps_nothing_from_running(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers do not hear of it, the user does."""

    def refuse(path: str, loop: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr("launcher.agent.preemption.NoticeServer", refuse)
    preemption = Preemption(60, 30)
    with preemption.serve(guardian()):
        await preemption.give("SIGUSR1", info())

    assert SOCKET_VARIABLE not in preemption.variables
    (record,) = caplog.records
    assert record.getMessage().startswith("workers will not hear when this node has to go: ")


async def test_a_node_alone_waits_for_nobody() -> None:
    """Not even for those that could have got the signal later."""
    preemption = Preemption(60, 30)
    with preemption.serve(guardian()):
        async with asyncio.timeout(0.5):
            await preemption.give("SIGUSR1", info())


async def test_nodes_that_have_to_go_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have not got the signal when all should have are not waited for."""
    monkeypatch.setattr("launcher.agent.preemption._SETTLING", 0.1)
    async with MemoryStore() as store:
        first, second = Preemption(60, 30), Preemption(60, 30)
        await store.set("going/1", b"")
        with first.serve(guardian()), second.serve(guardian()):
            going = asyncio.create_task(first.give("SIGUSR1", info(store, 0, 3)))
            await asyncio.sleep(0.2)
            is_waiting = not going.done()
            await second.give("SIGUSR1", info(store, 1, 3))
            await going

        assert is_waiting
        assert await store.check(
            [f"{what}/{rank}" for what in ("going", "ready") for rank in (0, 1)]
        )


async def test_the_time_of_a_notice_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that never gets ready does not keep the others beyond it."""
    monkeypatch.setattr("launcher.agent.preemption._SETTLING", 0.01)
    async with MemoryStore() as store:
        await store.set("going/1", b"")
        preemption = Preemption(0.4, 30)
        with preemption.serve(guardian()):
            async with asyncio.timeout(5):
                await preemption.give("SIGUSR1", info(store, 0, 2))


async def test_nothing_is_waited_for_before_the_notice_and_after_the_end() -> None:
    """In between, a change of the round is."""
    preemption = Preemption(60, 30)
    await preemption.over()
    preemption.is_given = True
    waiting = asyncio.create_task(preemption.over())
    await asyncio.sleep(0.01)
    is_waiting = not waiting.done()
    preemption.end()
    await waiting

    assert is_waiting
