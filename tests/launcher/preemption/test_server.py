"""`launcher.preemption.server`: who is told, who is waited for, and how long."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from launcher.preemption import NoticeServer

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[NoticeServer]:
    """Return a server."""
    server = NoticeServer(str(tmp_path / "notice"), asyncio.get_running_loop())
    yield server
    server.close()
    server.close()

    assert not os.path.exists(server.path)


class Worker:
    """A worker that wants to know."""

    def __init__(self, server: NoticeServer) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._socket.connect(server.path)

    async def told(self) -> float:
        """Wait for the seconds that are left."""
        return float(await asyncio.get_running_loop().sock_recv(self._socket, 100))

    def say(self, text: bytes) -> None:
        """Say something to the server."""
        self._socket.send(text)

    def end(self) -> None:
        """End as processes do."""
        self._socket.close()


async def joined(server: NoticeServer, count: int = 1) -> list[Worker]:
    """Return workers that the server knows of."""
    workers = [Worker(server) for _ in range(count)]
    while server.count < count:
        await asyncio.sleep(0)
    return workers


async def test_workers_are_told_and_waited_for(server: NoticeServer) -> None:
    """Until each has said that it is ready, or has ended."""
    ready, ended = await joined(server, 2)
    giving = asyncio.create_task(server.give(60))
    told = [round(await worker.told()) for worker in (ready, ended)]
    ready.say(b"done\n")
    await asyncio.sleep(0)
    ended.end()

    assert told == [60, 60]
    assert await giving == 0
    ready.end()


async def test_nobody_is_waited_for_where_nobody_wants_to_know(server: NoticeServer) -> None:
    """The node leaves at once."""
    assert await server.give(60) == 0


async def test_the_time_is_up_at_some_time(server: NoticeServer) -> None:
    """And those that are not ready are counted."""
    ready, late = await joined(server, 2)
    giving = asyncio.create_task(server.give(0.05))
    await ready.told()
    ready.say(b"done\n")

    assert await giving == 1
    ready.end()
    late.end()


async def test_who_comes_late_is_told_what_is_left(server: NoticeServer) -> None:
    """And is waited for as the others are."""
    (first,) = await joined(server)
    giving = asyncio.create_task(server.give(60))
    await first.told()
    (_, second) = first, Worker(server)
    left = await second.told()
    first.end()
    second.end()

    assert 0 < left <= 60
    assert await giving == 0


async def test_what_is_said_before_the_notice_means_nothing(server: NoticeServer) -> None:
    """Only what follows it says that a worker is ready."""
    (worker,) = await joined(server)
    worker.say(b"done\n")
    await asyncio.sleep(0.01)
    giving = asyncio.create_task(server.give(60))
    await worker.told()
    is_waiting = not giving.done()
    worker.say(b"done\n")

    assert is_waiting
    assert await giving == 0
    worker.end()


async def test_giving_can_be_cancelled(server: NoticeServer) -> None:
    """The run may end meanwhile."""
    (worker,) = await joined(server)
    giving = asyncio.create_task(server.give(60))
    await worker.told()
    giving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving
    worker.end()


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """Addresses of sockets are short, temporary folders need not be."""
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    server = NoticeServer(str(folder / "notice"), asyncio.get_running_loop())
    is_there = os.path.exists(server.path)
    server.close()

    assert is_there


async def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is an error of the system, with its file."""
    with pytest.raises(FileNotFoundError):
        NoticeServer(str(tmp_path / "no" / "notice"), asyncio.get_running_loop())
