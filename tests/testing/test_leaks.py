"""`leak_check`: whatever is left behind is named, and nothing else is."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import subprocess
import sys
import threading
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from asyncrpc.testing import LeakError, leak_check, leaks

SOON = 0.02


def test_nothing_left() -> None:
    """What is closed again is no leak; what was open before may be closed."""
    before = os.dup(0)
    with leak_check():
        os.close(os.dup(0))
        os.close(before)
        subprocess.run([sys.executable, "-c", ""], check=True)


def test_descriptor() -> None:
    """An open descriptor is named with its target."""
    with pytest.raises(LeakError, match=r"left behind:\nfile descriptor: ") as caught:
        with leak_check(settle=SOON):
            left = os.open("/dev/null", os.O_RDONLY)
    os.close(left)

    assert (f"file descriptor: {left} -> /dev/null",) == caught.value.leaks


def test_thread() -> None:
    """A thread that runs on is named."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(5,), name="lingering")
    with pytest.raises(LeakError, match="thread: lingering"):
        with leak_check(settle=SOON):
            thread.start()
    done.set()
    thread.join()


def test_child() -> None:
    """A child that runs is named by its command line."""
    command = [sys.executable, "-c", "input()"]
    with pytest.raises(LeakError, match=r"child process: \d+ .* -c input\(\)"):
        with leak_check(settle=SOON):
            child = subprocess.Popen(command, stdin=subprocess.PIPE)
    child.communicate(b"\n", timeout=5)


def test_zombie() -> None:
    """A child that nobody waited for is named."""
    with pytest.raises(LeakError, match="child process: "):
        with leak_check(settle=SOON):
            child = subprocess.Popen([sys.executable, "-c", ""])
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.wait()


def test_shared_memory() -> None:
    """A file in /dev/shm is named."""
    path = Path("/dev/shm") / f"asyncrpc-{secrets.token_hex(8)}"
    with pytest.raises(LeakError, match=f"shared memory: {path.name}"):
        with leak_check(settle=SOON):
            path.touch()
    path.unlink()


@pytest.mark.slow
def test_shared_memory_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared memory that a process has mapped which is not of ours is not our leak."""
    code = (
        "from multiprocessing.shared_memory import SharedMemory as S\n"
        "s = S(create=True, size=1); print(s.name, flush=True); input(); s.close(); s.unlink()"
    )
    with leak_check():
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        name = child.stdout.readline().strip()
        assert not leaks._is_used_elsewhere(name)
        monkeypatch.setattr(leaks, "_family", lambda: {os.getpid()})
        assert leaks._is_used_elsewhere(name)
        monkeypatch.undo()
        child.communicate("\n", timeout=5)


def test_several() -> None:
    """All that is left is named at once."""
    with pytest.raises(LeakError) as caught:
        with leak_check(settle=SOON):
            left = os.pipe()
    for descriptor in left:
        os.close(descriptor)

    assert 2 == len(caught.value.leaks)


def test_what_goes_away_is_waited_for() -> None:
    """Something that is still closing gets its time."""
    thread = threading.Thread(target=lambda: threading.Event().wait(0.1))
    with leak_check():
        thread.start()

    assert not thread.is_alive()


def test_error_of_the_body() -> None:
    """An error of the body is not replaced by what it may have left."""
    with pytest.raises(KeyError):
        with leak_check():
            left = os.dup(0)
            raise KeyError
    os.close(left)


@pytest.mark.asyncio
async def test_task() -> None:
    """With `async with`, a task that runs on is named with its stack."""

    async def stuck_here() -> None:
        await asyncio.Event().wait()

    mine = asyncio.create_task(stuck_here())
    with pytest.raises(LeakError, match="in stuck_here") as caught:
        async with leak_check(settle=SOON):
            other = asyncio.create_task(stuck_here(), name="forgotten")
    mine.cancel()
    other.cancel()

    assert 1 == len(caught.value.leaks)
    assert "task: <Task pending name='forgotten'" in caught.value.leaks[0]


@pytest.mark.asyncio
async def test_task_that_ends() -> None:
    """The loop turns while the check waits, so that tasks and transports can end."""
    async with leak_check():
        task = asyncio.create_task(asyncio.sleep(0.01))
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.close()
        server.close()

    assert task.done()


@pytest.mark.asyncio
async def test_threads_of_the_loop() -> None:
    """Threads that the loop keeps for the next `to_thread` are its own."""
    async with leak_check(settle=SOON):
        await asyncio.to_thread(len, "x")


@pytest.mark.asyncio
async def test_error_of_an_async_body() -> None:
    """An error of the body goes through."""
    with pytest.raises(KeyError):
        async with leak_check():
            raise KeyError


@pytest.mark.parametrize("settle", [-1, math.nan, math.inf, "1", None, True])
def test_bad_settle(settle: float) -> None:
    """The time to settle is a finite number of seconds."""
    with pytest.raises(ValueError, match="settle must be a finite number of at least 0, got"):
        leak_check(settle=settle)


@pytest.mark.slow
def test_shared_memory_in_use_by_us() -> None:
    """What this process itself created and did not unlink is named, mapped or not."""
    with pytest.raises(LeakError, match="shared memory: "):
        with leak_check(settle=SOON):
            memory = SharedMemory(create=True, size=1)
    memory.close()
    memory.unlink()


@pytest.mark.asyncio
async def test_kinds() -> None:
    """Only what is asked for is looked for."""
    async with leak_check(kinds=["thread"]):
        left = os.dup(0)
        task = asyncio.create_task(asyncio.Event().wait())
    async with leak_check(kinds=[]):
        pass
    with pytest.raises(LeakError, match=r"^left behind:\ntask: "):
        async with leak_check(kinds=("task",), settle=SOON):
            another = asyncio.create_task(asyncio.Event().wait())
    os.close(left)
    task.cancel()
    another.cancel()


@pytest.mark.parametrize("kinds", [["socket"], "task", [None]])
def test_bad_kinds(kinds: list[str]) -> None:
    """An unknown kind is named."""
    with pytest.raises(ValueError, match="kinds must be among file descriptor, thread"):
        leak_check(kinds=kinds)
