"""What is left when the agent is killed: nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.process.guardian import process_state

pytestmark = pytest.mark.slow

# The worker: a grandchild in its group, one in its own session, one that ignores SIGTERM, and one
# that is both and has a child itself; then itself, ignoring what can be ignored.
WORKER = """
trap '' TERM HUP INT
sleep 100 &
setsid sleep 100 &
(trap '' TERM; exec sleep 100) &
setsid sh -c 'trap "" TERM; sleep 100; true' &
while :; do sleep 100; done
"""

AGENT = """
import asyncio, os, sys, time
from launcher.logs import DefaultLogsSpecs, Std
from launcher.process import start_processes

async def main():
    args = {rank: ("-c", sys.argv[1]) for rank in range(2)}
    specs = DefaultLogsSpecs(os.devnull, tee=Std.ALL)
    async with await start_processes("r", "sh", args, {0: {}, 1: {}}, specs) as context:
        if "fork" in sys.argv:
            if os.fork() == 0:
                time.sleep(100)  # holds the agent's end of the socket
                os._exit(0)
        if "fence" in sys.argv:
            context.fence_at(time.monotonic())
        await context.wait()

asyncio.run(main())
"""

# Functions or commands, which end in order when the agent is told to by a signal.
FUNCTIONS = """
import asyncio, os, sys
from launcher.errors import SignalException
from launcher.logs import DefaultLogsSpecs
from launcher.process import start_processes
from tests.launcher.process import functions

async def main():
    args = {rank: (sys.argv[1],) for rank in range(2)}
    envs = {0: {}, 1: {}}
    specs = DefaultLogsSpecs(os.devnull)
    if sys.argv[2] == "command":
        args = {rank: ("-c", sys.argv[1]) for rank in range(2)}
        context = await start_processes("r", "sh", args, envs, specs)
    else:
        context = await start_processes("r", functions.shell, args, envs, specs, None, sys.argv[2])
    try:
        await context.wait(timeout=300)
    except SignalException as error:
        await context.close(error.sigval)

asyncio.run(main())
"""
METHODS = ("spawn", "fork", "forkserver")


def tree(root: int) -> list[int]:
    """Return all descendants of a process."""
    found = children_of(root)
    for pid in found:
        found += children_of(pid)
    return found


def children_of(parent: int) -> list[int]:
    """Return the children of a process, the oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(entry.name))
    return sorted(found)


def alive(pids: list[int]) -> list[int]:
    """Return those that have not ended; init may take its time to reap them."""
    return [pid for pid in pids if process_state(pid) not in ("", "Z")]


@contextlib.contextmanager
def agent(
    count: int, *options: str, program: str = AGENT, worker: str = WORKER
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Start an agent with two workers; yield it and everything below it."""
    with subprocess.Popen([sys.executable, "-c", program, worker, *options]) as process:
        try:
            deadline = time.monotonic() + 10
            while len(pids := tree(process.pid)) < count:
                assert time.monotonic() < deadline, pids
                time.sleep(0.01)
            yield process, pids
        finally:
            process.kill()


def died_within(pids: list[int], seconds: float) -> list[int]:
    """Return who is still alive after that time; earlier if nobody is."""
    deadline = time.monotonic() + seconds
    while (left := alive(pids)) and time.monotonic() < deadline:
        time.sleep(0.005)
    return left


# Per worker: itself, three sleeps, the shell with its sleep, the sleep in its loop; the guardian.
COUNT = 2 * 7 + 1


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGABRT])
def test_nothing_survives_the_agent(signum: signal.Signals) -> None:
    """A second after an agent died without a chance to do anything, its whole tree is gone."""
    with agent(COUNT) as (process, pids):
        process.send_signal(signum)

        assert died_within(pids, 1.0) == []


def test_agent_that_has_forked_is_missed_too() -> None:
    """A process forked by the agent keeps the socket open, and keeps nobody alive."""
    with agent(COUNT + 1, "fork") as (process, pids):
        _, forked = children_of(process.pid)  # the guardian was first
        process.kill()

        assert died_within([pid for pid in pids if pid != forked], 1.0) == []
        os.kill(forked, signal.SIGKILL)


def test_agent_and_guardian_killed_together() -> None:
    """The kernel takes the workers along when their parent is killed as well."""
    with agent(COUNT) as (process, pids):
        (guardian,) = children_of(process.pid)
        workers = children_of(guardian)
        process.send_signal(signal.SIGSTOP)
        os.kill(guardian, signal.SIGKILL)
        process.kill()

        assert died_within(workers, 1.0) == []
        for pid in alive(pids):  # grandchildren: nobody who knew them is left
            os.kill(pid, signal.SIGKILL)


def test_nothing_outlives_the_fence_of_an_agent_that_is_stopped() -> None:
    """One that is merely late keeps its workers; those of one that cannot act are ended."""
    with agent(COUNT, "fence") as (process, pids):
        (guardian,) = children_of(process.pid)
        time.sleep(0.7)  # longer than until the guardian looks again
        late = alive(pids)
        process.send_signal(signal.SIGSTOP)
        left = died_within([pid for pid in pids if pid != guardian], 3.0)
        process.send_signal(signal.SIGCONT)

        assert late == pids
        assert left == []
        assert process.wait(10) == 0  # its context says that they were ended by a signal


@pytest.mark.parametrize("method", METHODS)
def test_functions_do_not_survive_the_agent_either(method: str) -> None:
    """Whoever forked them: what they have started is gone with them."""
    with agent(COUNT + 2, method, program=FUNCTIONS) as (process, pids):
        process.kill()

        assert died_within(pids, 1.0) == []


@pytest.mark.parametrize("method", ["command", *METHODS])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_to_the_agent_ends_workers(method: str, signum: signal.Signals) -> None:
    """Wait raises, the program closes its context, and everybody is gone, the agent too."""
    count = 1 + 2 * (2 if method == "command" else 3)
    with agent(count, method, program=FUNCTIONS, worker="sleep 100; true") as (process, pids):
        process.send_signal(signum)

        assert process.wait(10) == 0
        assert died_within(pids, 0.0) == []
