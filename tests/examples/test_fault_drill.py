"""examples/fault_drill.py on real workers: bad networks make no wrong books."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("seed", "rate"), [(1, 0.4), (2, 0.8)])
def test_the_books_are_right(seed: int, rate: float) -> None:
    """Messages are lost and doubled, links break, and every payment is booked once."""
    command = [sys.executable, "-m", "launcher", "--standalone", "--nproc-per-node=3"]
    options = [f"--seed={seed}", f"--rate={rate}", "--payments=100"]
    run = subprocess.run(
        [*command, "examples/fault_drill.py", *options],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=80,
    )
    faults, *books = run.stdout.splitlines()
    happened = {kind: int(number) for kind, number in re.findall(r"(\w+): (\d+)", faults)}

    assert 0 == run.returncode, run.stderr
    assert 2 == len(books)
    assert all(re.fullmatch(r"worker(1|2) paid (\d+), the books say \2", line) for line in books)
    assert min(happened[kind] for kind in ("drop", "duplicate", "reorder", "delay")) > 0
