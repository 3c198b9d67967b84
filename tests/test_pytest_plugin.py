"""The pytest plugin as its users have it: each fixture under each async plugin, and the checks.

The suites run in processes of their own, with what the entry point loads.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pytest

from asyncrpc import pytest_plugin

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

HEADER = """
import asyncio, os, threading, time
import pytest
import asyncrpc as rpc
from asyncrpc import Fault, RpcTimeoutError
from asyncrpc.store import TCPStore, TCPStoreServer
"""

BOTH_LOOPS = """
import asyncio, uvloop
def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
"""

ANYIO_LOOPS = """
import pytest
@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return "asyncio", {"use_uvloop": request.param}
"""

SCOPE = ["-o", "asyncio_default_fixture_loop_scope=function"]  # pytest-asyncio warns without it

MODES = {
    "strict": ([*SCOPE, "-p", "no:anyio"], BOTH_LOOPS, "@pytest.mark.asyncio"),
    "auto": ([*SCOPE, "-o", "asyncio_mode=auto"], BOTH_LOOPS, ""),
    "anyio": (["-p", "no:asyncio"], ANYIO_LOOPS, "@pytest.mark.anyio"),
}
"""Async plugin and mode -> arguments, conftest and the mark of each async test."""

FIXTURES = tuple(name for name in pytest_plugin.__all__ if name.islower())


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """Run the test under each async plugin."""
    return str(request.param)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the suites a secret of their own."""
    path = tmp_path / "secret"
    path.write_bytes(bytes(32))
    path.chmod(0o600)
    monkeypatch.setenv("ASYNCRPC_SECRET_FILE", str(path))


QUICK = """
from asyncrpc.testing import leak_check
leak_check.__init__.__kwdefaults__["settle"] = 0.05
"""
"""For the conftest of suites with leaks on purpose."""


def run(
    pytester: pytest.Pytester, mode: str, tests: str, *arguments: str, ini: Iterable[str] = ()
) -> pytest.RunResult:
    """Run tests under an async plugin, with warnings as errors."""
    options, conftest, mark = MODES[mode]
    pytester.makeconftest(conftest + QUICK)
    lines = ["[pytest]", "filterwarnings = error", "addopts = --strict-markers --strict-config"]
    pytester.makeini("\n".join([*lines, *ini]) + "\n")
    marked = re.sub(r"^( *)(?=async def test_)", rf"\1{mark}\n\1", tests, flags=re.MULTILINE)
    pytester.makepyfile(f"{HEADER}\n{textwrap.dedent(marked if mark else tests)}")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options, *arguments)


def example(fixture: str) -> str:
    """Return the test that the docstring of a fixture shows."""
    doc = inspect.getdoc(getattr(pytest_plugin, fixture).__wrapped__) or ""
    found = re.findall(r"^Example:\n    ```python\n(.*?)^    ```$", doc, re.DOTALL | re.MULTILINE)
    assert 1 == len(found), f"{fixture} has no example"
    return textwrap.dedent(found[0])


def test_entry_point() -> None:
    """The plugin is found by its entry point."""
    found = importlib.metadata.entry_points(group="pytest11", name="asyncrpc")

    assert ["asyncrpc.pytest_plugin"] == [entry.value for entry in found]


@pytest.mark.parametrize(
    ("arguments", "conftest", "autoload"),
    [
        (["-p", "asyncrpc"], "", False),
        (["-p", "asyncrpc.pytest_plugin"], "", True),
        ([], 'pytest_plugins = ["asyncrpc.pytest_plugin"]', True),
    ],
)
def test_ways_to_load_it(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    conftest: str,
    autoload: bool,
) -> None:
    """However often and by whichever name it is asked for, it is there once."""
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(conftest)
    pytester.makepyfile("def test_one(kv_store, virtual_clock): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    result.assert_outcomes(passed=1)


def test_way_to_be_without_it(pytester: pytest.Pytester) -> None:
    """It can be left out by the name of its entry point."""
    pytester.makepyfile("def test_one(kv_store): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:asyncrpc")

    result.assert_outcomes(errors=1)


def test_examples(pytester: pytest.Pytester, mode: str) -> None:
    """What the docstrings of the fixtures show works everywhere, and leaves nothing behind."""
    tests = "\n".join(example(fixture) for fixture in FIXTURES)
    result = run(pytester, mode, tests, ini=["rpc_leak_check = true", "rpc_timeout = 20"])

    result.assert_outcomes(passed=2 * len(FIXTURES))


def test_contract(pytester: pytest.Pytester, mode: str) -> None:
    """Names, isolation, options, several groups, and all fixtures in one test."""
    result = run(
        pytester,
        mode,
        """
        def where():
            return rpc.current_agent().info.name, rpc.caller().name

        async def test_agents(rpc_cluster):
            async with rpc_cluster(3) as workers:
                expected = [rpc.WorkerInfo(f"worker{rank}", rank) for rank in range(3)]
                assert [worker.info for worker in workers] == expected
                assert all(isinstance(w, rpc.RpcAgent) for w in workers)
                with pytest.raises(rpc.NotInitializedError):
                    rpc.current_agent()
                assert await workers[2].rpc_async(0, where) == ("worker0", "worker2")
                await asyncio.gather(*[w.barrier() for w in workers])

        async def test_options(rpc_cluster, fault_plan):
            options = rpc.RpcOptions(rpc_timeout=7)
            plan = fault_plan([Fault("fail", message="PYTHON_CALL", peer="worker1")], seed=5)
            assert plan.seed == 5
            async with rpc_cluster(2, options=options, faults=plan) as (a, b):
                assert a.get_rpc_timeout() == 7
                with pytest.raises(rpc.InjectedFaultError):
                    await a.rpc_async("worker1", where)
                assert await b.rpc_async("worker0", where) == ("worker0", "worker1")
            assert len(plan.events) == 1

        async def test_two_groups(rpc_cluster, kv_store):
            async with rpc_cluster(2) as (a, _), rpc_cluster(2) as (b, _), kv_store() as store:
                await asyncio.gather(a.shutdown(graceful=False), b.rpc_async("worker1", where))
                await store.set("a", "b")

        async def test_process_agent_is_another(rpc_cluster, kv_store):
            async with kv_store() as store:
                async with rpc.init_rpc("me", rank=0, world_size=1, store=store) as agent:
                    async with rpc_cluster(1) as (worker,):
                        assert await worker.rpc_async(0, where) == ("worker0", "worker0")
                    assert rpc.current_agent() is agent

        async def test_virtual_minutes(rpc_cluster, virtual_clock, fault_plan):
            plan = fault_plan([Fault("delay", message="PYTHON_CALL", delay=300)])
            began = time.monotonic()
            async with rpc_cluster(2, faults=plan, clock=virtual_clock) as (a, _):
                call = a.rpc_async("worker1", where, timeout=600)
                await virtual_clock.advance(299.5)
                assert not call.done()
                await virtual_clock.advance(0.5)
                assert call.result() == ("worker1", "worker0")
            assert virtual_clock.now() == 300 and time.monotonic() - began < 10
        """,
        ini=["rpc_leak_check = true"],
    )

    result.assert_outcomes(passed=10)


def test_failing_body(pytester: pytest.Pytester, mode: str) -> None:
    """An assertion that fails inside a group is what is reported, and nothing stays behind."""
    result = run(
        pytester,
        mode,
        """
        async def test_fails(rpc_cluster, virtual_clock):
            async with rpc_cluster(3, clock=virtual_clock) as workers:
                workers[0].rpc_notify("worker1", asyncio.sleep, args=(1000,))
                workers[1].rpc_notify("worker2", time.sleep, args=(0.2,))
                await workers[0].rpc_async("worker2", min, args=(1, 2))
                assert workers == []

        async def test_next(rpc_cluster):
            async with rpc_cluster(1) as (worker,):
                assert await worker.rpc_async("worker0", min, args=(1, 2)) == 1
        """,
        ini=["rpc_leak_check = true"],
    )

    result.assert_outcomes(failed=2, passed=2)
    result.stdout.fnmatch_lines(["E *assert * == ?]"])
    result.stdout.no_fnmatch_line("*never retrieved*")


def test_misuse(pytester: pytest.Pytester) -> None:
    """A wrong argument of a fixture is a clear error of the test that gives it."""
    result = run(
        pytester,
        "strict",
        """
        @pytest.mark.parametrize("n", [0, -1, "2", 2.0, None])
        async def test_number(rpc_cluster, n):
            async with rpc_cluster(n):
                pass

        async def test_faults(rpc_cluster):
            async with rpc_cluster(2, faults=Fault("drop")):
                pass

        async def test_clock(rpc_cluster):
            async with rpc_cluster(2, clock=time):
                pass

        async def test_plan(fault_plan):
            fault_plan(["drop"])

        async def test_proxy(chaos_proxy):
            async with chaos_proxy("127.0.0.1"):
                pass

        async def test_advance(virtual_clock):
            await virtual_clock.advance(-1)
        """,
    )

    result.assert_outcomes(failed=20)
    for message in (
        "n must be an int of at least 1, got 0",
        "n must be an int of at least 1, got '2'",
        "faults must be FaultPlan objects, got Fault(*",
        "clock must be a Clock, as VirtualClock is one, or None, got <module 'time'*",
        "rules must be Fault objects, got 'drop'",
        "target must be either a host and a port or a target_path",
        "seconds must be a finite number >= 0, got -1",
    ):
        result.stdout.fnmatch_lines([f"E  *ValueError: {message}"])


LEAKY = """
    kept = []

    def test_descriptor():
        os.dup(0)

    async def test_task():
        kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))

    async def test_thread():
        thread = threading.Thread(target=time.sleep, args=(8,), daemon=True, name="lingering")
        thread.start()

    @pytest.mark.rpc_leak_check(False)
    async def test_left_out():
        kept.append(asyncio.create_task(asyncio.Event().wait()))
        os.dup(0)

    async def test_tidy(rpc_cluster):
        async with rpc_cluster(2) as workers:
            await workers[0].rpc_async("worker1", min, args=(1, 2))
        await asyncio.to_thread(len, "x")
"""


def test_leak_check(pytester: pytest.Pytester, mode: str) -> None:
    """With the ini option what a test leaves is named, unless the test is left out."""
    result = run(pytester, mode, LEAKY, ini=["rpc_leak_check = true"])

    result.assert_outcomes(passed=7, failed=2, errors=3)
    for line in (
        "file descriptor: *",
        "task: <Task pending name='forgotten'*",
        "thread: lingering*",
    ):
        result.stdout.fnmatch_lines(["left behind:", line])


def test_checks_are_off_by_default(pytester: pytest.Pytester) -> None:
    """Without option or mark nothing is checked."""
    run(pytester, "strict", LEAKY).assert_outcomes(passed=9)


def test_marks(pytester: pytest.Pytester) -> None:
    """The marks act on their test alone; wrong arguments are named."""
    result = run(
        pytester,
        "strict",
        """
        @pytest.mark.rpc_leak_check
        def test_descriptor():
            os.dup(0)

        @pytest.mark.rpc_leak_check(3)
        def test_bad_flag(): pass

        @pytest.mark.rpc_timeout("soon")
        async def test_bad_limit(): pass

        @pytest.mark.rpc_timeout
        async def test_no_limit(): pass

        @pytest.mark.rpc_timeout(1, 2)
        async def test_two_limits(): pass

        @pytest.mark.rpc_timeout(second=1)
        async def test_other_limit(): pass

        def test_unchecked():
            os.dup(0)

        @pytest.mark.rpc_leak_check
        class TestClass:
            def test_in_a_class(self):
                os.dup(0)

            @pytest.mark.rpc_leak_check(enabled=False)
            def test_left_out(self):
                os.dup(0)
        """,
    )

    result.assert_outcomes(passed=4, failed=8, errors=3)
    for line in (
        "file descriptor: *",
        "rpc_leak_check(enabled) must be True or False, got 3",
        "rpc_timeout(seconds) must be a finite number above 0, got 'soon'",
        "rpc_timeout(seconds) must be a finite number above 0, got None",
        "rpc_timeout takes one argument, seconds, got Mark(name='rpc_timeout', args=(1, 2)*",
        "rpc_timeout takes one argument, seconds, got Mark(* kwargs={'second': 1})",
    ):
        result.stdout.fnmatch_lines([line])


def test_timeout(pytester: pytest.Pytester, mode: str) -> None:
    """A test that hangs fails with its stacks, on every loop, and the next one runs."""
    result = run(
        pytester,
        mode,
        """
        async def stuck_here():
            await asyncio.Event().wait()

        @pytest.mark.rpc_timeout(0.1)
        async def test_hangs():
            await stuck_here()

        async def test_hangs_by_ini(rpc_cluster):
            async with rpc_cluster(2) as workers:
                await workers[0].rpc_async("worker1", stuck_here, timeout=None)

        class TestMethods:
            @pytest.mark.rpc_timeout(seconds=5)
            async def test_in_time(self):
                await asyncio.sleep(0.3)

        def test_plain():
            time.sleep(0.3)
        """,
        ini=["rpc_timeout = 0.2"],
    )

    result.assert_outcomes(failed=4, passed=3)
    result.stdout.fnmatch_lines(["still running after 0.1 s", "*in stuck_here"])
    result.stdout.fnmatch_lines(["still running after 0.2 s", "*in stuck_here"])


def test_hypothesis(pytester: pytest.Pytester, mode: str) -> None:
    """The limit holds for each example of a property test."""
    result = run(
        pytester,
        mode,
        """
        from hypothesis import given, settings, strategies as st

        @pytest.mark.rpc_timeout(0.1)
        @settings(max_examples=5, deadline=None, database=None)
        @given(st.integers(0, 3))
        async def test_property(n):
            await asyncio.Event().wait()
        """,
    )

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*still running after 0.1 s"])


def test_in_property_tests_and_wider_fixtures(pytester: pytest.Pytester, mode: str) -> None:
    """The factories have no state, so they may be used wherever pytest allows it."""
    result = run(
        pytester,
        mode,
        """
        from hypothesis import given, settings, strategies as st

        @pytest.fixture(scope="module")
        def group(rpc_cluster, fault_plan):
            return lambda n: rpc_cluster(n, faults=fault_plan([]))

        @settings(max_examples=3, deadline=None, database=None)
        @given(n=st.integers(1, 3))
        async def test_property(rpc_cluster, n):
            async with rpc_cluster(n) as workers:
                assert n == len(workers)

        async def test_wider(group):
            async with group(2) as workers:
                assert 2 == len(workers)
        """,
    )

    result.assert_outcomes(passed=4)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_bad_ini_option(pytester: pytest.Pytester, value: str) -> None:
    """A bad option ends the run at once and is named."""
    result = run(pytester, "strict", "", ini=[f"rpc_timeout = {value}"])

    assert pytest.ExitCode.USAGE_ERROR == result.ret
    result.stderr.fnmatch_lines(
        [f"ERROR: ini option rpc_timeout must be a finite number of seconds above 0, got '{value}'"]
    )


@pytest.mark.parametrize("scope", ["module", "session"])
def test_loops_that_outlive_a_test(pytester: pytest.Pytester, scope: str) -> None:
    """A loop of several tests is not the first one's leak."""
    result = run(
        pytester,
        "strict",
        """
        async def test_first(kv_store):
            async with kv_store() as store:
                await store.set("a", "b")

        async def test_second():
            await asyncio.to_thread(len, "x")
        """,
        ini=["rpc_leak_check = true", f"asyncio_default_test_loop_scope = {scope}"],
    )

    result.assert_outcomes(passed=4)


def test_imported_before_pytest(tmp_path: Path) -> None:
    """Installed as a wheel, it may be imported before pytest runs, as in a notebook."""
    installed = tmp_path / "asyncrpc-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: asyncrpc\nVersion: 0.1.0\n")
    (installed / "RECORD").write_text("asyncrpc/__init__.py,,\nlauncher/__init__.py,,\n")
    (installed / "entry_points.txt").write_text("[pytest11]\nasyncrpc = asyncrpc.pytest_plugin\n")
    (tmp_path / "test_one.py").write_text("def test_one(kv_store): pass\n")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import asyncrpc, launcher, pytest\n"
        "sys.exit(pytest.main(['-q', '-W', 'error', '-p', 'no:asyncio', '-p', 'no:cacheprovider']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert 0 == done.returncode, done.stdout + done.stderr


def test_nothing_is_loaded_before_it_is_used(pytester: pytest.Pytester) -> None:
    """The plugin costs a run that does not use it nothing but its own module."""
    pytester.makepyfile(
        """
        import sys

        def test_modules():
            assert "asyncrpc.pytest_plugin" in sys.modules
            ours = {name for name in sys.modules if name.startswith("asyncrpc.")}
            assert ours == {"asyncrpc.pytest_plugin"}
            others = {"anyio", "msgpack", "multiprocessing", "uvloop"}
            if sys.version_info < (3, 14):  # its pdb, which pytest has, loads asyncio
                others.add("asyncio")
            assert not others & set(sys.modules)
        """
    )
    others = ("asyncio", "anyio", "timeout", "hypothesispytest")
    disabled = [word for name in others for word in ("-p", f"no:{name}")]
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *disabled)

    result.assert_outcomes(passed=1)


def test_importing_the_plugin_is_quick() -> None:
    """Importing it beside pytest takes a few milliseconds."""
    code = (
        "import pytest, time; start = time.perf_counter(); import asyncrpc.pytest_plugin; "
        "print(time.perf_counter() - start)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
        for _ in range(5)
    ]

    assert min(times) < 0.05
