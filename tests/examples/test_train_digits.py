"""examples/train_digits.py on real workers: together they learn to read."""

from __future__ import annotations

import os

import pytest

from tests.examples.launched import numbers_of, run_example

pytest.importorskip("torch", reason="needs torch: pip install torch==2.13.0")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_two_workers_learn() -> None:
    """Each sees half of the images, and the network knows them all; the launcher has the store."""
    environment = {**os.environ, "PET_TORCH_STORE": "1"}
    run = run_example("train_digits.py", workers=2, timeout=100, environment=environment)
    epochs = [numbers_of(line) for line in run.stdout.splitlines()]

    assert [0, 1, 2, 3, 4, 5] == [line["epoch"] for line in epochs]
    assert epochs[-1]["accuracy"] > 0.95
    assert epochs[-1]["loss"] < 0.1 < epochs[0]["loss"]
    assert {2} == {line["workers"] for line in epochs}
