"""examples/fault_drill.py on real workers: bad networks make no wrong books."""

from __future__ import annotations

import re

import pytest

from tests.examples.launched import run_example

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.mark.parametrize(("seed", "rate"), [(1, 0.4), (2, 0.8)])
def test_the_books_are_right(seed: int, rate: float) -> None:
    """Messages are lost and doubled, links break, and every payment is booked once."""
    options = [f"--seed={seed}", f"--rate={rate}", "--payments=100"]
    run = run_example("fault_drill.py", *options, workers=3, timeout=80)
    faults, *books = run.stdout.splitlines()
    happened = {kind: int(number) for kind, number in re.findall(r"(\w+): (\d+)", faults)}

    assert 2 == len(books)
    assert all(re.fullmatch(r"worker(1|2) paid (\d+), the books say \2", line) for line in books)
    assert min(happened[kind] for kind in ("drop", "duplicate", "reorder", "delay")) > 0
