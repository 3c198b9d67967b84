"""launcher.logs.taillog: lines of files that others are writing."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from launcher.logs import TailLog


class Slow(io.StringIO):
    """Says when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def writelines(self, lines: object) -> None:
        """Write, and say so if it was anything."""
        before = self.tell()
        super().writelines(lines)  # type: ignore[arg-type]
        if self.tell() > before:
            self.written.set()


def test_all_lines_of_all_files(tmp_path: Path) -> None:
    """32 files of 1000 lines each, written while they are followed."""
    paths = {rank: str(tmp_path / f"{rank}.log") for rank in range(32)}
    dst = io.StringIO()
    tail = TailLog("writer", paths, dst, interval_sec=0.001).start()
    for path in paths.values():
        with open(path, "w") as file:
            file.writelines(f"{line}\n" for line in range(1000))
    tail.stop()

    lines = dst.getvalue().splitlines()
    for rank in paths:
        mine = [line for line in lines if line.startswith(f"[writer{rank}]:")]
        assert mine == [f"[writer{rank}]:{line}" for line in range(1000)]
    assert tail.stopped()


def test_lines_appear_while_the_file_grows(tmp_path: Path) -> None:
    """Before anybody stops, and only when they are whole."""
    path = tmp_path / "log"
    dst = Slow()
    tail = TailLog("x", {0: str(path)}, dst, interval_sec=0.001).start()
    with path.open("w") as file:
        file.write("one\nhal")
        file.flush()
        assert dst.written.wait(5)
        assert dst.getvalue() == "[x0]:one\n"
        file.write("f\nrest")
    tail.stop()

    assert dst.getvalue() == "[x0]:one\n[x0]:half\n[x0]:rest"


def test_prefixes_and_filter(tmp_path: Path) -> None:
    """By rank; the default for those that have none. The destination may be a path."""
    for rank in range(2):
        (tmp_path / str(rank)).write_text("keep\ndrop\n")
    tail = TailLog(
        "x",
        {rank: str(tmp_path / str(rank)) for rank in range(2)},
        str(tmp_path / "dst"),
        log_line_prefixes={1: "one: "},
        log_line_filter=lambda line: "keep" in line,
    ).start()
    tail.stop()

    assert (tmp_path / "dst").read_text() == "[x0]:keep\none: keep\n"


def test_files_that_never_appear_keep_nobody_waiting(tmp_path: Path) -> None:
    """Nor does a tail of nothing."""
    for files in ({0: str(tmp_path / "never")}, {}):
        tail = TailLog("x", files, io.StringIO(), interval_sec=100).start()
        assert not tail.stopped()
        tail.stop()
        tail.stop()
        assert tail.stopped()


def test_an_error_is_logged_not_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stopping goes on as if nothing had happened."""
    (tmp_path / "log").write_text("line\n")
    dst = io.StringIO()
    dst.close()
    tail = TailLog("x", {0: str(tmp_path / "log")}, dst).start()
    tail.stop()

    assert "error in a tail of" in caplog.text
