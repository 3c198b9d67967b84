"""`launcher.report`: the report names the cause, what it means, and what came of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from launcher.errors import ProcessFailure
from launcher.report import failure_report


def failure(  # the parts of a failure that reports differ by
    local_rank: int,
    exitcode: int,
    exited_at: float,
    *,
    stopped: bool = False,
    stderr: tuple[str, ...] = (),
    error_file: str = "",
) -> ProcessFailure:
    """Return a failure of worker `local_rank` with pid 100 + rank."""
    return ProcessFailure(
        local_rank,
        100 + local_rank,
        exitcode,
        error_file,
        exited_at=exited_at,
        stopped_by_us=stopped,
        stderr_tail=stderr,
    )


def report(
    *failures: ProcessFailure, restarts: int = 0, max_restarts: int = 0, log_dir: str | None = None
) -> str:
    """Return the report on a run of train.py on host n1."""
    return failure_report(
        "train.py",
        {failure.local_rank: failure for failure in failures},
        host="n1",
        restarts=restarts,
        max_restarts=max_restarts,
        log_dir=log_dir,
        log_paths={},
    )


def test_the_whole_report() -> None:
    """Cause, traceback, others, restarts and logs, under torchrun's field names."""
    cause = failure(1, 1, 10.0, stderr=("Traceback ...", "ValueError: x"))
    text = report(
        cause,
        failure(0, -15, 10.5, stopped=True),
        failure(2, 3, 10.25),
        failure(3, -15, 10.5, stopped=True),
        failure(4, -9, 10.5, stopped=True),
        restarts=2,
        max_restarts=2,
        log_dir="/logs/run",
    )

    assert text.splitlines() == [
        "=" * 60,
        "train.py FAILED",
        "-" * 60,
        "Root cause (first observed failure):",
        f"  time      : {cause.timestamp_isoformat()}",
        "  host      : n1",
        "  rank      : 1 (local_rank: 1)",
        "  exitcode  : 1 (pid: 101)",
        "  error_file: <N/A>",
        "  stderr    : last 2 lines",
        "    Traceback ...",
        "    ValueError: x",
        "Failed after it:",
        "  rank 2 (local_rank: 2), exitcode 3 (pid: 102), 0.250 s later, error_file <N/A>",
        "Stopped by the launcher because rank 1 failed: 0, 3-4",
        "First to fail: rank 1 (pid: 101), it exited with status 1",
        "Restarts: 2 of 2 used (--max-restarts)",
        "Logs: /logs/run",
        "=" * 60,
    ]


def test_who_lost_a_peer_before_the_cause_was_out_is_told_as_such() -> None:
    """Its delay would be negative."""
    lost = failure(0, 1, 10.0, stderr=("  await x", "asyncrpc.errors.PeerLostError: gone"))
    report = failure_report(
        "train.py",
        {0: lost, 1: failure(1, 1, 11.0)},
        host="h",
        restarts=0,
        max_restarts=0,
        log_dir=None,
        log_paths={},
    )

    assert (
        "  rank 0 (local_rank: 0), exitcode 1 (pid: 100), when it lost a peer, error_file <N/A>"
        in report
    )
    assert "First to fail: rank 1 " in report


def test_the_cause_is_at_the_end_however_many_lines_and_ranks_there_are() -> None:
    """Thirty lines from the end people still see who failed first, and why."""
    stderr = (*("noise",) * 29, "ValueError: x")
    others = [failure(rank, 1, 11.0) for rank in range(1, 100)]
    last = report(failure(0, 1, 10.0, stderr=stderr), *others).splitlines()[-30:]

    assert "    ValueError: x" in last
    assert "First to fail: rank 0 (pid: 100), it exited with status 1" in last
    assert "  and 91 more: rank 9-99" in last


def test_the_first_failure_is_the_cause() -> None:
    """By time of the failure, not by rank; a worker we stopped is never it."""
    text = report(failure(0, 5, 20.0), failure(1, 6, 19.0), failure(2, -15, 1.0, stopped=True))

    assert "  rank      : 1 (local_rank: 1)" in text


@pytest.mark.parametrize(
    ("number", "meaning"),
    [
        (signal.SIGKILL, "memory ran out"),
        (signal.SIGSEGV, "PYTHONFAULTHANDLER=1"),
        (signal.SIGBUS, "/dev/shm"),
        (signal.SIGTERM, "not by the launcher"),
        (signal.SIGABRT, "aborted itself"),
    ],
)
def test_a_signal_is_explained(number: signal.Signals, meaning: str) -> None:
    """The report says what usually sends it."""
    line = next(x for x in report(failure(0, -number, 1.0)).splitlines() if "signal" in x)

    assert line.startswith(f"  signal    : {number.name}: ")
    assert meaning in line
    assert f"exitcode  : {-number} (pid: 100) ({number.name})" in report(failure(0, -number, 1.0))


def test_signals_without_a_story_are_named() -> None:
    """So are numbers that have no name."""
    texts = [report(failure(0, -signal.SIGUSR1, 1.0)), report(failure(0, -62, 1.0))]

    assert "  signal    : SIGUSR1\n" in texts[0]
    assert "  signal    : signal 62\n" in texts[1]


def test_a_traceback_from_the_error_file_beats_stderr(tmp_path: Path) -> None:
    """What the worker recorded itself is the better account."""
    path = tmp_path / "error.json"
    stack = "Traceback (most recent call last):\n  File ...\nKeyError: 'k'"
    extra = {"py_callstack": stack, "timestamp": "1"}
    path.write_text(json.dumps({"message": {"message": "KeyError: 'k'", "extraInfo": extra}}))
    text = report(failure(0, 1, 1.0, stderr=("noise",), error_file=str(path)))

    assert f"  error_file: {path}\n  traceback :\n    Traceback (most" in text
    assert "noise" not in text


def test_a_message_without_a_traceback_is_shown(tmp_path: Path) -> None:
    """Programs that are no Python may write one."""
    path = tmp_path / "error.json"
    path.write_text(json.dumps({"message": "disk full\non /data"}))

    assert "  message   :\n    disk full\n    on /data\n" in report(
        failure(0, 1, 1.0, error_file=str(path))
    )


def test_stderr_is_cut_to_its_last_30_lines() -> None:
    """The end is where the reason is."""
    text = report(failure(0, 1, 1.0, stderr=tuple(f"line {i}" for i in range(40))))

    assert "  stderr    : last 30 lines\n    line 10\n" in text
    assert "    line 39\n" in text


def test_what_was_recorded_is_cut_to_its_last_30_lines(tmp_path: Path) -> None:
    """The error file has the rest; how it begins, which names the error, is told at the end."""
    path = tmp_path / "error.json"
    message = "ValueError: " + "x" * 300 + "\ndetail" * 40
    stack = f"Traceback ...\n{message}"
    path.write_text(
        json.dumps({"message": {"message": message, "extraInfo": {"py_callstack": stack}}})
    )
    text = report(failure(0, 1, 1.0, error_file=str(path)))
    path.write_text(json.dumps({"message": message}))
    flat = report(failure(0, 1, 1.0, error_file=str(path)))

    end = "last 30 lines\n" + "    detail\n" * 30 + "First to fail: "

    assert f"  traceback : {end}" in text
    assert f"  message   : {end}" in flat
    assert f"it exited with status 1: ValueError: {'x' * 188}...\n" in text
    assert text.splitlines()[-3:] == flat.splitlines()[-3:]


def test_silence_is_said() -> None:
    """Nobody looks for output that never was."""
    assert "  stderr    : nothing was written to it\n" in report(failure(0, 1, 1.0))


def test_a_redirected_stderr_is_named() -> None:
    """Where the launcher has not seen the lines, it says where they are."""
    text = failure_report(
        "x",
        {0: failure(0, 1, 1.0)},
        host="n1",
        restarts=0,
        max_restarts=0,
        log_dir=None,
        log_paths={0: {"stderr": "/logs/0/stderr.log"}},
    )

    assert "  stderr    : /logs/0/stderr.log\n" in text


def test_a_full_disk_is_told() -> None:
    """Then there may be nothing in the logs, and that says why."""
    text = failure_report(
        "x",
        {0: failure(0, 1, 1.0)},
        host="n1",
        restarts=0,
        max_restarts=0,
        log_dir="/logs",
        is_disk_full=True,
        log_paths={},
    )

    assert "\nLogs: /logs (no space is left there)\n" in text


def test_restarts_are_pointed_at() -> None:
    """Somebody who allowed none learns that there are some."""
    assert "Restarts: 0 of 0 used; pass --max-restarts N" in report(failure(0, 1, 1.0))
