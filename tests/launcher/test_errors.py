"""launcher.errors: what is known of a failed worker, and which one failed first."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import (
    ChildFailedError,
    GuardianError,
    LauncherError,
    ProcessFailure,
    RendezvousConnectionError,
    SignalException,
    UsageError,
    one_line,
)
from launcher.process import record

NOW = 1_700_000_000


def error_file(path: Path, timestamp: object, written_at: float | None = None) -> str:
    """Write an error file as torch's `record` does and return its path."""
    message = {
        "message": "RuntimeError: boom",
        "extraInfo": {"py_callstack": "Traceback: here", "timestamp": timestamp},
    }
    path.write_text(json.dumps({"message": message}))
    if written_at is not None:
        os.utime(path, (written_at, written_at))
    return str(path)


def test_failure_reads_message_traceback_and_time_of_the_error_file(tmp_path: Path) -> None:
    """The worker's own error file says what happened, and when."""
    path = error_file(tmp_path / "error.json", str(NOW))

    failure = ProcessFailure(0, 42, 1, path)

    assert failure.message == "RuntimeError: boom"
    assert failure.traceback() == "Traceback: here"
    assert failure.timestamp == NOW
    assert failure.error_file == path


def test_fraction_of_a_whole_second_comes_from_the_file_itself(tmp_path: Path) -> None:
    """A file says whole seconds; its own time tells the fraction if the second agrees."""
    path = error_file(tmp_path / "error.json", NOW, written_at=NOW + 0.25)

    assert ProcessFailure(0, 42, 1, path).timestamp == NOW + 0.25


def test_time_of_an_error_file_with_fraction_is_kept(tmp_path: Path) -> None:
    """A worker that states the fraction knows better than the file system."""
    path = error_file(tmp_path / "error.json", NOW + 0.5, written_at=NOW + 0.75)

    assert ProcessFailure(0, 42, 1, path).timestamp == NOW + 0.5


def test_flat_error_file(tmp_path: Path) -> None:
    """A message that is plain text is read as it is."""
    path = tmp_path / "error.json"
    path.write_text('{"message": "plain"}')

    assert ProcessFailure(0, 42, 1, str(path)).message == "plain"


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff"])
def test_malformed_error_file_does_not_hide_the_failure(tmp_path: Path, text: str) -> None:
    """The file is named in the message, and the failure keeps its exit status."""
    path = tmp_path / "error.json"
    path.write_text(text, encoding="latin-1")

    failure = ProcessFailure(0, 42, 3, str(path))

    assert f"error file {path} cannot be read" in failure.message
    assert failure.exitcode == 3
    assert failure.error_file_data == {"message": "<NONE>"}


def test_failure_without_error_file() -> None:
    """Without a file the message says how to get one, and the time is now."""
    before = time.time()
    failure = ProcessFailure(0, 42, 138, "/nonexistent/error.json")

    assert failure.error_file == "<N/A>"
    assert failure.error_file_data == {"message": "<NONE>"}
    assert "https://pytorch.org/docs/stable/elastic/errors.html" in failure.message
    assert failure.signal_name() == "<N/A>"
    assert before - 0.01 <= failure.timestamp <= time.time()


@pytest.mark.parametrize(
    ("code", "name"),
    [(-15, "SIGTERM"), (-11, "SIGSEGV"), (-1, "SIGHUP"), (-40, "<N/A>"), (1, "<N/A>")],
)
def test_signal_name(code: int, name: str) -> None:
    """A negative exit status is a signal; real-time signals have no name."""
    assert ProcessFailure(0, 42, code, "").signal_name() == name


def test_signal_is_explained() -> None:
    """The message of a worker that died of a signal names signal and process."""
    assert ProcessFailure(0, 123, -1, "").message == "Signal 1 (SIGHUP) received by PID 123"


def test_failures_are_dated_in_the_order_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that workers recorded, one after the other, and one that left no file."""
    failures = []
    for name in ("first", "second"):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / name))
        with pytest.raises(RuntimeError):
            record(_fail)()
        failures.append(ProcessFailure(0, 1, 1, str(tmp_path / name)))
    failures.append(ProcessFailure(0, 1, 1, str(tmp_path / "none")))

    first, second, third = (failure.timestamp for failure in failures)
    assert first <= second <= third
    moments = [failure.moment for failure in failures]
    assert moments == sorted(moments)


def _fail() -> None:
    raise RuntimeError("why")


def test_first_failure_is_told_apart_within_a_second() -> None:
    """Failures are ordered by monotonic time, not by rank or whole seconds."""
    now = time.monotonic()
    late = ProcessFailure(0, 1, 1, "", exited_at=now)
    early = ProcessFailure(1, 2, 1, "", exited_at=now - 0.001)

    assert ChildFailedError("job", {4: late, 5: early}).get_first_failure() == (5, early)


def test_first_failure_is_not_one_that_we_stopped() -> None:
    """A sibling stopped because of a failure is never its cause, whatever the clocks say."""
    now = time.monotonic()
    stopped = ProcessFailure(0, 1, -15, "", exited_at=now - 5, stopped_by_us=True)
    own = ProcessFailure(1, 2, 7, "", exited_at=now)

    assert ChildFailedError("job", {0: stopped, 1: own}).get_first_failure() == (1, own)


def test_first_failure_of_stopped_ones_only() -> None:
    """When all were stopped by us, one of them has to stand for all."""
    stopped = ProcessFailure(0, 1, -15, "", stopped_by_us=True)

    assert ChildFailedError("job", {3: stopped}).get_first_failure() == (3, stopped)


LOST = "asyncrpc.errors.PeerLostError: f on worker0 was lost: it shut down without waiting"
FRAMES = ("Traceback (most recent call last):", '  File "x.py", line 1, in main', "    await x")


@pytest.mark.parametrize(
    "lines",
    [
        (*FRAMES, LOST),
        (*FRAMES[1:], LOST),
        (*FRAMES, "ValueError: x", "", "During handling of it:", "", *FRAMES, LOST),
        (*FRAMES, LOST, "a line from a thread"),
        (*FRAMES, "asyncrpc.errors.OwnerLostError: gone"),
        (*FRAMES, "asyncrpc.errors.OwnerLostError"),
        (*FRAMES, f"asyncrpc.errors.RemoteError: {LOST}"),
    ],
)
def test_an_exception_about_a_lost_peer_is_a_consequence(lines: tuple[str, ...]) -> None:
    """Whatever the worker printed before and after the last traceback, long ones cut."""
    assert ProcessFailure(0, 1, 1, "", stderr_tail=lines).is_consequence()


@pytest.mark.parametrize(
    ("exitcode", "lines"),
    [
        (1, ()),
        (1, (LOST.replace("Peer", "Cable"),)),
        (1, (*FRAMES, LOST, *FRAMES, "ValueError: x")),
        (1, (*FRAMES, f"ValueError: {LOST}")),
        (1, (*FRAMES, "ValueError: x", LOST)),
        (3, (*FRAMES, LOST)),
        (-9, (*FRAMES, LOST)),
    ],
)
def test_other_failures_are_no_consequence(exitcode: int, lines: tuple[str, ...]) -> None:
    """Another exception ended it, or none: a status of its own, a signal."""
    assert not ProcessFailure(0, 1, exitcode, "", stderr_tail=lines).is_consequence()


def test_the_error_file_says_whether_it_is_a_consequence(tmp_path: Path) -> None:
    """Of what the worker printed besides, nothing counts then."""
    recorded = error_file(tmp_path / "error.json", str(NOW))
    flat = tmp_path / "flat.json"
    flat.write_text(json.dumps({"message": "PeerLostError: gone"}))

    assert not ProcessFailure(0, 1, 1, recorded, stderr_tail=(*FRAMES, LOST)).is_consequence()
    assert ProcessFailure(0, 1, 1, str(flat)).is_consequence()


def test_first_failure_is_no_consequence_if_there_is_another() -> None:
    """Who lost a peer is blamed only if nobody failed by itself."""
    now = time.monotonic()
    lost = ProcessFailure(0, 1, 1, "", exited_at=now - 1, stderr_tail=(*FRAMES, LOST))
    own = ProcessFailure(1, 2, 1, "", exited_at=now)
    stopped = ProcessFailure(2, 3, -15, "", exited_at=now - 2, stopped_by_us=True)

    assert ChildFailedError("job", {0: lost, 1: own, 2: stopped}).get_first_failure() == (1, own)
    assert ChildFailedError("job", {0: lost, 2: stopped}).get_first_failure() == (0, lost)


def test_a_worker_that_recorded_its_error_before_it_was_stopped_is_to_blame(tmp_path: Path) -> None:
    """It took its time to end after the others had lost it; a signal explains nothing then."""
    now, wall = time.monotonic(), time.time()
    victim = ProcessFailure(0, 1, 1, "", exited_at=now, stderr_tail=(*FRAMES, LOST))
    early = error_file(tmp_path / "early.json", wall - 2)
    late = error_file(tmp_path / "late.json", wall - 0.5)
    ended: Any = {"exited_at": now, "asked_at": now - 1, "stopped_by_us": True}
    cause = ProcessFailure(1, 2, -15, early, **ended)
    stopped = ProcessFailure(2, 3, -15, late, **ended)

    assert ChildFailedError("job", {0: victim, 1: cause}).get_first_failure() == (1, cause)
    assert ChildFailedError("job", {0: victim, 2: stopped}).get_first_failure() == (0, victim)
    assert (cause.was_leaving, cause.stopped_by_us, cause.status) == (True, False, 1)
    assert cause.ending() == "had failed, and was stopped when that took long"
    assert (stopped.was_leaving, stopped.stopped_by_us, stopped.status) == (False, True, -15)


def test_recorded_error_counts_from_when_it_was_recorded(tmp_path: Path) -> None:
    """A worker that records an error and takes its time to end failed before one that crashed."""
    now, wall = time.monotonic(), time.time()
    recorded = ProcessFailure(0, 1, 1, error_file(tmp_path / "e.json", wall - 2.5), exited_at=now)
    crashed = ProcessFailure(1, 2, -11, "", exited_at=now - 1)

    assert ChildFailedError("job", {0: recorded, 1: crashed}).get_first_failure()[0] == 0


def test_text_of_child_failed_error_has_the_fields_of_torchrun(tmp_path: Path) -> None:
    """The text names the job, the root cause last, and per failure the fields torchrun has."""
    root = ProcessFailure(0, 11, 1, error_file(tmp_path / "e.json", str(NOW)))
    other = ProcessFailure(1, 12, -15, "", stopped_by_us=True)

    error = ChildFailedError("train.py", {2: root, 3: other})
    text = str(error)

    assert text == error.format_msg()
    assert "train.py FAILED" in text
    head, _, tail = text.partition("Root Cause (first observed failure):")
    assert "rank      : 3 (local_rank: 1)" in head
    assert "exitcode  : -15 (pid: 12) (SIGTERM)" in head
    assert "rank      : 2 (local_rank: 0)" in tail
    assert "exitcode  : 1 (pid: 11)" in tail
    assert "traceback : Traceback: here" in tail
    assert f"error_file: {root.error_file}" in tail
    assert max(len(line) for line in text.split("\n") if set(line) == {"="}) <= 60


def test_child_failed_error_needs_a_failure() -> None:
    """An error without a failed worker would have no root cause."""
    with pytest.raises(ValueError, match="failures must name at least one worker"):
        ChildFailedError("job", {})


@pytest.mark.parametrize(
    "error",
    [
        UsageError("--nproc must be at least 1, got 0", "try 1"),
        SignalException("told to stop", signal.SIGTERM),
        GuardianError("gone"),
        ChildFailedError("job", {0: ProcessFailure(0, 1, 1, "")}),
    ],
)
def test_errors_survive_pickle(error: LauncherError) -> None:
    """Type, text and data come back, since errors cross process borders."""
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (3, "exited with status 3"),
        (-9, "was ended by SIGKILL"),
        (-40, "was ended by signal 40"),
    ],
)
def test_an_ending_is_put_in_words(code: int, text: str) -> None:
    """A real-time signal has no name."""
    assert ProcessFailure(0, 1, code, "").ending() == text


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\nlines"), "two lines"),
        (
            FileNotFoundError(2, "No such file or directory", "a b"),
            "a b: No such file or directory",
        ),
        (OSError(11, "worker 3: no more"), "worker 3: no more"),
        (OSError("as it is"), "as it is"),
        (RendezvousConnectionError("at port 1"), "at port 1"),
    ],
)
def test_an_error_is_told_on_one_line_without_its_number(error: Exception, line: str) -> None:
    """People know the words, not the numbers."""
    assert one_line(error) == line
