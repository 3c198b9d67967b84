"""What every test of this suite runs under: both event loops, a time limit, and leak checks.

* Each async test runs twice, as ``[asyncio]`` (stock loop, debug mode) and ``[uvloop]``.
* The body of an async test is cancelled after its limit (20 s, or what ``@pytest.mark.timeout``
  says less the margin below) and fails with the stacks of all tasks. This is a timer in the loop
  itself; pytest-timeout stands behind it for sync tests and for a loop that does not turn.
* After each test nothing may be left that was not there before: tasks, errors the loop reported to
  nobody, file descriptors, threads, child processes, entries of /dev/shm. After each module no
  process of this run may be left anywhere, adopted ones included.

The checks wait `SETTLE` seconds at most for what is still closing, and only if something is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import secrets
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
import pytest_asyncio

pytest_plugins = ["pytester"]

SETTLE = 2.0
"""How long something may take to go away by itself, in seconds."""

MARGIN = 5.0
"""An async test is stopped this long before pytest-timeout would end the whole run, in seconds."""

RUN_MARK = "ASYNCRPC_TEST_RUN"
"""Environment variable by which processes started by this run are known, wherever they went."""

SHARED_MEMORY = Path("/dev/shm")

Snapshot = dict[str, frozenset[str]]
"""Kind of resource -> one readable line for each that is there."""


# --- loops


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test on the stock loop and, where it is installed, on uvloop."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.SelectorEventLoop
    }
    with contextlib.suppress(ImportError):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


def pytest_configure(config: pytest.Config) -> None:
    """Mark this run's processes, and open what the loops open once per process."""
    os.environ.setdefault(RUN_MARK, secrets.token_hex(8))
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.new_event_loop().close()


# --- time limit


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let only the sync test fail that runs too long: the thread method would end the whole run."""
    if not _is_async(item):
        given = item.get_closest_marker("timeout") or pytest.mark.timeout().mark
        kwargs = {"method": "signal", **given.kwargs}
        item.add_marker(pytest.mark.timeout(*given.args, **kwargs), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Put the time limit around the body of an async test."""
    limit = body_limit(item)
    if not _is_async(item) or limit is None:
        return (yield)
    target: tuple[Any, str] = (item, "obj")
    if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        target = (item.obj.hypothesis, "inner_test")  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*target, limited(getattr(*target), limit))
        return (yield)


def body_limit(item: pytest.Item) -> float | None:
    """Return how long the body of a test may run in seconds, or None for no limit."""
    marker = item.get_closest_marker("timeout")
    backstop = item.config.getoption("timeout", None)
    if marker is not None:
        backstop = marker.args[0] if marker.args else marker.kwargs.get("timeout", backstop)
    if backstop is None:
        backstop = item.config.getini("timeout")
    seconds = float(backstop or 0)
    return max(seconds - MARGIN, seconds / 2) if seconds > 0 else None


def limited(
    function: Callable[..., Awaitable[None]], limit: float
) -> Callable[..., Awaitable[None]]:
    """Return the coroutine function with a limit in seconds that fails the test with all stacks."""

    @functools.wraps(function)
    async def run(*args: object, **kwargs: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        stacks: list[str] = []
        timer: asyncio.TimerHandle

        def expire() -> None:
            nonlocal timer
            stacks.append(stacks_of(asyncio.all_tasks()))
            task.cancel()
            timer = loop.call_later(1.0, expire)  # again, should the test swallow the cancel

        timer = loop.call_later(limit, expire)
        try:
            await function(*args, **kwargs)
        finally:
            timer.cancel()
            if stacks:
                pytest.fail(f"still running after {limit:g} s\n{stacks[0]}", pytrace=False)

    return run


def stacks_of(tasks: set[asyncio.Task[Any]]) -> str:
    """Return name and stack of each task as text, down to what it waits for."""
    lines: list[str] = []
    for task in sorted(tasks, key=asyncio.Task.get_name):
        lines.append(repr(task))
        lines += [
            f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'
            for frame in frames_of(task.get_coro())
        ]
    return "\n".join(lines)


def frames_of(awaitable: object) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine and of what it awaits (3.11's stacks show one)."""
    while awaitable is not None:
        for prefix in ("cr", "ag", "gi"):
            if (frame := getattr(awaitable, f"{prefix}_frame", None)) is not None:
                yield frame
                inner = "yieldfrom" if prefix == "gi" else "await"
                awaitable = getattr(awaitable, f"{prefix}_{inner}")
                break
        else:
            return


# --- leaks inside the loop


@pytest.fixture(autouse=True)
def no_task_leaks(request: pytest.FixtureRequest, no_process_leaks: None) -> None:
    """Check an async test's loop once all its other fixtures are gone."""
    if _is_async(request.node):
        marker = request.node.get_closest_marker("asyncio")
        if marker.kwargs.get("loop_scope", "function") != "function":
            pytest.fail("the leak checks need a loop of its own for each test", pytrace=False)
        request.getfixturevalue("clean_loop")


@pytest_asyncio.fixture
async def clean_loop() -> AsyncIterator[None]:
    """Fail on tasks left in the loop and on errors that only the loop came to hear of."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        loop.set_debug(True)  # pytest-asyncio's runner turns off what a factory turned on
    reports: list[str] = []
    loop.set_exception_handler(lambda _, context: reports.append(describe(context)))

    yield

    tasks = await tasks_left()
    if tasks:
        for task in tasks:
            task.cancel()
        pytest.fail(f"tasks left in the loop:\n{stacks_of(tasks)}", pytrace=False)
    if reports:
        pytest.fail("errors reported to the loop:\n" + "\n".join(reports), pytrace=False)


def describe(context: Mapping[str, Any]) -> str:
    """Return an event loop's exception context on one line."""
    return ", ".join(f"{key}={value!r}" for key, value in context.items())


async def tasks_left(settle: float = SETTLE) -> set[asyncio.Task[Any]]:
    """Return the running loop's other tasks that are not done within `settle` seconds."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if not others:
        return set()
    _, pending = await asyncio.wait(others, timeout=settle)
    return pending


# --- leaks of the process


@pytest.fixture(autouse=True)
def no_process_leaks() -> Iterator[None]:
    """Fail on descriptors, threads, children and shared memory that the test left behind."""
    before = snapshot()

    yield

    left = leaks_since(before)
    if left:
        pytest.fail("left behind by the test:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def no_orphans() -> Iterator[None]:
    """Fail on processes of this run that outlive the module, whoever is their parent by now."""
    before = marked_processes()

    yield

    left = settled(lambda: sorted(marked_processes() - before))
    if left:
        pytest.fail("processes left behind by the module:\n" + "\n".join(left), pytrace=False)


def leaks_since(before: Snapshot, settle: float = SETTLE) -> list[str]:
    """Return what is there now and was not before, after waiting for it to go away."""

    def left() -> list[str]:
        now = snapshot()
        return [
            f"{kind}: {line}"
            for kind in now
            for line in sorted(now[kind] - before[kind])
            if not (kind == "shared memory" and used_elsewhere(line))
        ]

    return settled(left, settle)


def settled(look: Callable[[], list[str]], settle: float = SETTLE) -> list[str]:
    """Return what `look` finds, asking again for `settle` seconds as long as it finds something."""
    found = look()
    deadline = time.monotonic() + settle
    while found and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
        found = look()
    return found


def snapshot() -> Snapshot:
    """Return what this process holds now."""
    return {
        "file descriptor": frozenset(open_descriptors()),
        "thread": frozenset(f"{thread.name} ({thread.ident})" for thread in threading.enumerate()),
        "child process": frozenset(child_processes()),
        "shared memory": frozenset(shared_memory()),
    }


def open_descriptors() -> Iterator[str]:
    """Yield "number -> target" for each open file descriptor."""
    exempt = {_resource_tracker()[1]}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listdir itself used
            if int(name) not in exempt:
                yield f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}"


def child_processes() -> Iterator[str]:
    """Yield a line for each child, zombies included."""
    try:
        # One system call in the usual case: finding no child by walking /proc takes milliseconds.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    exempt = _resource_tracker()[0]
    for child in psutil.Process().children():
        if child.pid != exempt:
            yield _process_line(child)


def shared_memory() -> Iterator[str]:
    """Yield the names in /dev/shm, which all processes of the machine share."""
    for path in SHARED_MEMORY.iterdir() if SHARED_MEMORY.is_dir() else ():
        yield path.name


def used_elsewhere(name: str) -> bool:
    """Return whether a process that is not of this run has that shared memory mapped."""
    needle = f"{SHARED_MEMORY / name}\n".encode()
    ours = {line.split()[0] for line in marked_processes()} | {str(os.getpid())}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name not in ours:
            with contextlib.suppress(OSError):
                if needle in (entry / "maps").read_bytes():
                    return True
    return False


def marked_processes() -> set[str]:
    """Return a line for each live process that carries this run's mark, but this one."""
    mark = f"{RUN_MARK}={os.environ[RUN_MARK]}".encode()
    exempt = {os.getpid(), _resource_tracker()[0]}
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in exempt:
            continue
        with contextlib.suppress(OSError, psutil.Error):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(_process_line(psutil.Process(int(entry.name))))
    return found


def _process_line(process: psutil.Process) -> str:
    command = "?"
    with contextlib.suppress(psutil.Error):
        command = " ".join(process.cmdline()) or process.name()
    return f"{process.pid} {command}"


def _resource_tracker() -> tuple[int | None, int | None]:
    """Return pid and pipe of multiprocessing's tracker: one per process, for its whole life."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    return getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)


def _is_async(item: pytest.Item) -> bool:
    return pytest_asyncio.is_async_test(item)
