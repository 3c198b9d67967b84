"""The pytest plugin: groups, faults, stores, virtual time and a bad network as fixtures.

Every fixture is a plain function; those that start something return a factory of an async context
manager, so they work under pytest-asyncio (strict and auto) and anyio alike: an async fixture
would belong to one of them. `asyncrpc.testing` offers the same without pytest.

pytest loads this module into every run of everybody who has asyncrpc installed, so it imports
nothing before a fixture or mark is used, and changes nothing by itself. Two checks may be turned
on, for one test by its mark or for all of them by the ini option of the same name:

* ``@pytest.mark.rpc_timeout(seconds)`` stops an async test that hangs, on uvloop too, and shows
  where all of its tasks stood.
* ``@pytest.mark.rpc_leak_check`` fails a test that leaves behind open file descriptors, threads,
  child processes or shared memory once its fixtures are gone, or tasks once its body has ended.
  ``rpc_leak_check(False)`` leaves a test out.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import re
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from asyncrpc.faults import FaultPlan
    from asyncrpc.observe import Clock
    from asyncrpc.options import RpcOptions
    from asyncrpc.runtime import RpcAgent
    from asyncrpc.store import MemoryStore
    from asyncrpc.testing import ChaosProxy, VirtualClock, leak_check

__all__ = (
    "KvStore",
    "RpcCluster",
    "chaos_proxy",
    "fault_plan",
    "kv_store",
    "rpc_cluster",
    "rpc_leak_check",
    "virtual_clock",
)

_MARKS = (
    "rpc_timeout(seconds): stop an async test after so many seconds, with the stacks of its tasks",
    "rpc_leak_check(enabled=True): fail a test that leaves descriptors, threads or tasks behind",
)
_NAMES = ("asyncrpc", "asyncrpc.pytest_plugin")
"""Under which pytest may load this module: its entry point's, and its own."""
_LEAKS = "_rpc_leaks"
"""The fixture that looks around before and after a test."""

_LASTING_RUNNER = re.compile(r"_(class|module|package|session)_scoped_runner$")
"""pytest-asyncio's fixtures of loops that outlive a test; set up late, by the first that runs."""


class RpcCluster(Protocol):
    """The type of `rpc_cluster`."""

    def __call__(
        self,
        n: int,
        *,
        options: RpcOptions | Sequence[RpcOptions] | None = None,
        faults: FaultPlan | Sequence[FaultPlan | None] | None = None,
        clock: Clock | None = None,
    ) -> AbstractAsyncContextManager[list[RpcAgent]]:
        """Return a context manager that gives the agents; see `asyncrpc.testing.cluster`."""
        ...


class KvStore(Protocol):
    """The type of `kv_store`."""

    def __call__(self, *, clock: Clock | None = None) -> MemoryStore:
        """Return a store, which is an async context manager; see `asyncrpc.testing.kv_store`."""
        ...


# --- fixtures; those without a state last for the session, so that any fixture or property test may
# use them


@pytest.fixture(scope="session")
def rpc_cluster() -> RpcCluster:
    """Give groups of workers in this process.

    ``async with rpc_cluster(2) as workers`` gives agents named ``worker0`` and ``worker1``,
    isolated from each other; `asyncrpc.current_agent` is unset in the body. ``faults`` takes a
    `fault_plan`, ``clock`` a `virtual_clock`; see `asyncrpc.testing.cluster`.

    Example:
        ```python
        async def test_two_workers(rpc_cluster):
            async with rpc_cluster(2) as workers:
                assert await workers[0].rpc_async("worker1", min, args=(1, 2)) == 1
        ```
    """
    from asyncrpc import testing  # noqa: PLC0415 -- loaded only by those who use it

    return testing.cluster


@pytest.fixture(scope="session")
def fault_plan() -> type[FaultPlan]:
    """Make plans of what goes wrong: ``fault_plan(rules, seed=0)``, see `asyncrpc.FaultPlan`.

    Example:
        ```python
        async def test_lost_request(rpc_cluster, fault_plan, virtual_clock):
            plan = fault_plan([Fault("drop", message="PYTHON_CALL", times=1)])
            async with rpc_cluster(2, faults=plan, clock=virtual_clock) as workers:
                call = workers[0].rpc_async("worker1", max, args=(1, 2), timeout=60)
                await virtual_clock.advance(60)
                with pytest.raises(RpcTimeoutError):
                    await call
                assert await workers[0].rpc_async("worker1", max, args=(1, 2)) == 2
            assert [event.kind for event in plan.events] == ["drop"]
        ```
    """
    from asyncrpc.faults import FaultPlan  # noqa: PLC0415 -- loaded only by those who use it

    return FaultPlan


@pytest.fixture(scope="session")
def kv_store() -> KvStore:
    """Give key-value stores in memory, see `asyncrpc.testing.kv_store`.

    Example:
        ```python
        async def test_counter(kv_store):
            async with kv_store() as store:
                assert await store.add("visits", 1) == 1
                assert await store.add("visits", 1) == 2
        ```
    """
    from asyncrpc.testing import kv_store as store  # noqa: PLC0415 -- as above

    return store


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """Give a time, from 0, that only ``await virtual_clock.advance(seconds)`` moves.

    Example:
        ```python
        async def test_an_hour(rpc_cluster, virtual_clock):
            async with rpc_cluster(2, clock=virtual_clock) as workers:
                call = workers[0].rpc_async("worker1", asyncio.sleep, args=(9,), timeout=3600)
                await virtual_clock.advance(3599)
                assert not call.done()
                await virtual_clock.advance(1)
                assert isinstance(call.exception(), RpcTimeoutError)
                assert virtual_clock.now() == 3600
        ```
    """
    from asyncrpc.testing import VirtualClock  # noqa: PLC0415 -- as above

    return VirtualClock()


@pytest.fixture(scope="session")
def chaos_proxy() -> type[ChaosProxy]:
    """Give bad networks to a host and port, see `asyncrpc.testing.ChaosProxy`.

    Example:
        ```python
        async def test_cut_links(chaos_proxy):
            async with TCPStoreServer() as server, chaos_proxy(server.host, server.port) as proxy:
                async with await TCPStore.connect(proxy.host, proxy.port) as store:
                    await store.set("colour", "green")
                    proxy.disconnect_all(reset=True)
                    assert await store.get("colour") == b"green"
        ```
    """
    from asyncrpc.testing import ChaosProxy  # noqa: PLC0415 -- as above

    return ChaosProxy


@pytest.fixture(scope="session")
def rpc_leak_check() -> type[leak_check]:
    """Check what a part of a test leaves behind, see `asyncrpc.testing.leak_check`.

    Example:
        ```python
        async def test_tidy(rpc_leak_check, kv_store):
            async with rpc_leak_check():
                async with kv_store() as store:
                    await store.set("key", "value")
        ```
    """
    from asyncrpc.testing import leak_check  # noqa: PLC0415 -- as above

    return leak_check


# --- checks of whole tests, off unless asked for


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Be loaded once, whoever asks for it: the entry point, ``-p`` or a conftest by its module."""
    known_as = pluginmanager.get_name(sys.modules[__name__])
    for name in _NAMES:
        if name != known_as:
            pluginmanager.set_blocked(name)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options."""
    parser.addini("rpc_timeout", "seconds after which async tests are stopped", default="")
    parser.addini("rpc_leak_check", "whether tests may leave nothing behind", "bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks; refuse a bad ini option at once."""
    for line in _MARKS:
        config.addinivalue_line("markers", line)
    if config.getini("rpc_leak_check"):
        config.addinivalue_line("usefixtures", _LEAKS)  # pytest's own option: for every test
    try:
        _ini_timeout(config)
    except ValueError as error:
        raise pytest.UsageError(f"ini option {error}") from None


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """Let a marked test look around before and after it; an autouse fixture would cost them all."""
    if isinstance(collector, pytest.Class | pytest.Module) and collector.istestfunction(obj, name):
        own = getattr(obj, "pytestmark", ())
        is_marked = any(mark.name == "rpc_leak_check" for mark in own)
        if is_marked or collector.get_closest_marker("rpc_leak_check"):
            pytest.mark.usefixtures(_LEAKS)(obj)


@pytest.fixture
def _rpc_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Look around before and after a test with its fixtures."""
    if not _checks_leaks(request.node):
        yield
        return
    from asyncrpc.testing import LeakError, leak_check  # noqa: PLC0415 -- used only if turned on

    for name in request.fixturenames:
        if _LASTING_RUNNER.match(name):
            request.getfixturevalue(name)
    problem = ""
    try:
        with leak_check():
            yield
    except LeakError as error:
        problem = str(error)
    if problem:  # out here, so that only this is shown
        pytest.fail(problem, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Put limit and check around the body of an async test."""
    place = _place_of_body(item)
    if place is None:
        return (yield)
    seconds, checks_leaks = _timeout(item), _checks_leaks(item)
    if seconds is None and not checks_leaks:
        return (yield)
    owner, name = place
    body = getattr(owner, name)
    setattr(owner, name, _guarded(body, seconds, checks_leaks))
    try:
        return (yield)
    finally:
        setattr(owner, name, body)


def _place_of_body(item: pytest.Item) -> tuple[Any, str] | None:
    """Return where the coroutine function of a test is kept, ``None`` for a plain one."""
    test = getattr(item, "obj", None)
    hypothesis = getattr(test, "hypothesis", None)
    if inspect.iscoroutinefunction(getattr(hypothesis, "inner_test", None)):
        return hypothesis, "inner_test"
    return (item, "obj") if inspect.iscoroutinefunction(test) else None


def _guarded(
    body: Callable[..., Awaitable[object]], seconds: float | None, checks_leaks: bool
) -> Callable[..., Awaitable[None]]:
    """Return the coroutine function with a limit in seconds and a check of the tasks it leaves."""
    import asyncio  # noqa: PLC0415 -- used only if turned on

    from asyncrpc.testing import LeakError, TimeLimitError, leak_check, time_limit  # noqa: PLC0415 -- every pytest run loads this module

    @functools.wraps(body)
    async def run(*args: object, **kwargs: object) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # trio's, under anyio
            await body(*args, **kwargs)
            return
        check = leak_check(kinds=("task",)) if checks_leaks else contextlib.nullcontext()
        limit = contextlib.nullcontext() if seconds is None else time_limit(seconds)
        problem = ""
        try:
            async with check, limit:
                await body(*args, **kwargs)
        except (LeakError, TimeLimitError) as error:
            problem = str(error)
        if problem:  # out here, so that only this is shown
            pytest.fail(problem, pytrace=False)

    return run


def _checks_leaks(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("rpc_leak_check")
    if mark is None:
        return bool(item.config.getini("rpc_leak_check"))
    enabled = _argument(mark, "enabled", True)
    if not isinstance(enabled, bool):
        pytest.fail(f"rpc_leak_check(enabled) must be True or False, got {enabled!r}", False)
    return enabled


def _timeout(item: pytest.Item) -> float | None:
    """Return the limit of an async test in seconds, ``None`` for no limit."""
    mark = item.get_closest_marker("rpc_timeout")
    if mark is None:
        return _ini_timeout(item.config)
    seconds = _argument(mark, "seconds", None)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not _is_limit(seconds):
        pytest.fail(f"rpc_timeout(seconds) must be a finite number above 0, got {seconds!r}", False)
    return seconds


def _argument(mark: pytest.Mark, name: str, default: object) -> object:
    """Return the one argument that a mark may have."""
    given = dict(mark.kwargs)
    if mark.args:
        given[name] = mark.args[0]
    if len(mark.args) > 1 or given.keys() - {name}:
        pytest.fail(f"{mark.name} takes one argument, {name}, got {mark!r}", False)
    return given.get(name, default)


def _ini_timeout(config: pytest.Config) -> float | None:
    text = config.getini("rpc_timeout")
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _is_limit(seconds):
        raise ValueError(f"rpc_timeout must be a finite number of seconds above 0, got {text!r}")
    return seconds


def _is_limit(seconds: float) -> bool:
    return 0 < seconds < math.inf
