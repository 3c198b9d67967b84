"""`launcher.preemption.client`: what a worker can do, in processes of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from launcher.preemption import SOCKET_VARIABLE, NoticeServer, on_preempt, preempted
from tests.launcher.conftest import ROOT

HEAD = "import os, sys, threading, time\nfrom launcher.preemption import on_preempt, preempted\n"


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[NoticeServer]:
    """Return the launcher's side."""
    server = NoticeServer(str(tmp_path / "notice"), asyncio.get_running_loop())
    yield server
    server.close()


def environ(path: str) -> dict[str, str]:
    """Return what a worker has in its environment."""
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), SOCKET_VARIABLE: path}


async def worker(server: NoticeServer, text: str) -> Process:
    """Start a worker, and wait until the server knows of it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HEAD + textwrap.dedent(text), stdout=PIPE, env=environ(server.path)
    )
    async with asyncio.timeout(15):
        while not server.count:
            await asyncio.sleep(0.01)
    return process


async def output(process: Process) -> list[str]:
    """Wait until a worker has ended, and return its lines."""
    stdout, _ = await process.communicate()
    return stdout.decode().splitlines()


def test_without_a_launcher_there_is_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script runs by itself, too."""
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    calls: list[float] = []

    assert preempted() is None
    assert on_preempt(calls.append) == calls.append
    assert calls == []


def test_a_hook_must_be_callable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake is told where it is made."""
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"^hook=60: expected a function"):
        on_preempt(60)  # type: ignore[type-var]


@pytest.mark.slow
def test_a_launcher_that_cannot_be_reached_is_told_once(tmp_path: Path) -> None:
    """The worker goes on: most are never pre-empted."""
    code = HEAD + "on_preempt(print); print(preempted())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environ(str(tmp_path / "gone")),
    )

    assert done.stdout == "None\n"
    assert done.stderr.startswith("launcher.preemption: no notice will come: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_import_loads_no_event_loop(tmp_path: Path) -> None:
    """Workers without one stay without one."""
    code = HEAD + "print('asyncio' in sys.modules, 'launcher.api' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environ(str(tmp_path)),
    )

    assert done.stdout == "False False\n"


@pytest.mark.slow
@pytest.mark.asyncio
async def test_hooks_are_called_in_order_and_late_ones_at_once(server: NoticeServer) -> None:
    """Plain and coroutine functions, in threads that have a loop or not."""
    process = await worker(
        server,
        """
        import asyncio
        async def second(left):
            print("second", 50 < left <= 60, flush=True)
        def third(left):
            print("third", flush=True)
            on_preempt(lambda left: done.set())
        done = threading.Event()
        on_preempt(lambda left: print("first", flush=True))
        on_preempt(second)
        on_preempt(third)
        done.wait(20)
        print(round(preempted()))
        """,
    )

    assert await server.give(60) == 0
    assert await output(process) == ["first", "second True", "third", "60"]


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_hook_that_fails_is_named_with_its_rank(server: NoticeServer) -> None:
    """Workers of a node share the console; the hooks after it are called all the same."""
    process = await worker(
        server,
        """
        os.environ["RANK"] = "7"
        sys.stderr = sys.stdout
        def save(left):
            raise OSError("disk full")
        on_preempt(save)
        on_preempt(lambda left: done.set())
        done = threading.Event()
        done.wait(20)
        """,
    )

    assert await server.give(60) == 0
    lines = await output(process)
    assert lines[0] == "launcher.preemption: rank 7: hook save failed:"
    assert (lines[1][:9], lines[-1]) == ("Traceback", "OSError: disk full")


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_forked_process_hears_of_it_by_itself(server: NoticeServer) -> None:
    """Its parent's thread is not in it."""
    process = await worker(
        server,
        """
        assert preempted() is None
        child = os.fork()
        while preempted() is None:
            time.sleep(0.01)
        if child:
            os.waitpid(child, 0)
        print("parent" if child else "child", flush=True)
        """,
    )
    async with asyncio.timeout(15):
        while server.count < 2:
            await asyncio.sleep(0.01)

    assert await server.give(60) == 0
    assert await output(process) == ["child", "parent"]


@pytest.mark.slow
@pytest.mark.asyncio
async def test_helpers_of_a_worker_have_no_hooks(server: NoticeServer) -> None:
    """They import its main module, and would save the same a second time."""
    process = await worker(
        server,
        """
        import multiprocessing
        def save(left):
            print(multiprocessing.current_process().name, flush=True)
            saved.set()
        def help():
            on_preempt(save)
            ready.set()
            time.sleep(60)
        context = multiprocessing.get_context("fork")
        saved, ready = threading.Event(), context.Event()
        helper = context.Process(target=help, name="helper", daemon=True)
        helper.start()
        assert ready.wait(20)
        on_preempt(save)
        saved.wait(20)
        """,
    )

    assert await server.give(60) == 0
    assert await output(process) == ["MainProcess"]


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_coroutine_is_cancelled_when_the_time_is_up(server: NoticeServer) -> None:
    """It may still put things in order, and the worker says that it is ready."""
    process = await worker(
        server,
        """
        import asyncio
        async def save(left):
            try:
                await asyncio.sleep(60)
            finally:
                print("cancelled", flush=True)
                done.set()
        done = threading.Event()
        sys.stderr = open(os.devnull, "w")
        on_preempt(save)
        done.wait(20)
        """,
    )
    await server.give(0.2)

    assert await output(process) == ["cancelled"]
