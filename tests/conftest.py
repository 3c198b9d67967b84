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
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings

from asyncrpc.testing import TimeLimitError, time_limit
from asyncrpc.testing.leaks import (
    leaks_since,
    process_line,
    resource_tracker,
    settled,
    snapshot,
    tasks_left,
)
from asyncrpc.testing.stacks import stacks_of

pytest_plugins = ["pytester"]

SETTLE = 2.0
"""How long something may take to go away by itself, in seconds."""

MARGIN = 5.0
"""An async test is stopped this long before pytest-timeout would end the whole run, in seconds."""

RUN_MARK = "ASYNCRPC_TEST_RUN"
"""Environment variable by which processes started by this run are known, wherever they went."""


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
    """Mark this run's processes, and open what the loops open once per process.

    Examples of hypothesis may take as long as a busy machine needs: the time limits are ours.
    """
    settings.register_profile("suite", deadline=None)
    settings.load_profile("suite")
    if RUN_MARK not in os.environ or hasattr(config, "workerinput"):  # each process of xdist's
        os.environ[RUN_MARK] = secrets.token_hex(8)
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
        problem = ""
        try:
            async with time_limit(limit):
                await function(*args, **kwargs)
        except TimeLimitError as error:
            problem = str(error)
        if problem:  # out here, so that only this is shown
            pytest.fail(problem, pytrace=False)

    return run


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

    tasks = await tasks_left(settle=SETTLE)
    if tasks:
        for task in tasks:
            task.cancel()
        pytest.fail(f"tasks left in the loop:\n{stacks_of(tasks)}", pytrace=False)
    if reports:
        pytest.fail("errors reported to the loop:\n" + "\n".join(reports), pytrace=False)


def describe(context: Mapping[str, Any]) -> str:
    """Return an event loop's exception context on one line."""
    return ", ".join(f"{key}={value!r}" for key, value in context.items())


# --- leaks of the process


@pytest.fixture(autouse=True)
def no_process_leaks() -> Iterator[None]:
    """Fail on descriptors, threads, children and shared memory that the test left behind."""
    before = snapshot()

    yield

    left = leaks_since(before, SETTLE)
    if left:
        pytest.fail("left behind by the test:\n" + "\n".join(left), pytrace=False)


@pytest.fixture(autouse=True, scope="module")
def no_orphans() -> Iterator[None]:
    """Fail on processes of this run that outlive the module, whoever is their parent by now."""
    before = marked_processes()

    yield

    left = settled(lambda: sorted(marked_processes() - before), SETTLE)
    if left:
        pytest.fail("processes left behind by the module:\n" + "\n".join(left), pytrace=False)


def marked_processes() -> set[str]:
    """Return a line for each live process that carries this run's mark, but this one."""
    mark = f"{RUN_MARK}={os.environ[RUN_MARK]}".encode()
    exempt = {os.getpid(), resource_tracker()[0]}
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in exempt:
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(process_line(int(entry.name)))
    return found


def _is_async(item: pytest.Item) -> bool:
    return pytest_asyncio.is_async_test(item)
