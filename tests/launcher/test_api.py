"""`launcher.api`: launching from a program, in a loop and without one."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import launcher
from launcher import (
    ChildFailedError,
    LaunchConfig,
    SignalException,
    UsageError,
    elastic_launch,
    get_entrypoint_name,
    launch_agent,
    metrics,
)
from launcher.logs import DefaultLogsSpecs, Std
from tests.launcher import functions

slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's secret and temporary files of the tests to themselves."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ASYNCRPC_SECRET_FILE", raising=False)


def shell(command: str) -> tuple[str, str]:
    """Return the arguments that make sh run a command."""
    return ("-c", command)


@pytest.mark.parametrize(
    ("entrypoint", "args", "expected"),
    [
        ("train.sh", ("x",), "train.sh"),
        (sys.executable, ("-u", "train.py", "-x"), "train.py"),
        (sys.executable, ("-u", "-m", "pkg"), "pkg"),
        (sys.executable, ("-u",), ""),
        (None, (), ""),
        (shell, (1,), "shell"),
    ],
)
def test_a_launch_is_named_after_what_runs(
    entrypoint: Callable[..., object] | str | None, args: tuple[str, ...], expected: str
) -> None:
    """Python itself is no name."""
    assert get_entrypoint_name(entrypoint, args) == expected


def test_the_front_door_has_what_it_lists() -> None:
    """Every public name can be loaded, and no other."""
    assert [name for name in launcher.__all__ if not hasattr(launcher, name)] == []
    assert set(launcher.__all__) <= set(dir(launcher))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        launcher.nothing  # noqa: B018


@slow
@pytest.mark.asyncio
async def test_values_are_keyed_by_rank() -> None:
    """A command returns nothing, for each rank."""
    values = await launch_agent(LaunchConfig(1, 1, 2), "sh", shell("exit 0"))

    assert values == {0: None, 1: None}


@slow
@pytest.mark.asyncio
async def test_a_config_serves_several_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own folders; what the config says of metrics is handed on each time."""
    given: list[dict[str, str]] = []
    monkeypatch.setattr(metrics, "initialize_metrics", lambda cfg: given.append(cfg.params))
    launch = elastic_launch(LaunchConfig(1, 1, 1, metrics_cfg={"a": "b"}), "sh")
    paths = [
        result.log_paths[0]["error"]
        for result in await asyncio.gather(*(launch.run(*shell("exit 1")) for _ in range(2)))
    ]

    assert len({Path(path).parents[3] for path in paths}) == 2
    assert given == [{"a": "b"}] * 2


@slow
@pytest.mark.asyncio
async def test_failures_are_raised_by_rank() -> None:
    """The error holds each failed worker, under the program's name."""
    config = LaunchConfig(1, 1, 2, max_restarts=0)

    with pytest.raises(ChildFailedError) as caught:
        await elastic_launch(config, "sh").launch(*shell("exit $((RANK + 4))"))

    rank, failure = caught.value.get_first_failure()
    assert caught.value.name == "sh"
    assert failure.exitcode == rank + 4


@slow
@pytest.mark.asyncio
async def test_a_result_tells_every_worker_apart(tmp_path: Path) -> None:
    """Exit codes and log files by rank, also of those that did well."""
    specs = DefaultLogsSpecs(str(tmp_path / "logs"), redirects={1: Std.OUT})
    config = LaunchConfig(1, 1, 2, max_restarts=0, logs_specs=specs)
    launch = elastic_launch(config, "sh")
    result = await launch.run(*shell('[ $RANK = 0 ] || { echo out; exec sh -c "exit 9"; }'))

    assert (result.values, result.exit_codes) == ({}, {0: 0, 1: 9})
    assert Path(result.log_paths[1]["stdout"]).read_text() == "out\n"
    assert set(result.log_paths[0]) == {"error"}


@slow
def test_a_launch_can_be_called_from_any_thread() -> None:
    """Where no loop runs, the call blocks; signals are then left alone."""
    results: list[object] = []
    launch = elastic_launch(LaunchConfig(1, 1, 1), "true")
    thread = threading.Thread(target=lambda: results.append(launch()))
    thread.start()
    thread.join(15)

    assert results == [{0: None}]


@pytest.mark.asyncio
async def test_a_blocking_call_in_a_loop_is_refused() -> None:
    """The loop would stand still; the text says what to do."""
    with pytest.raises(RuntimeError, match="await its launch method"):
        elastic_launch(LaunchConfig(1, 1, 1), "true")()


@slow
@pytest.mark.asyncio
async def test_a_signal_is_raised_once_the_workers_are_gone(tmp_path: Path) -> None:
    """The exception says which; no worker is left, and the program's handlers are back."""
    marker = tmp_path / "pid"
    launch = elastic_launch(LaunchConfig(1, 1, 1, signals_to_handle="SIGUSR1"), "sh")
    task = asyncio.create_task(
        launch.launch(*shell(f"echo $$ > {marker}.new; mv {marker}.new {marker}; exec sleep 60"))
    )
    while not marker.exists():
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(SignalException) as caught:
        await task

    assert caught.value.sigval is signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


@slow
@pytest.mark.asyncio
async def test_a_cancelled_launch_leaves_no_worker(tmp_path: Path) -> None:
    """Cancelling is stopping: the workers get SIGTERM and are waited for."""
    marker = tmp_path / "pid"
    launch = elastic_launch(LaunchConfig(1, 1, 1), "sh")
    task = asyncio.create_task(
        launch.launch(*shell(f"echo $$ > {marker}.new; mv {marker}.new {marker}; exec sleep 60"))
    )
    while not marker.exists():
        await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


@slow
@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [None, ValueError("of the block")], ids=repr)
async def test_a_launch_for_the_time_of_a_block(tmp_path: Path, failure: Exception | None) -> None:
    """Leaving it, in order or not, stops the workers and waits for them."""
    marker = tmp_path / "pid"
    launch = elastic_launch(LaunchConfig(1, 1, 1), "sh")
    script = shell(f"echo $$ > {marker}.new; mv {marker}.new {marker}; exec sleep 60")
    caught: BaseException | None = None
    try:
        async with launch.running(*script) as run:
            while not marker.exists():
                await asyncio.sleep(0.01)
            if failure is not None:
                raise failure
    except ValueError as error:
        caught = error

    assert caught is failure
    assert run.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


@slow
@pytest.mark.asyncio
async def test_a_block_may_wait_for_its_launch() -> None:
    """Its task gives what `run` gives."""
    async with elastic_launch(LaunchConfig(1, 1, 1), "sh").running(*shell("exit 0")) as run:
        result = await run

    assert result.exit_codes == {0: 0}


@slow
@pytest.mark.asyncio
async def test_a_block_does_not_hide_that_its_launch_failed() -> None:
    """Though nobody in it looked."""
    with pytest.raises(FileNotFoundError):
        async with elastic_launch(LaunchConfig(1, 1, 1), "/no/such/program").running() as run:
            await asyncio.wait([run])


@slow
@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("config", "text"),
    [
        (LaunchConfig(1, 1, 1, rdzv_backend="smoke"), "rdzv_backend='smoke': expected one of"),
        (LaunchConfig(1, 1, 1, rdzv_endpoint="h:p"), "port number of the rendezvous endpoint"),
    ],
)
async def test_a_config_that_cannot_be_used_is_a_usage_error(
    config: LaunchConfig, text: str
) -> None:
    """What only the backend knows is found out before anything is started."""
    with pytest.raises(UsageError) as caught:
        await launch_agent(config, "true")

    assert text in str(caught.value)


@slow
@pytest.mark.asyncio
async def test_a_missing_program_is_not_tried_again() -> None:
    """Restarts would not make it appear."""
    with pytest.raises(FileNotFoundError):
        await launch_agent(LaunchConfig(1, 1, 1, max_restarts=3), "/no/such/program")


# --- functions


@slow
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_function_returns_a_value_for_each_rank(method: str) -> None:
    """The program blocks until all four are there."""
    config = LaunchConfig(1, 1, 4, start_method=method)

    assert elastic_launch(config, functions.rank_plus)(10) == {0: 10, 1: 11, 2: 12, 3: 13}


@slow
@pytest.mark.asyncio
async def test_a_failed_function_is_raised_by_rank(capfd: pytest.CaptureFixture[str]) -> None:
    """With the worker's own traceback; the one that was stopped has its exit code."""
    config = LaunchConfig(1, 1, 2, max_restarts=0)
    with pytest.raises(ChildFailedError) as caught:
        await elastic_launch(config, functions.rank_zero_fails).launch()

    assert caught.value.name == "rank_zero_fails"
    assert list(caught.value.failures) == [0]
    assert "RuntimeError: boom" in str(caught.value)
    result = await elastic_launch(config, functions.rank_zero_fails).run()
    assert result.exit_codes == {0: 1, 1: -signal.SIGTERM}
    assert "RuntimeError: boom" in capfd.readouterr().err


@slow
@pytest.mark.asyncio
async def test_functions_are_restarted_like_programs(tmp_path: Path) -> None:
    """All of them, in a new round."""
    config = LaunchConfig(1, 1, 2, max_restarts=1)
    launch = elastic_launch(config, functions.fail_once)

    assert await launch.launch(str(tmp_path / "tried")) == {0: 1, 1: 1}


@slow
@pytest.mark.asyncio
async def test_a_cancelled_launch_stops_functions(tmp_path: Path) -> None:
    """They get SIGTERM and may clean up."""
    task = asyncio.create_task(
        elastic_launch(LaunchConfig(1, 1, 1), functions.clean_up).launch(str(tmp_path))
    )
    while not (tmp_path / "ready").exists():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (tmp_path / "cleaned").exists()


@pytest.mark.asyncio
async def test_what_cannot_be_sent_is_raised_to_the_caller() -> None:
    """Without a restart, which would not mend it."""
    with pytest.raises(pickle.PicklingError, match="entrypoint <function"):
        await launch_agent(LaunchConfig(1, 1, 1), lambda: None)
