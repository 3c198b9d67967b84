"""Members that are processes: killed, stopped and continued, blocked, gone and back again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.store import TCPStore
from tests.agent import targets
from tests.agent.groups import until
from tests.agent.processes import SECRET, dynamic_group, mixed_group, started

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

FAST: dict[str, Any] = {"heartbeat_interval": 0.2, "heartbeat_misses": 3}


async def fate(agent: Any, name: str, *, skip: int = 1) -> rpc.MemberEvent:
    """Wait for the event of a worker that comes after so many."""
    async with agent.monitor(name) as monitor:
        for _ in range(skip):
            await anext(monitor)
        event: rpc.MemberEvent = await anext(monitor)
        return event


async def test_join_call_leave(tmp_path: Path) -> None:
    """Processes join, call each other and leave; the others go on."""
    async with dynamic_group(tmp_path, 2) as (agent, (one, two), _):
        await one.tell("call worker2")
        pid = await one.line()
        await until(lambda: len(agent.get_worker_infos()) == 3)
        leaving = asyncio.create_task(fate(agent, "worker1"))
        await one.tell("graceful")
        lines = [await one.line() for _ in range(2)]
        event = await leaving
        await two.tell("call worker1")
        error = await two.line()
        await two.tell("call worker0")

        assert str(two.process.pid) == pid
        assert ["leaving", "left"] == lines
        assert ("left", "it shut down") == (event.kind, event.reason)
        assert "UnknownWorkerError" in error
        assert "worker1 left the group" in error
        assert str(os.getpid()) == await two.line()
        assert 0 == await one.process.wait()


@pytest.mark.parametrize("is_linked", [True, False])
async def test_killed_and_back(tmp_path: Path, is_linked: bool) -> None:
    """Kill -9 is a loss to all, linked or not; a new run of that name is reached by new calls."""
    async with dynamic_group(tmp_path, 2, **FAST) as (agent, (victim, other), environ):
        await until(lambda: len(agent.get_worker_infos()) == 3)
        await other.tell("monitor worker1")
        assert await other.line() == "worker1 joined"
        calls = []
        if is_linked:
            await agent.rpc_async("worker1", os.getpid)
            calls.append(agent.rpc_async("worker1", targets.sleep, args=(1000,)))
            await agent.rpc_async("worker1", os.getpid)
        lost = asyncio.create_task(fate(agent, "worker1"))
        await asyncio.sleep(0)
        victim.signal(signal.SIGKILL)
        killed = time.monotonic()
        event, told = await lost, await other.line()
        span = time.monotonic() - killed
        errors = await asyncio.gather(*calls, return_exceptions=True)
        async with started({**environ, "ASYNCRPC_NAME": "worker1"}) as (again,):
            assert await again.line() == "ready"
            assert await other.line() == "worker1 joined"
            pid = await agent.rpc_async("worker1", os.getpid)
            await other.tell("call worker1")
            pids = [pid, int(await other.line())]

            assert [again.process.pid] * 2 == pids

    assert ["lost", "worker1 lost"] == [event.kind, told[:12]]
    assert [rpc.PeerLostError] * len(calls) == [type(error) for error in errors]
    assert span < 5


@pytest.mark.parametrize("kind", ["static", "linked", "unlinked"])
async def test_stopped_and_continued(tmp_path: Path, kind: str) -> None:
    """A worker that was stopped is lost; when it goes on it is told, and says so."""
    if kind == "static":
        async with mixed_group(tmp_path, 1, **FAST) as (agent, (victim,)):
            await _stop_and_continue(agent, victim, is_linked=True)
    else:
        async with dynamic_group(tmp_path, 1, **FAST) as (agent, (victim,), _):
            await until(lambda: len(agent.get_worker_infos()) == 2)
            await _stop_and_continue(agent, victim, is_linked=kind == "linked")


async def _stop_and_continue(agent: Any, victim: Any, *, is_linked: bool) -> None:
    await victim.tell("monitor worker1")
    assert await victim.line() == "worker1 joined"
    if is_linked:
        await agent.rpc_async("worker1", os.getpid)
    lost = asyncio.create_task(fate(agent, "worker1"))
    await asyncio.sleep(0)
    victim.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    event = await lost
    span = time.monotonic() - stopped
    victim.signal(signal.SIGCONT)
    lines = [await victim.line() for _ in range(2)]
    await victim.tell("call worker0")
    error = await victim.line()
    with pytest.raises(rpc.PeerLostError):
        agent.rpc_async("worker1", os.getpid)
    await victim.tell("graceful")
    ends = [await victim.line() for _ in range(2)]

    assert "lost" == event.kind
    assert span < (3 if is_linked else 6)
    assert [f"worker1 lost {event.reason}", "monitor ended"] == lines
    assert error.startswith("PeerLostError: worker1 itself was declared lost by its group: ")
    assert event.reason in error
    assert ["leaving", "left"] == ends
    assert ["worker0"] == [info.name for info in agent.get_worker_infos()]


async def test_blocked_loop_keeps_its_lease(tmp_path: Path) -> None:
    """A worker whose loop is blocked for longer than its lease lives keeps its place."""
    async with dynamic_group(tmp_path, 1, **FAST) as (agent, (worker,), environ):
        host, port = environ["LAUNCHER_STORE"].removeprefix("tcp://").split(":")
        async with await TCPStore.connect(host, int(port), secret=SECRET) as store:
            changes: list[str] = []

            async def follow() -> None:
                nonlocal changes
                async for event in store.watch("asyncrpc/"):
                    changes += [f"{event.kind} {event.key}"]

            following = asyncio.create_task(follow())
            await worker.tell("block 5")  # the lease lives for 2 s without renewal
            lines = [await worker.line() for _ in range(2)]
            await asyncio.sleep(2.5)  # and on, once the loop renews it again
            following.cancel()
        result = await agent.rpc_async("worker1", targets.echo, args=(1,))

    assert ["blocking", "back"] == lines
    assert [] == changes
    assert 1 == result


async def test_name_of_a_living_process(tmp_path: Path) -> None:
    """A process cannot take the name of another that lives, stopped loop or not."""
    async with dynamic_group(tmp_path, 1, **FAST) as (_, (worker,), environ):
        await worker.tell("block 3")
        assert await worker.line() == "blocking"
        async with started({**environ, "ASYNCRPC_NAME": "worker1"}) as (thief,):
            line = await thief.line()
            await thief.process.wait()

        assert line.startswith("DuplicateNameError: RPC worker name worker1 is not unique")
        assert await worker.line() == "back"


@pytest.mark.timeout(90)
async def test_server_of_the_store_is_killed(tmp_path: Path, free_port: int) -> None:
    """When the process that serves the store dies, another one serves it, and the group goes on."""
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    settings = {"init_method": f"tcp://127.0.0.1:{free_port}", **FAST}
    environ = {"ASYNCRPC_SECRET_FILE": str(secret), "WORKER_OPTIONS": repr(settings)}
    async with started(environ) as (first,):
        assert await first.line() == "ready"
        async with started(environ, environ) as (two, three):
            assert [await two.line(), await three.line()] == ["ready"] * 2
            await two.tell("monitor worker0")
            assert await two.line() == "worker0 joined"
            first.signal(signal.SIGKILL)
            line = await two.line()
            async with started({**environ, "ASYNCRPC_NAME": "late"}) as (late,):
                assert await late.line() == "ready"
                await three.tell("call late")
                pid = await three.line()
                await late.tell("call worker1")
                back = await late.line()

                assert line.startswith("worker0 lost")
                assert str(late.process.pid) == pid
                assert int(back) in (two.process.pid, three.process.pid)
