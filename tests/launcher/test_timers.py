"""`launcher.timer.expires` in workers of a real launcher."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts a launcher, a guardian and workers

Start = Callable[..., "subprocess.Popen[str]"]


def test_a_worker_whose_block_takes_too_long_is_killed(
    script: Callable[[str], str], start: Start, tmp_path: Path
) -> None:
    """The report names the block and the rank; nothing is left behind."""
    path = script(
        """
        from launcher.timer import expires
        with expires(60, "outer"):
            with expires(30, "quick"):
                pass
            with expires(0.5 if os.environ["RANK"] == "1" else 60, "exchange of gradients"):
                time.sleep(60)
        """
    )
    process = start("--nproc-per-node=2", path)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 137, stderr
    assert "'exchange of gradients' took longer than 0.5 s; killed rank 1 (pid " in stderr
    report = stderr[stderr.index("Root cause") :]
    assert "rank      : 1 (local_rank: 1)" in report
    assert "timer     : 'exchange of gradients' took longer than 0.5 s" in report
    assert "signal    :" not in report
    assert os.listdir(tmp_path / "tmp") == []


def test_a_worker_that_is_no_python_is_killed_too(
    script: Callable[[str], str], start: Start
) -> None:
    """The block runs in a child of it; the worker that the child belongs to ends."""
    path = script(
        """
        from launcher.timer import expires
        with expires(0.5, "load"):
            time.sleep(60)
        """
    )
    process = start("--no-python", "bash", "-c", f"python3 {path}; sleep 60")
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 137, stderr
    assert "timer     : 'load' took longer than 0.5 s" in stderr


def test_a_restarted_worker_is_watched_again(script: Callable[[str], str], start: Start) -> None:
    """The first round's block is over with it; the restart says why there is one."""
    path = script(
        """
        from launcher.timer import expires
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        with expires(0.5 if first else 60, "step"):
            time.sleep(60 if first else 0)
        """
    )
    process = start("--max-restarts=1", path)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 0, stderr
    assert "was killed because 'step' took longer than 0.5 s" in stderr
