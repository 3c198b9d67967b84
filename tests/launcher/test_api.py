"""`launcher.api`: launching from a program, in a loop and without one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
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
)
from launcher.logs import DefaultLogsSpecs, Std

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
    ],
)
def test_a_launch_is_named_after_what_runs(
    entrypoint: str | None, args: tuple[str, ...], expected: str
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
