"""launcher.process.errorfile: what a worker records when it fails."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import ChildFailedError, ProcessFailure
from launcher.process import ErrorHandler, record


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of this process's error file."""
    path = tmp_path / "own" / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return path


def read(path: Path) -> Any:
    """Return what is in an error file."""
    return json.loads(path.read_text())


def boom() -> None:
    """Raise."""
    raise RuntimeError("boom")


def test_a_function_that_succeeds_leaves_no_file(path: Path) -> None:
    """Its value comes through, and its name is kept."""

    @record
    def main(number: int) -> int:
        """Add one."""
        return number + 1

    assert main(1) == 2
    assert (main.__name__, main.__doc__) == ("main", "Add one.")
    assert not path.exists()


def test_an_exception_is_recorded_and_raised(path: Path) -> None:
    """In torch's format: message, call stack, whole seconds; the fraction is the file's own."""
    with pytest.raises(RuntimeError, match="boom"):
        record(boom)()

    message = read(path)["message"]
    assert message["message"] == "RuntimeError: boom"
    assert message["extraInfo"]["py_callstack"].startswith("Traceback (most recent call last):\n")
    assert "in boom" in message["extraInfo"]["py_callstack"]
    assert "/errorfile.py" not in message["extraInfo"]["py_callstack"]
    assert abs(int(message["extraInfo"]["timestamp"]) - time.time()) < 5
    failure = ProcessFailure(0, 1, 1, str(path))
    assert int(failure.timestamp) == int(message["extraInfo"]["timestamp"])
    assert [file.name for file in path.parent.iterdir()] == ["error.json"]


@pytest.mark.asyncio
async def test_a_coroutine_function_is_recorded_too(path: Path) -> None:
    """When it is awaited, not when it is called."""

    @record
    async def main(is_failing: bool) -> int:
        if is_failing:
            raise RuntimeError("boom")
        return 7

    assert await main(False) == 7
    awaitable = main(True)
    assert not path.exists()
    with pytest.raises(RuntimeError, match="boom"):
        await awaitable
    assert read(path)["message"]["message"] == "RuntimeError: boom"


@pytest.mark.parametrize("status", [None, 0])
def test_an_exit_that_is_no_failure_returns(path: Path, status: int | None) -> None:
    """As the end of the function would."""
    assert record(sys.exit)(status) is None
    assert not path.exists()


def test_another_exit_is_raised_and_not_recorded(path: Path) -> None:
    """The status is all there is to say."""
    with pytest.raises(SystemExit, match="3"):
        record(sys.exit)(3)

    assert not path.exists()


def test_the_file_of_a_failed_child_is_copied(path: Path, tmp_path: Path) -> None:
    """Of the first one that failed, with its status, and with its time."""
    child = tmp_path / "child.json"
    child.write_text('{"message": {"message": "deep", "extraInfo": {"timestamp": "1000"}}}')
    os.utime(child, (1000.25, 1000.25))
    failure = ProcessFailure(0, 1, 7, str(child))

    def main() -> None:
        raise ChildFailedError("job", {0: failure})

    with pytest.raises(ChildFailedError):
        record(main)()

    expected = {"message": "deep", "errorCode": 7, "extraInfo": {"timestamp": "1000"}}
    assert read(path) == {"message": expected}
    assert ProcessFailure(0, 1, 7, str(path)).timestamp == 1000.25


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_child_without_a_usable_file_is_raised_all_the_same(
    path: Path, tmp_path: Path, text: str | None
) -> None:
    """What went wrong with the file does not hide what went wrong."""
    child = tmp_path / "child.json"
    if text is not None:
        child.write_text(text)
    error = ChildFailedError("job", {0: ProcessFailure(0, 1, 7, str(child))})
    child.unlink(missing_ok=True)

    def main() -> None:
        raise error

    with pytest.raises(ChildFailedError):
        record(main)()
    assert not path.exists()


def test_a_flat_file_has_no_place_for_a_status(path: Path, tmp_path: Path) -> None:
    """It is copied as it is."""
    child = tmp_path / "child.json"
    child.write_text('{"message": "flat"}')
    ErrorHandler().dump_error_file(str(child), 9)

    assert read(path) == {"message": "flat"}


def test_without_a_place_a_childs_error_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """So that it is not lost; an exception of our own is raised anyway."""
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    child = tmp_path / "child.json"
    child.write_text('{"message": "flat"}')
    ErrorHandler().dump_error_file(str(child))
    with pytest.raises(RuntimeError, match="boom"):
        record(boom)()

    assert "flat" in caplog.text


def test_a_file_that_cannot_be_written_hides_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception goes on; a line says where nothing could be written."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/proc/nowhere/error.json")
    with pytest.raises(RuntimeError, match="boom"):
        record(boom)()

    assert "/proc/nowhere/error.json cannot be written" in caplog.text


def test_a_handler_of_ones_own(path: Path) -> None:
    """What it records is its own business."""
    seen: list[BaseException] = []

    class Handler(ErrorHandler):
        def record_exception(self, e: BaseException) -> None:
            seen.append(e)

    with pytest.raises(RuntimeError):
        record(boom, Handler())()

    assert [str(error) for error in seen] == ["boom"]
