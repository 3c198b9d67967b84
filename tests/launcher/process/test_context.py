"""launcher.process: workers started together, waited for together, ended together."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from launcher.errors import ChildFailedError, GuardianError, SignalException
from launcher.logs import DefaultLogsSpecs, Std
from launcher.process import (
    CommandContext,
    FunctionContext,
    Guardian,
    ProcessContext,
    RunProcsResult,
    start_processes,
    validate_full_rank,
)

pytestmark = pytest.mark.asyncio

Start = Callable[..., Awaitable[ProcessContext]]
FOREVER = "sleep 100"


async def seen(path: Path) -> None:
    """Return when a file exists."""
    while not path.exists():
        await asyncio.sleep(0.005)


async def end_of(context: ProcessContext) -> RunProcsResult:
    """Return the result of workers, waiting as long as it takes."""
    result = await context.wait()
    assert result is not None
    return result


def pids_alive(pids: dict[int, int]) -> list[int]:
    """Return those process ids that still belong to somebody, zombies included."""
    return [pid for pid in pids.values() if psutil.pid_exists(pid)]


# --- how they end


async def test_all_succeed(start: Start) -> None:
    """Commands return None each, and their processes are gone when wait returns."""
    context = await start("true", "true", "sleep 0.05")
    result = await end_of(context)

    assert result == RunProcsResult(
        {0: None, 1: None, 2: None}, {}, context.stdouts, context.stderrs
    )
    assert not result.is_failed()
    assert pids_alive(context.pids()) == []
    assert await context.wait() is result


LOST_PEER = "echo '    await x' >&2; echo 'asyncrpc.errors.PeerLostError: it is gone' >&2; exit 1"


async def test_a_worker_that_others_lost_gets_a_moment_to_end_by_itself(
    start: Start, tmp_path: Path
) -> None:
    """Then the rest is stopped at once."""
    victim = f"{LOST_PEER.removesuffix('exit 1')} touch {tmp_path}/lost; exit 1"
    late = f"while [ ! -e {tmp_path}/lost ]; do sleep 0.01; done; sleep 0.2; exit 7"
    result = await end_of(await start(victim, late, FOREVER))

    codes = {rank: failure.exitcode for rank, failure in result.failures.items()}
    assert codes == {0: 1, 1: 7, 2: -15}
    assert ChildFailedError("job", result.failures).get_first_failure()[0] == 1


async def test_a_worker_that_told_why_it_fails_gets_longer(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads end before it does, and take their time; others get the moment alone."""
    monkeypatch.setattr("launcher.process.base._CAUSE_GRACE", 0.05)
    victim = f"while [ ! -e {tmp_path}/told ]; do sleep 0.01; done; {LOST_PEER}"
    told = "echo 'Traceback (most recent call last):' >&2; echo 'ValueError: x' >&2"
    late = f"{told}; sleep 0.2; touch {tmp_path}/told; sleep 0.5; exit 7"
    result = await end_of(await start(victim, late, FOREVER))

    codes = {rank: failure.exitcode for rank, failure in result.failures.items()}
    assert codes == {0: 1, 1: 7, 2: -15}


async def test_a_worker_that_recorded_why_it_fails_is_to_blame(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it is stopped in the end, like those that are not."""
    monkeypatch.setattr("launcher.process.base._CAUSE_GRACE", 0.05)
    monkeypatch.setattr("launcher.process.base._LEAVING_GRACE", 0.05)
    victim = f"while [ ! -e {tmp_path}/told ]; do sleep 0.01; done; {LOST_PEER}"
    told = """echo '{"message": "ValueError: x"}' > $TORCHELASTIC_ERROR_FILE"""
    late = f"{told}; touch {tmp_path}/told; {FOREVER}"
    specs = DefaultLogsSpecs(tmp_path)
    result = await end_of(await start(victim, late, FOREVER, logs_specs=specs))
    rank, failure = ChildFailedError("job", result.failures).get_first_failure()

    assert (rank, failure.message, failure.exitcode) == (1, "ValueError: x", -15)
    assert [rank for rank, f in result.failures.items() if f.stopped_by_us] == [2]


async def test_a_worker_that_lost_a_peer_is_blamed_if_nobody_else_fails(start: Start) -> None:
    """The others are stopped when the moment is over."""
    result = await end_of(await start(LOST_PEER, FOREVER))

    codes = {rank: failure.exitcode for rank, failure in result.failures.items()}
    assert codes == {0: 1, 1: -15}
    assert ChildFailedError("job", result.failures).get_first_failure()[0] == 0


async def test_close_ends_the_moment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told to stop the workers does not wait for a cause."""
    monkeypatch.setattr("launcher.process.base._CAUSE_GRACE", 100.0)
    context = await start(LOST_PEER, FOREVER)
    while context.exits()[0] is None:
        await asyncio.sleep(0.005)
    assert await context.wait(0.05) is None
    await context.close()

    assert (await end_of(context)).failures[1].exitcode == -15


async def test_failure_stops_the_others(start: Start) -> None:
    """The failed worker is the root cause, its siblings are marked as stopped by us."""
    context = await start("exit 138", FOREVER, FOREVER)
    result = await end_of(context)

    codes = {rank: failure.exitcode for rank, failure in result.failures.items()}
    assert codes == {0: 138, 1: -15, 2: -15}
    assert [failure.stopped_by_us for failure in result.failures.values()] == [False, True, True]
    assert result.failures[0].pid == context.pids()[0]
    assert result.failures[0].signal_name() == "<N/A>"
    assert result.failures[1].signal_name() == "SIGTERM"
    assert result.return_values == {}
    assert ChildFailedError("job", result.failures).get_first_failure()[0] == 0
    assert pids_alive(context.pids()) == []


async def test_failure_by_signal(start: Start) -> None:
    """A crash is named by its signal."""
    result = await end_of(await start("kill -SEGV $$"))

    assert result.failures[0].exitcode == -signal.SIGSEGV
    assert result.failures[0].signal_name() == "SIGSEGV"
    assert "Signal 11 (SIGSEGV) received by PID" in result.failures[0].message


async def test_sibling_that_failed_by_itself_is_not_marked(start: Start, tmp_path: Path) -> None:
    """A worker that was dead before our signal failed on its own, however late we hear of it."""
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    context = await start(f"touch {tmp_path}/0; {wait}; exit 1", f"{wait}; exit 2")
    (tmp_path / "go").touch()
    time.sleep(0.1)  # the loop stands still while both end
    result = await end_of(context)

    assert {rank: failure.stopped_by_us for rank, failure in result.failures.items()} == {
        0: False,
        1: False,
    }


async def test_worker_that_ends_well_after_our_signal_is_no_failure(
    start: Start, tmp_path: Path
) -> None:
    """A handler that cleans up and exits with 0 has done what it was asked to."""
    script = f"trap 'exit 0' TERM; touch {tmp_path}/ready; while :; do sleep 0.01; done"
    context = await start(script)
    await seen(tmp_path / "ready")
    await context.close()

    assert (await end_of(context)).return_values == {0: None}


async def test_failure_has_the_error_file_and_the_last_lines(start: Start, tmp_path: Path) -> None:
    """TORCHELASTIC_ERROR_FILE is set to a path in the worker's own log folder."""
    error = json.dumps({"message": {"message": "boom", "extraInfo": {"timestamp": "1"}}})
    script = f"echo one >&2; echo two >&2; echo '{error}' > $TORCHELASTIC_ERROR_FILE; exit 1"
    context = await start(script, logs_specs=DefaultLogsSpecs(tmp_path))
    failure = (await end_of(context)).failures[0]

    (expected,) = tmp_path.glob("test_run_id_*/attempt_0/0/error.json")
    assert failure.error_file == str(expected) == context.error_files[0]
    assert failure.message == "boom"
    assert failure.stderr_tail == ("one", "two")


async def test_environment_of_a_worker(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours, overlaid by the worker's own."""
    monkeypatch.setenv("SENTINEL_A", "parent")
    monkeypatch.setenv("SENTINEL_B", "parent")
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.OUT)
    context = await start(
        "echo $SENTINEL_A $SENTINEL_B $LOCAL_RANK; pwd",
        logs_specs=specs,
        envs={0: {"SENTINEL_B": "worker", "LOCAL_RANK": "0"}},
    )
    await context.wait()

    assert Path(context.stdouts[0]).read_text() == f"parent worker 0\n{os.getcwd()}\n"


@pytest.mark.parametrize("redirects", list(Std))
async def test_redirected_streams(start: Start, tmp_path: Path, redirects: Std) -> None:
    """There is a file for a stream iff it is redirected, with this worker's lines."""
    specs = DefaultLogsSpecs(tmp_path, redirects=redirects)
    context = await start(*["echo out; echo err >&2"] * 2, logs_specs=specs)
    result = await end_of(context)

    for stream, paths, text in (
        (Std.OUT, result.stdouts, "out\n"),
        (Std.ERR, result.stderrs, "err\n"),
    ):
        texts = [Path(path).read_text() if path else None for path in paths.values()]
        assert texts == [text if redirects & stream else None] * 2


async def test_console_gets_the_rest(
    start: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is not redirected is shown on the same stream, with a prefix if it is teed."""
    specs = DefaultLogsSpecs(tmp_path, redirects={0: Std.ERR}, tee={1: Std.OUT})
    context = await start(
        *["echo out; echo err >&2"] * 2, logs_specs=specs, log_line_prefixes={0: "x", 1: "[one]:"}
    )
    await context.wait()

    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["[one]:out", "out"]
    assert err == "err\n"


@pytest.mark.parametrize("prefixes", [None, {0: "[rank0]:", 1: "[rank1]:"}])
async def test_duplicated_lines(
    start: Start,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    prefixes: dict[int, str] | None,
) -> None:
    """Lines with one of the texts are in one file as well, whether the stream is shown or not."""
    specs = DefaultLogsSpecs(tmp_path, redirects={0: Std.ALL})
    context = await start(
        *["echo helloA; echo helloB; echo worldA >&2; echo worldB >&2; echo C >&2"] * 2,
        logs_specs=specs,
        log_line_prefixes=prefixes,
        duplicate_stdout_filters=["helloA"],
        duplicate_stderr_filters=["worldA", "B"],
    )
    await context.wait()

    heads = [*(prefixes or {0: "[default0]:", 1: "[default1]:"}).values()]
    (folder,) = tmp_path.glob("*/attempt_0")
    out, err = folder / "filtered_stdout.log", folder / "filtered_stderr.log"
    assert (context.filtered_stdout, context.filtered_stderr) == (str(out), str(err))
    assert sorted(out.read_text().splitlines()) == [f"{head}helloA" for head in heads]
    assert sorted(err.read_text().splitlines()) == [
        f"{head}world{letter}" for head in heads for letter in "AB"
    ]
    assert Path(context.stdouts[0]).read_text() == "helloA\nhelloB\n"
    assert capfd.readouterr() == ("helloA\nhelloB\n", "worldA\nworldB\nC\n")


async def test_redirects_and_tees_by_rank(start: Start, tmp_path: Path) -> None:
    """A stream has a file if it is either, and none if it is neither."""
    specs = DefaultLogsSpecs(
        tmp_path, redirects={0: Std.ERR, 1: Std.NONE}, tee={0: Std.OUT, 1: Std.ERR}
    )
    context = await start(*["echo out; echo err >&2"] * 2, logs_specs=specs)
    result = await end_of(context)

    assert Path(result.stdouts[0]).read_text() == "out\n"
    assert [Path(result.stderrs[rank]).read_text() for rank in (0, 1)] == ["err\n"] * 2
    assert not result.stdouts[1]


async def test_one_text_is_no_list_of_texts(start: Start) -> None:
    """Its letters would be looked for."""
    with pytest.raises(ValueError, match="filters='abc': expected a list of texts"):
        await start("true", duplicate_stdout_filters="abc")


async def test_default_prefix(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    """Role and local rank."""
    context = await start("echo out", logs_specs=DefaultLogsSpecs(os.devnull, tee=Std.ALL))
    await context.wait()

    assert capfd.readouterr().out == "[default0]:out\n"


async def test_output_is_complete_when_wait_returns(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also what was written just before the end, by a process the worker left behind."""
    context = await start("(sleep 0.05; echo late) & exit 0")
    await context.wait()

    assert capfd.readouterr().out == "late\n"


@pytest.mark.slow
async def test_floods_of_two_workers_lose_and_mix_nothing(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two processes at full speed on one console: whole lines, each worker's in order."""
    count = 100_000
    script = f"import sys\nfor n in range({count}): sys.stdout.write(f'line {{n}}\\n')"
    specs = DefaultLogsSpecs(os.devnull, tee=Std.OUT)
    await (await start(script, script, python=True, logs_specs=specs)).wait()

    lines = capfd.readouterr().out.splitlines()
    for rank in (0, 1):
        prefix = f"[default{rank}]:"
        mine = [line for line in lines if line.startswith(prefix)]
        assert mine == [f"{prefix}line {number}" for number in range(count)]
    assert len(lines) == 2 * count


# --- waiting


async def test_wait_with_timeout(start: Start, tmp_path: Path) -> None:
    """Nothing comes back when the time is up; the workers run on."""
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    context = await start(wait)

    assert await context.wait(timeout=0.02, period=0.01) is None
    assert await context.wait(0) is None
    (tmp_path / "go").touch()
    assert not (await end_of(context)).is_failed()


async def test_poll_sees_the_end(start: Start) -> None:
    """wait(0) comes back with the result once there is one."""
    context = await start("true")
    while (result := await context.wait(0)) is None:
        await asyncio.sleep(0.005)

    assert not result.is_failed()


async def test_cancelled_wait_changes_nothing(start: Start) -> None:
    """The workers run on, and a later wait has the result."""
    context = await start(FOREVER)
    task = asyncio.create_task(context.wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await context.wait(0) is None
    await context.close()
    assert (await end_of(context)).failures[0].stopped_by_us


async def test_interrupt(start: Start) -> None:
    """A signal handler makes wait raise, now and later; the workers wait for close."""
    context = await start(FOREVER)
    task = asyncio.create_task(context.wait())
    await asyncio.sleep(0)
    context.interrupt(SignalException("told to stop", signal.SIGTERM))

    with pytest.raises(SignalException):
        await task
    with pytest.raises(SignalException):
        await context.wait(0)
    assert pids_alive(context.pids()) == [*context.pids().values()]


@pytest.mark.parametrize("way", ["argument", "variable", "default"])
async def test_signals_make_wait_raise(
    start: Start, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Those of the argument, else of the variable, else torchrun's four; until the workers end."""
    number = signal.SIGTERM if way == "default" else signal.SIGUSR1
    before = signal.getsignal(number)
    options = {"signals_to_handle": (number,)} if way == "argument" else {}
    if way == "variable":
        monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGUSR1")
    context = await start(FOREVER, **options)
    os.kill(os.getpid(), number)

    with pytest.raises(SignalException, match=number.name) as caught:
        await context.wait()

    assert caught.value.sigval is number
    assert pids_alive(context.pids()) == [*context.pids().values()]
    await context.close()
    assert signal.getsignal(number) == before


# --- closing


async def test_close_right_after_start(start: Start) -> None:
    """No process is left, and closing again does nothing."""
    context = await start(FOREVER, FOREVER)
    await context.close()

    assert pids_alive(context.pids()) == []
    await context.close()
    assert [failure.exitcode for failure in (await end_of(context)).failures.values()] == [-15, -15]


@pytest.mark.parametrize("kind", [CommandContext, FunctionContext])
async def test_a_context_is_started_once(kind: type[ProcessContext]) -> None:
    """One that never was can be closed, and nothing else."""
    entrypoint = "true" if kind is CommandContext else os.getpid
    one, other = (
        kind("r", entrypoint, {0: ()}, {0: {}}, DefaultLogsSpecs(os.devnull)) for _ in range(2)
    )
    with pytest.raises(RuntimeError, match="workers of r: expected to be started first"):
        await one.wait()
    await one.start()
    with pytest.raises(RuntimeError, match="workers of r: expected to be started once"):
        await one.start()
    async with other:
        pass
    with pytest.raises(RuntimeError, match="and not closed"):
        await other.start()

    assert (one.nprocs, other.pids()) == (1, {})
    assert not (await end_of(one)).is_failed()


async def test_leaving_the_context_closes(start: Start) -> None:
    """Also when the body fails."""
    context = await start(FOREVER)
    with pytest.raises(RuntimeError, match="body"):
        async with context:
            raise RuntimeError("body")

    assert pids_alive(context.pids()) == []


@pytest.mark.parametrize(
    ("given", "sent"), [(signal.SIGINT, signal.SIGINT), (None, signal.SIGTERM)]
)
async def test_close_sends_the_signal_it_is_given(
    given: signal.Signals | None, sent: signal.Signals
) -> None:
    """Any signal may be forwarded; SIGTERM if none is given."""
    context = await start_processes(
        "default", "sleep", {0: ("100",)}, {0: {}}, DefaultLogsSpecs(os.devnull)
    )
    await context.close(given)

    assert (await end_of(context)).failures[0].exitcode == -sent


async def test_workers_that_ignore_the_signal_are_killed_at_the_deadline(
    start: Start, tmp_path: Path
) -> None:
    """All of them share one deadline."""
    script = "trap '' TERM; touch {}; while :; do sleep 100; done"
    context = await start(*(script.format(tmp_path / str(rank)) for rank in range(3)))
    for rank in range(3):
        await seen(tmp_path / str(rank))
    started = time.monotonic()
    await context.close(timeout=0.1)

    assert 0.1 <= time.monotonic() - started < 2
    codes = [failure.exitcode for failure in (await end_of(context)).failures.values()]
    assert codes == [-signal.SIGKILL] * 3


async def test_second_close_means_now(start: Start, tmp_path: Path) -> None:
    """Whoever is asked twice does not wait for the deadline."""
    context = await start(f"trap '' TERM; touch {tmp_path}/0; while :; do sleep 100; done")
    await seen(tmp_path / "0")
    first = asyncio.create_task(context.close(timeout=60))
    await asyncio.sleep(0.01)
    assert not first.done()
    await context.close()
    await first

    assert (await end_of(context)).failures[0].exitcode == -signal.SIGKILL


async def test_second_close_also_ends_the_wait_for_leftovers(start: Start, tmp_path: Path) -> None:
    """A grandchild in the worker's group has the rest of the time, unless somebody insists."""
    child = f"trap '' TERM; touch {tmp_path}/0; while :; do sleep 100; done"
    context = await start(f"({child}) & sleep 100")
    await seen(tmp_path / "0")
    first = asyncio.create_task(context.close(timeout=60))
    while pids_alive(context.pids()):
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    assert not first.done()
    await context.close()
    await first


async def test_close_during_a_stop_of_our_own_shortens_it(start: Start, tmp_path: Path) -> None:
    """The earliest deadline counts."""
    stubborn = f"trap '' TERM; touch {tmp_path}/0; while :; do sleep 100; done"
    wait = f"while [ ! -e {tmp_path}/0 ]; do sleep 0.01; done"
    context = await start(stubborn, f"{wait}; exit 1", shutdown_timeout=60)
    while len(pids_alive(context.pids())) == 2:
        await asyncio.sleep(0.005)
    await context.close(timeout=0.05)

    codes = {rank: failure.exitcode for rank, failure in (await end_of(context)).failures.items()}
    assert codes == {0: -signal.SIGKILL, 1: 1}


@pytest.mark.slow
async def test_grandchildren_are_gone_too(start: Start, tmp_path: Path) -> None:
    """In the worker's group, in a session of their own, ignoring SIGTERM: none is left."""
    children = (
        "sleep 100",
        "setsid sleep 100",
        "setsid sh -c 'trap \"\" TERM; sleep 100; true'",
    )
    script = "; ".join(f"{child} & echo $! >> {tmp_path}/pids" for child in children)
    context = await start(f"{script}; touch {tmp_path}/ready; exit 1")
    await context.wait()

    pids = dict(enumerate(map(int, (tmp_path / "pids").read_text().split())))
    assert len(pids) == 3
    assert pids_alive(pids) == []


@pytest.mark.slow
async def test_nothing_leaks_over_many_rounds(tmp_path: Path) -> None:
    """Descriptors, children and tasks are as before after 50 rounds with one guardian."""
    guardian = Guardian.start()
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.OUT, tee=Std.ERR)

    async def one_round() -> None:
        context = await start_processes(
            "r", "sleep", {0: ("100",), 1: ("100",)}, {0: {}, 1: {}}, specs, guardian=guardian
        )
        await context.close()

    await one_round()
    before = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{guardian.pid}/fd"))
    for _ in range(50):
        await one_round()

    after = len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{guardian.pid}/fd"))
    assert after == before
    assert psutil.Process(guardian.pid).children() == []
    assert len(list(Path(specs.root_log_dir or "").iterdir())) == 51
    await guardian.close()


# --- what cannot be started


@pytest.mark.parametrize("ranks", [[], [1], [0, 2], [0, 1, 2]])
async def test_validate_full_rank(ranks: list[int]) -> None:
    """The message names the argument, the ranks there are and those there should be."""
    with pytest.raises(RuntimeError, match=rf"what must have .* \[0, 1\], got \{ranks}"):
        validate_full_rank(dict.fromkeys(ranks), 2, "what")


async def test_no_workers() -> None:
    """An empty group is an error, not a success."""
    with pytest.raises(RuntimeError, match="args"):
        await start_processes("default", "true", {}, {}, DefaultLogsSpecs(os.devnull))


@pytest.mark.parametrize("count", [1, 3])
async def test_environments_for_other_ranks(count: int) -> None:
    """Both must be for the same ranks."""
    with pytest.raises(RuntimeError, match="envs must have the local ranks"):
        await start_processes(
            "default",
            "true",
            {0: (), 1: ()},
            {rank: {} for rank in range(count)},
            DefaultLogsSpecs(os.devnull),
        )


async def test_prefixes_for_other_ranks(start: Start) -> None:
    """So must the prefixes."""
    with pytest.raises(RuntimeError, match="log_line_prefixes"):
        await start("true", log_line_prefixes={1: ""})


async def test_missing_program_leaves_nothing() -> None:
    """The error is FileNotFoundError, and no guardian stays."""
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        await start_processes(
            "default",
            "no-such-program",
            {0: (), 1: ()},
            {0: {}, 1: {}},
            DefaultLogsSpecs(os.devnull),
        )

    assert psutil.Process().children() == []


async def test_one_worker_that_cannot_start_takes_the_others_back(guardian: Guardian) -> None:
    """Workers that were started before the failure are gone when it is raised."""
    envs = {0: {}, 1: {"PATH": "/nonexistent"}}
    with pytest.raises(FileNotFoundError):
        await start_processes(
            "default",
            "sleep",
            {0: ("100",), 1: ("100",)},
            envs,
            DefaultLogsSpecs(os.devnull),
            guardian=guardian,
        )

    assert psutil.Process(guardian.pid).children() == []


async def test_a_shortage_halfway_takes_the_others_back(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """The error says which worker it was and what there is no more of; nobody is left."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 60, hard))
    try:
        with pytest.raises(OSError, match=r"worker \d+ of 100 could not be started: Too many open"):
            await start(*[FOREVER] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
    gc.collect()  # an error that nobody took is logged when its future goes

    assert psutil.Process().children() == []
    assert caplog.records == []


async def test_log_folder_that_is_a_file_starts_nothing(start: Start, tmp_path: Path) -> None:
    """It is a NotADirectoryError, also when the file turned up late."""
    specs = DefaultLogsSpecs(tmp_path / "logs")
    (tmp_path / "logs").touch()
    with pytest.raises(NotADirectoryError):
        await start("true", logs_specs=specs)

    assert psutil.Process().children() == []


# --- the guardian


async def test_context_without_guardian_ends_its_own(start: Start) -> None:
    """Nobody has to call close after a result."""
    context = await start("true")
    await context.wait()

    assert psutil.Process().children() == []


@pytest.mark.slow
async def test_guardian_is_shared_by_one_context_after_another(
    guardian: Guardian, start: Start
) -> None:
    """A restart costs no new guardian, and leftovers of a round do not see the next."""
    for _ in range(2):
        context = await start("setsid sleep 100 & exit 0", guardian=guardian)
        await context.wait()
        assert psutil.Process(guardian.pid).children() == []


async def test_death_of_the_guardian_is_an_error(start: Start) -> None:
    """The wait says why, and the workers are dead."""
    guardian = Guardian.start()
    context = await start(FOREVER, FOREVER, guardian=guardian)
    os.kill(guardian.pid, signal.SIGKILL)

    with pytest.raises(GuardianError, match="signal 9"):
        await context.wait()
    await guardian.close()


@pytest.mark.slow
async def test_guardian_that_hangs_is_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing is bounded even if nobody answers, and the workers die with their parent."""
    monkeypatch.setattr("launcher.process.termination.KILL_TIMEOUT", 0.2)
    monkeypatch.setattr("launcher.process.base.KILL_TIMEOUT", 0.2)
    monkeypatch.setattr("launcher.process.guardian.client._CLOSE_TIMEOUT", 0.2)
    context = await start(FOREVER)
    (guardian,) = psutil.Process().children()
    guardian.suspend()
    await context.close(timeout=0.1)

    with pytest.raises(GuardianError, match="signal 9"):
        await context.wait()
    assert psutil.Process().children() == []
