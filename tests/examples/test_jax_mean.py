"""examples/jax_mean.py on real workers: JAX's processes find each other and compute as one."""

from __future__ import annotations

import os

import pytest

from tests.examples.launched import numbers_of, run_example

pytest.importorskip("jax", reason="needs jax: pip install jax==0.10.2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_two_processes_compute_as_one() -> None:
    """A sum over both is the same on both, and that of one process alone."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    run = run_example("jax_mean.py", workers=2, timeout=100, environment=environment)
    facts = [numbers_of(line) for line in run.stdout.splitlines() if line.startswith("process:")]

    assert sorted(fact["process"] for fact in facts) == [0, 1]
    assert [(fact["processes"], fact["rows"]) for fact in facts] == [(2, 2000)] * 2
    assert all(fact["devices"] >= 2 and fact["difference"] < 1e-5 for fact in facts)
