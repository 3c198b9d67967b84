"""What torch's multiprocessing tests ask for, and no other test here does.

`tests.launcher.test_reference` lists where each of their requirements is tested.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from launcher.errors import SignalException
from launcher.logs import DefaultLogsSpecs, Std
from launcher.process import ProcessContext, RunProcsResult, start_processes
from tests.launcher.process import functions

pytestmark = pytest.mark.slow

Start = Callable[..., Awaitable[ProcessContext]]


def survivors(context: ProcessContext) -> list[int]:
    """Return the workers' process ids that still belong to somebody, zombies included."""
    return [pid for pid in context.pids().values() if psutil.pid_exists(pid)]


@pytest.mark.asyncio
async def test_one_command_exits_beside_another(start: Start, tmp_path: Path) -> None:
    """Two failures: the one with its own status and log, the other with our signal explained."""
    context = await start(
        "echo exit 138 from $RANK >&2; exit 138",
        "exec sleep 100",
        logs_specs=DefaultLogsSpecs(tmp_path, redirects={0: Std.ALL}),
        envs={0: {"RANK": "0"}, 1: {"RANK": "1"}},
    )
    result = await context.wait()

    assert result is not None
    assert result.is_failed()
    first, second = result.failures[0], result.failures[1]
    assert (first.exitcode, first.signal_name()) == (138, "<N/A>")
    assert first.error_file_data == second.error_file_data == {"message": "<NONE>"}
    assert (second.exitcode, second.signal_name()) == (-15, "SIGTERM")
    assert f"Signal 15 (SIGTERM) received by PID {context.pids()[1]}" in second.message
    assert Path(result.stderrs[0]).read_text() == "exit 138 from 0\n"
    assert Path(result.stdouts[0]).read_text() == ""
    assert not result.stdouts[1]
    assert not result.stderrs[1]
    assert survivors(context) == []


def test_waiting_in_another_thread(caplog: pytest.LogCaptureFixture) -> None:
    """All but signals, which it is told: a wait that is over, then the result."""

    async def run() -> tuple[RunProcsResult | None, RunProcsResult | None, list[int]]:
        async with await start_processes(
            "sleeper", "sleep", {0: ("0.5",)}, {0: {}}, DefaultLogsSpecs(os.devnull)
        ) as context:
            early = await context.wait(timeout=0.1, period=0.01)
            return early, await context.wait(), survivors(context)

    async def main() -> None:
        early, late, left = await asyncio.to_thread(asyncio.run, run())
        assert early is None
        assert late is not None
        assert (late.return_values, left) == ({0: None}, [])

    asyncio.run(main())

    assert caplog.messages == ["signals cannot be handled: this is not the main thread"]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_tensor_comes_back_intact(method: str) -> None:
    """As what it was, and nobody is left."""
    torch = pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")

    async def run() -> tuple[object, list[int]]:
        async with await start_processes(
            "math",
            functions.tensor,
            {0: (100,)},
            {0: {}},
            DefaultLogsSpecs(os.devnull, redirects=Std.ALL),
            start_method=method,
        ) as context:
            result = await context.wait()
            assert result is not None
            return result.return_values[0], survivors(context)

    value, left = asyncio.run(run())

    assert torch.equal(value, functions.tensor(100))
    assert left == []


@pytest.mark.asyncio
@pytest.mark.parametrize("redirects", list(Std))
async def test_a_worker_waits_for_whoever_reads_its_result(redirects: Std, tmp_path: Path) -> None:
    """However its output is redirected, it does not end before the result is out of its hands."""
    context = await start_processes(
        "writer",
        functions.blob,
        {0: (1 << 20,)},
        {0: {}},
        DefaultLogsSpecs(tmp_path, redirects=redirects),
        start_method="fork",
    )
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:  # the loop, and so the reader, stands still meanwhile
        time.sleep(0.01)
    is_there = psutil.pid_exists(context.pids()[0])
    result = await context.wait()

    assert is_there
    assert result is not None
    assert result.return_values == {0: bytes(1 << 20)}
    for stream, path in ((Std.OUT, result.stdouts[0]), (Std.ERR, result.stderrs[0])):
        assert (Path(path).read_text() if path else None) == (
            "made\n" if redirects & stream else None
        )


@pytest.mark.asyncio
async def test_names_of_no_signals_are_passed_over(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The variable may come from another launcher; the other names in it count."""
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGUSR1,BOGUS,SIGUSR2")
    context = await start("exec sleep 100")
    os.kill(os.getpid(), signal.SIGUSR2)
    with pytest.raises(SignalException) as caught:
        await context.wait()

    assert caught.value.sigval is signal.SIGUSR2
    rule = "expected names of signals, 'BOGUS' is none"
    assert caplog.messages == [f"TORCHELASTIC_SIGNALS_TO_HANDLE=BOGUS: {rule}; passed over"]
