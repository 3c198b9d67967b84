"""`launcher.timer.expires`: what it writes, and where it cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from launcher.timer import TIMER_FILE_VARIABLE, expires
from launcher.timer.messages import Message, decode


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileIO]:
    """Return our end of the pipe that this process, as a worker, has been told of."""
    path = tmp_path / "timer"
    os.mkfifo(path)
    monkeypatch.setenv(TIMER_FILE_VARIABLE, str(path))
    monkeypatch.setenv("RANK", "3")
    with FileIO(os.open(path, os.O_RDWR | os.O_NONBLOCK), "r+") as file:
        yield file


def written(pipe: FileIO) -> list[Message]:
    """Return the messages in the pipe."""
    return [decode(line) for line in (pipe.read(1 << 16) or b"").splitlines()]


def test_a_block_is_announced_and_released(pipe: FileIO) -> None:
    """With process, rank, name and time; the key tells which block has ended."""
    with expires(60, "load"):
        (begun,) = written(pipe)
    (ended,) = written(pipe)

    assert (begun.pid, begun.rank, begun.scope) == (os.getpid(), 3, "load")
    assert abs(begun.expiration - time.time() - 60) < 10
    assert ended == begun._replace(expiration=-1.0)


def test_a_block_that_raises_is_released(pipe: FileIO) -> None:
    """The error passes."""
    with pytest.raises(KeyError), expires(60):
        raise KeyError("x")

    assert [message.expiration < 0 for message in written(pipe)] == [False, True]


def test_a_block_is_called_after_its_caller_by_default(pipe: FileIO) -> None:
    """File and line."""
    with expires(60):
        (begun,) = written(pipe)

    assert begun.scope.startswith(f"{__file__}#")


def test_nested_blocks_of_one_name_are_told_apart(pipe: FileIO) -> None:
    """The end of the inner one is not that of the outer one."""
    with expires(60, "x"), expires(30, "x"):
        pass
    outer, inner, first, second = written(pipe)

    assert outer.key != inner.key
    assert (first.key, second.key) == (inner.key, outer.key)


@pytest.mark.parametrize("after", [0, -1, True, "1", float("nan"), float("inf")])
def test_other_times_are_refused(after: float) -> None:
    """They are named."""
    with pytest.raises(ValueError, match=r"after=.*: expected seconds, above 0"):
        expires(after)


def test_without_a_launcher_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block does not run unwatched."""
    monkeypatch.delenv(TIMER_FILE_VARIABLE, raising=False)

    with pytest.raises(RuntimeError, match="expected a worker that a launcher has started"):
        expires(1).__enter__()


def test_a_launcher_that_is_gone_is_told(
    pipe: FileIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads, or the pipe has been removed; a block that runs already may end in peace."""
    with expires(60):
        pipe.close()
    with pytest.raises(RuntimeError, match=r"the launcher cannot be reached: .*timer"):
        expires(1).__enter__()
    (tmp_path / "timer").unlink()
    with pytest.raises(RuntimeError, match=r"the launcher cannot be reached: .*timer"):
        expires(1).__enter__()


def test_workers_load_no_event_loop_for_it() -> None:
    """Importing it must not slow their start."""
    code = "import sys, launcher.timer; print('asyncio' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )

    assert result.stdout == "False\n", result.stderr
