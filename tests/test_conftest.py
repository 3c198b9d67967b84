"""The rules that tests/conftest.py lays on every test, seen from a suite that breaks them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """Return an empty test directory under this suite's conftest, with a short settling time."""
    source = CONFTEST.read_text().replace("SETTLE = 2.0", "SETTLE = 0.05")
    pytester.makeconftest(source)
    pytester.makeini(
        "[pytest]\nasyncio_mode = strict\nasyncio_default_fixture_loop_scope = function\n"
        "timeout_method = thread\n"
    )
    return pytester


def run(suite: pytest.Pytester, source: str, *args: str) -> pytest.RunResult:
    """Run the source as a test module in a process of its own."""
    suite.makepyfile(source)
    return suite.runpytest_subprocess("-p", "no:cacheprovider", *args)


def test_async_tests_run_on_both_loops(suite: pytest.Pytester) -> None:
    """An async test has a variant on the stock loop in debug mode and one on uvloop."""
    result = run(
        suite,
        """
        import asyncio, pytest, uvloop

        @pytest.mark.asyncio
        async def test_loop(request):
            loop = asyncio.get_running_loop()
            if "asyncio" in request.node.name:
                assert isinstance(loop, asyncio.SelectorEventLoop) and loop.get_debug()
            else:
                assert isinstance(loop, uvloop.Loop)

        @pytest.mark.asyncio
        async def test_tidy():
            task = asyncio.create_task(asyncio.sleep(0))
            reader, writer = await asyncio.open_unix_connection(sock=None, path=await served())
            writer.close()
            await writer.wait_closed()
            server.close()
            await asyncio.to_thread(len, "x")

        async def served():
            global server
            server = await asyncio.start_unix_server(lambda r, w: w.close(), "socket")
            return "socket"
        """,
        "-v",
    )

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines_random(["*test_loop?asyncio?*", "*test_loop?uvloop?*"])


def test_leaks_in_the_loop_fail(suite: pytest.Pytester) -> None:
    """A task that is left and an error only the loop heard of fail the test that caused them."""
    result = run(
        suite,
        """
        import asyncio, pytest
        kept = []

        @pytest.mark.asyncio
        async def test_task():
            kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten"))

        @pytest.mark.asyncio
        async def test_callback():
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)
        """,
    )

    result.assert_outcomes(passed=4, errors=4)
    result.stdout.fnmatch_lines(["*tasks left in the loop*", "*forgotten*"])
    result.stdout.fnmatch_lines(["*errors reported to the loop*", "*ZeroDivisionError*"])


def test_leaks_of_the_process_fail(suite: pytest.Pytester) -> None:
    """Descriptors, threads, children, shared memory and orphans that are left fail the test."""
    result = run(
        suite,
        """
        import os, pathlib, subprocess, sys, threading, time

        def test_descriptor():
            os.dup(0)

        def test_thread():
            threading.Thread(target=time.sleep, args=(0.5,), name="lingering", daemon=True).start()

        def test_child():
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"]).__del__ = None

        def test_shared_memory():
            path = pathlib.Path("/dev/shm") / f"asyncrpc-conftest-{os.getpid()}"
            path.touch()
            import atexit; atexit.register(path.unlink)

        def test_orphan():
            code = "import os, time; os.fork() or (os.setsid(), time.sleep(1.5))"
            subprocess.run([sys.executable, "-c", code], check=True)
        """,
        "-W",
        "ignore",
    )

    result.assert_outcomes(passed=5, errors=5)
    for kind in ("file descriptor", "thread: lingering", "child process", "shared memory"):
        result.stdout.fnmatch_lines([f"*{kind}*"])
    result.stdout.fnmatch_lines(["*left behind by the module*", "*os.setsid*"])


def test_a_test_that_hangs_fails_with_its_stacks(suite: pytest.Pytester) -> None:
    """A test that does not end fails alone, an async one on both loops and with all its tasks."""
    result = run(
        suite,
        """
        import asyncio, pytest, time
        pytestmark = pytest.mark.timeout(1)

        def test_sleeps():
            time.sleep(10)

        async def stuck_here():
            await asyncio.Event().wait()

        @pytest.mark.asyncio
        async def test_hangs():
            await stuck_here()

        @pytest.mark.asyncio
        async def test_swallows_the_cancel():
            try:
                await stuck_here()
            except asyncio.CancelledError:
                pass
        """,
    )

    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines(["*still running after 0.5 s*", "*in stuck_here", "*in wait"])
