"""What workers write comes out whole, and what happens to it is no concern of theirs.

Real launchers with real consoles: pipes, read to the end, not at all, or no longer.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launcher.conftest import Start, finish

pytestmark = pytest.mark.slow

LINES = 100_000

FLOOD = f"""
    for line in range({LINES}):
        print("line", line)
    sys.stdout.flush()
    open("done" + os.environ["RANK"], "w").close()
"""


def kept(logs: Path) -> list[list[str]]:
    """Return the lines of the workers' stdout, by rank."""
    return [path.read_text().splitlines() for path in sorted(logs.rglob("stdout.log"))]


def test_two_workers_at_full_speed(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """Every line is on the console and in its worker's file: once, whole and in order.

    A worker that gets no processor for 0.2 s in the midst of a line has it shown in two parts.
    """
    logs = tmp_path / "logs"
    process = start("--nproc-per-node=2", "-t1", "--log-dir", str(logs), script(FLOOD))
    status, stdout, _ = finish(process)

    whole = [f"line {line}" for line in range(LINES)]
    shown = stdout.splitlines()
    assert status == 0
    assert 2 * LINES <= len(shown) < 2 * LINES + 20
    for rank in (0, 1):
        prefix = f"[default{rank}]:"
        assert "".join(x.removeprefix(prefix) for x in shown if x.startswith(prefix)) == "".join(
            whole
        )
    assert kept(logs) == [whole, whole]


def test_a_console_that_is_closed(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """As by `| head -1`: the workers go on to their end, and their files are complete."""
    logs = tmp_path / "logs"
    reading, writing = os.pipe()
    process = start(
        "--nproc-per-node=2", "-t1", "--log-dir", str(logs), script(FLOOD), stdout=writing
    )
    os.close(writing)
    assert os.read(reading, 1) == b"["
    os.close(reading)
    status, _, stderr = finish(process)

    assert status == 0
    assert "Traceback" not in stderr
    assert [len(lines) for lines in kept(logs)] == [LINES, LINES]
    assert (tmp_path / "done0").exists()
    assert (tmp_path / "done1").exists()


def test_lines_that_all_workers_write_are_shown_once(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """And kept for each of them."""
    logs = tmp_path / "logs"
    path = script(f"""{FLOOD}
    print("last of", os.environ["RANK"])
    """)
    process = start("--nproc-per-node=2", "--fold", "-t1", "--log-dir", str(logs), path)
    status, stdout, _ = finish(process)

    whole = [f"line {line}" for line in range(LINES)]
    shown = stdout.splitlines()
    notes = sum(line.endswith(" [2 workers: 0-1]") for line in shown)
    assert (status, notes + len(shown)) == (0, 2 * (LINES + 1))
    assert {"[default0]:last of 0", "[default1]:last of 1"} <= {*shown}
    assert [lines[:-1] for lines in kept(logs)] == [whole, whole]


@pytest.mark.timeout(60)
def test_a_console_that_takes_nothing(
    start: Start, script: Callable[[str], str], tmp_path: Path
) -> None:
    """Workers wait for it a while, then go on to their end; it is told what was lost."""
    process = start("--nproc-per-node=2", script(FLOOD))
    try:
        status = process.wait(50)  # reads nothing
    except subprocess.TimeoutExpired:
        status = None
    _, stderr = process.communicate()

    assert status == 0
    assert (tmp_path / "done0").exists()
    assert (tmp_path / "done1").exists()
    assert "launcher: output of workers lost: nobody takes it\n" in stderr
