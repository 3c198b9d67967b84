"""launcher.process.function: functions in processes of their own, and what they return."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from launcher.logs import DefaultLogsSpecs, LogsSpecs, Std
from launcher.process import (
    FunctionContext,
    Guardian,
    ProcessContext,
    RunProcsResult,
    start_processes,
)
from tests.launcher.process import functions

pytestmark = pytest.mark.slow

Call = Callable[..., Awaitable[ProcessContext]]


@pytest.fixture(autouse=True, scope="module")
def no_tracker() -> Iterator[None]:
    """End what was started for locks: other modules count the children of this process."""
    yield
    gc.collect()
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture(params=["spawn", "fork", "forkserver"])
def method(request: pytest.FixtureRequest) -> str:
    """Return each start method."""
    return str(request.param)


@pytest_asyncio.fixture
async def call(method: str) -> AsyncIterator[Call]:
    """Return a function that starts a worker for each tuple of arguments."""
    contexts: list[ProcessContext] = []

    async def call(
        function: Callable[..., object],
        *args: tuple[object, ...],
        logs_specs: LogsSpecs | None = None,
        envs: dict[int, dict[str, str]] | None = None,
        **options: object,
    ) -> ProcessContext:
        context = await start_processes(
            "trainer",
            function,
            dict(enumerate(args)),
            envs or {rank: {} for rank in range(len(args))},
            logs_specs or DefaultLogsSpecs(os.devnull, redirects=Std.ALL),
            start_method=method,
            **options,  # type: ignore[arg-type]  # passed through as given
        )
        contexts.append(context)
        return context

    yield call
    for context in contexts:
        await context.close(timeout=0)
    contexts.clear()
    gc.collect()  # what arguments hold, such as locks, goes with the contexts


async def end_of(context: ProcessContext) -> RunProcsResult:
    """Return the result, after every worker's process is gone."""
    result = await context.wait()
    assert result is not None
    assert [pid for pid in context.pids().values() if psutil.pid_exists(pid)] == []
    return result


async def seen(path: Path) -> None:
    """Return when a file exists."""
    while not path.exists():
        await asyncio.sleep(0.005)


# --- what comes back


@pytest.mark.asyncio
async def test_values_by_rank(call: Call) -> None:
    """Each worker has its own arguments."""
    context = await call(functions.echo, ("hello_0",), ("hello_1",))

    assert isinstance(context, FunctionContext)
    result = await end_of(context)
    assert result.return_values == {0: "hello_0", 1: "hello_1"}
    assert result.exit_codes == {0: 0, 1: 0}
    assert await context.wait() is result


@pytest.mark.asyncio
async def test_a_function_without_result(call: Call) -> None:
    """Returns None, for each rank."""
    assert (await end_of(await call(functions.nothing, (), ()))).return_values == {0: None, 1: None}


@pytest.mark.asyncio
async def test_a_coroutine_function_is_run(call: Call) -> None:
    """In a loop of its own."""
    assert (await end_of(await call(functions.later, ("x",)))).return_values == {0: "x"}


@pytest.mark.asyncio
async def test_large_results_do_not_fill_a_pipe(call: Call) -> None:
    """Four tables of 200 000 entries come back while the workers run."""
    size = 200_000
    result = await end_of(await call(functions.table, *[(size,)] * 4))

    expected = functions.table(size)
    assert [value == expected for value in result.return_values.values()] == [True] * 4


@pytest.mark.asyncio
async def test_an_array_comes_back_intact(call: Call) -> None:
    """Its buffer travels beside the pickle, and belongs to the receiver."""
    value = (await end_of(await call(functions.array, (1_000_000,)))).return_values[0]

    assert (value == functions.array(1_000_000)).all()
    assert value.flags.writeable  # type: ignore[attr-defined]


@pytest.mark.asyncio
async def test_environment_and_session(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours overlaid by the worker's own; each leads a session; pids are those of the workers."""
    monkeypatch.setenv("SENTINEL", "parent")
    context = await call(functions.environment, (), envs={0: {"LOCAL_RANK": "0"}})

    assert (await end_of(context)).return_values == {0: ("parent", "0", context.pids()[0])}


@pytest.mark.parametrize("redirects", list(Std))
@pytest.mark.asyncio
async def test_redirected_streams(call: Call, tmp_path: Path, redirects: Std) -> None:
    """There is a file for a stream iff it is redirected, with this worker's lines."""
    specs = DefaultLogsSpecs(tmp_path, redirects=redirects)
    result = await end_of(await call(functions.echo, ("hello 0",), ("hello 1",), logs_specs=specs))

    assert result.return_values == {0: "hello 0", 1: "hello 1"}
    for stream, paths in ((Std.OUT, result.stdouts), (Std.ERR, result.stderrs)):
        texts = [Path(path).read_text() if path else None for path in paths.values()]
        assert texts == (["hello 0\n", "hello 1\n"] if redirects & stream else [None, None])


@pytest.mark.asyncio
async def test_teed_output_has_the_prefix(call: Call, capfd: pytest.CaptureFixture[str]) -> None:
    """What a function prints takes the way of a program's output."""
    specs = DefaultLogsSpecs(os.devnull, tee=Std.OUT, redirects=Std.ERR)
    await end_of(await call(functions.echo, ("hello",), logs_specs=specs))

    assert capfd.readouterr().out == "[trainer0]:hello\n"


def test_functions_from_another_thread(method: str) -> None:
    """Where signals cannot be handled: everything else works."""

    async def run() -> RunProcsResult:
        context = await start_processes(
            "trainer",
            functions.echo,
            {0: (1,)},
            {0: {}},
            DefaultLogsSpecs(os.devnull, redirects=Std.ALL),
            start_method=method,
        )
        return await end_of(context)

    results: list[RunProcsResult] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(run())))
    thread.start()
    thread.join(20)

    assert [result.return_values for result in results] == [{0: 1}]


# --- failures


@pytest.mark.asyncio
async def test_an_exception(call: Call, tmp_path: Path) -> None:
    """One failure, nothing returned; error file and failure agree, the stopped one is not named."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ERR)
    context = await call(functions.fail_or_wait, (True,), (False,), logs_specs=specs)
    result = await end_of(context)

    assert (result.return_values, list(result.failures)) == ({}, [0])
    assert result.exit_codes == {0: 1, 1: -signal.SIGTERM}
    failure = result.failures[0]
    (file,) = tmp_path.glob("test_run_id_*/attempt_0/0/error.json")
    assert (failure.exitcode, failure.signal_name()) == (1, "<N/A>")
    assert (failure.pid, failure.error_file) == (context.pids()[0], str(file))
    assert failure.message == "RuntimeError: boom"
    recorded = json.loads(file.read_text())["message"]["extraInfo"]["timestamp"]
    assert int(recorded) == int(failure.timestamp)
    assert "in fail_or_wait" in failure.traceback()
    assert "bootstrap" not in failure.traceback()
    assert Path(result.stderrs[0]).read_text() == failure.traceback()


@pytest.mark.asyncio
async def test_without_a_log_folder_the_end_of_stderr_tells(call: Call) -> None:
    """Nothing is written anywhere, and still the cause is known."""
    failure = (await end_of(await call(functions.fail, ("why",)))).failures[0]

    assert failure.error_file == "<N/A>"
    assert failure.stderr_tail[-1] == "RuntimeError: why"


@pytest.mark.parametrize(("given", "status"), [(138, 138), ("text", 1), (-1, 255)])
@pytest.mark.asyncio
async def test_an_exit_with_a_status(
    call: Call, tmp_path: Path, given: object, status: int
) -> None:
    """As of a script; no error file, since there is nothing to explain."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ALL)
    result = await end_of(await call(functions.leave, (given,), logs_specs=specs))

    failure = result.failures[0]
    assert failure.exitcode == status
    assert failure.error_file == "<N/A>"
    assert failure.error_file_data == {"message": "<NONE>"}
    assert "https://pytorch.org/docs/stable/elastic/errors.html" in failure.message
    assert f"exit {given}" in Path(result.stderrs[0]).read_text()


@pytest.mark.asyncio
async def test_an_exit_with_zero_is_no_failure(call: Call) -> None:
    """sys.exit() returns None."""
    assert (await end_of(await call(functions.leave, (0,)))).return_values == {0: None}


@pytest.mark.asyncio
async def test_a_crash(call: Call, tmp_path: Path) -> None:
    """It is named by its signal, and stderr has the Python stack."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ERR)
    result = await end_of(await call(functions.crash, (), logs_specs=specs))
    failure = result.failures[0]

    assert failure.signal_name() == "SIGSEGV"
    assert "Signal 11 (SIGSEGV) received by PID" in failure.message
    assert "in crash" in Path(result.stderrs[0]).read_text()


@pytest.mark.asyncio
async def test_a_result_that_cannot_be_pickled(call: Call, tmp_path: Path) -> None:
    """The function is named, and what is wrong with its value."""
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.ALL)
    failure = (await end_of(await call(functions.lock, (), logs_specs=specs))).failures[0]

    assert failure.exitcode == 1
    assert "what lock returned cannot be pickled: cannot pickle '_thread.lock'" in failure.message


@pytest.mark.asyncio
async def test_a_result_that_cannot_be_unpickled(call: Call) -> None:
    """A failure like any other, though the worker did all it could."""
    result = await end_of(await call(functions.only_here, ()))

    assert result.return_values == {}
    assert result.failures[0].message == (
        "what only_here returned cannot be unpickled here: LookupError: made in another process"
    )


@pytest.mark.asyncio
async def test_an_end_before_the_function_returned(call: Call) -> None:
    """Status 0 alone is no result."""
    result = await end_of(await call(functions.exit_at_once, ()))

    assert result.failures[0].message.startswith("exit_at_once never returned")


@pytest.mark.asyncio
async def test_memory_that_runs_out(call: Call) -> None:
    """Under a limit of the process, Python says so itself."""
    failure = (await end_of(await call(functions.hog, ()))).failures[0]

    assert failure.exitcode == 1
    assert failure.stderr_tail[-1] == "MemoryError"


# --- closing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.asyncio
async def test_close_stops_functions(call: Call, tmp_path: Path, number: signal.Signals) -> None:
    """By the signal that is given, without a traceback on the way."""
    context = await call(functions.wait, (str(tmp_path / "ready"),))
    await seen(tmp_path / "ready")
    await context.close(number)
    failure = (await end_of(context)).failures[0]

    assert (failure.exitcode, failure.stopped_by_us) == (-number, True)
    assert failure.stderr_tail == ()


@pytest.mark.asyncio
async def test_close_right_after_start(call: Call, tmp_path: Path) -> None:
    """Nobody is left, however little of the worker there was."""
    context = await call(functions.wait, (str(tmp_path / "0"),), (str(tmp_path / "1"),))
    await context.close()

    await end_of(context)


@pytest.mark.asyncio
async def test_a_function_that_ignores_the_signal(call: Call, tmp_path: Path) -> None:
    """Is killed at the deadline."""
    context = await call(functions.ignore_and_wait, (str(tmp_path / "ready"),))
    await seen(tmp_path / "ready")
    await context.close(timeout=0.1)

    assert (await end_of(context)).failures[0].exitcode == -signal.SIGKILL


# --- starting


@pytest.mark.asyncio
async def test_queues_and_events_of_multiprocessing_travel(call: Call, method: str) -> None:
    """They may be arguments, as for its own processes."""
    made = multiprocessing.get_context(method)
    queue, event = made.SimpleQueue(), made.Event()
    context = await call(functions.put, (queue, event), (queue, event))
    event.set()
    await end_of(context)

    assert {queue.get(), queue.get()} == set(context.pids().values())
    queue.close()


@pytest.mark.asyncio
async def test_nothing_leaks_over_many_rounds(call: Call) -> None:
    """Descriptors and children are as before after ten rounds, closed early and run to the end."""

    async def one_round() -> None:
        await end_of(await call(functions.nothing, ()))
        await (await call(functions.wait, ("/dev/null",))).close()

    await one_round()
    before = sorted(os.listdir("/proc/self/fd")), psutil.Process().children()
    for _ in range(10):
        await one_round()

    assert (sorted(os.listdir("/proc/self/fd")), psutil.Process().children()) == before


@pytest.mark.asyncio
async def test_no_descriptor_stays_open(call: Call) -> None:
    """Neither after success nor when nothing could be started."""
    await end_of(await call(functions.nothing, ()))
    before = sorted(os.listdir("/proc/self/fd"))
    await end_of(await call(functions.nothing, (), ()))
    with pytest.raises(NotADirectoryError):
        await call(functions.nothing, (), logs_specs=DefaultLogsSpecs("/etc/hostname/logs"))

    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.asyncio
async def test_what_cannot_be_sent_starts_nothing() -> None:
    """The error says what it is."""
    before = psutil.Process().children()
    for function, args, what in (
        (lambda: None, (), "entrypoint <function"),
        (functions.echo, (lambda: None,), r"arguments \(<function"),
    ):
        with pytest.raises(pickle.PicklingError, match=what):
            await start_processes("x", function, {0: args}, {0: {}}, DefaultLogsSpecs(os.devnull))

    assert psutil.Process().children() == before


@pytest.mark.asyncio
async def test_a_fork_needs_no_pickle(tmp_path: Path) -> None:
    """It has this process's memory; what we have not written yet, it does not write again."""
    print("once")
    secret = object()
    context = await start_processes(
        "trainer",
        lambda given: given is secret,
        {0: (secret,)},
        {0: {}},
        DefaultLogsSpecs(tmp_path, redirects=Std.OUT),
        start_method="fork",
    )

    result = await end_of(context)
    assert result.return_values == {0: True}
    assert Path(result.stdouts[0]).read_text() == ""


@pytest.mark.asyncio
async def test_a_fork_server_imports_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers have the modules it has imported, from one process."""
    source = "import os\nmaker = os.getpid()\ndef who(): return maker, os.getppid()\n"
    (tmp_path / "served.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    context = await start_processes(
        "trainer",
        __import__("served").who,
        {0: (), 1: ()},
        {0: {}, 1: {}},
        DefaultLogsSpecs(os.devnull),
        start_method="forkserver",
    )

    first, second = (await end_of(context)).return_values.values()
    assert first == second
    assert len({*first}) == 1  # type: ignore[misc]


@pytest.mark.asyncio
async def test_modules_that_fail_to_load_fail_each_worker(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import's own traceback is told, and no start method hangs over it."""
    if method == "fork":
        pytest.skip("imports nothing")
    (tmp_path / "broken.py").write_text("def f(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = __import__("broken").f
    (tmp_path / "broken.py").write_text("def f(:\n")
    context = await start_processes(
        "trainer",
        function,
        {0: ()},
        {0: {}},
        DefaultLogsSpecs(tmp_path, redirects=Std.ALL),
        start_method=method,
    )

    failure = (await end_of(context)).failures[0]
    assert failure.message == "SyntaxError: invalid syntax (broken.py, line 1)"
    assert "def f(:" in failure.traceback()


@pytest.mark.asyncio
async def test_an_unknown_start_method() -> None:
    """The three that there are, are named."""
    with pytest.raises(ValueError, match="start_method='x': expected one of spawn, fork, fork"):
        await start_processes(
            "x", functions.nothing, {0: ()}, {0: {}}, DefaultLogsSpecs(os.devnull), None, "x"
        )


@pytest.mark.asyncio
async def test_a_shared_guardian_serves_functions(guardian: Guardian, call: Call) -> None:
    """One context after another."""
    for _ in range(2):
        context = await call(functions.nothing, (), guardian=guardian)
        assert (await end_of(context)).return_values == {0: None}
    assert psutil.pid_exists(guardian.pid)
