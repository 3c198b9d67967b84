"""examples/parameter_server.py on real workers: it ends where one process would."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.examples.launched import numbers_of, run_example

np = pytest.importorskip("numpy", reason="needs numpy, of the extra test")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


def losses(seed: int, samples: int, parameters: int, steps: int) -> tuple[float, float]:
    """Return the loss before and after training, by the normal equations instead of the data."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(samples, parameters))
    outputs = inputs @ random.normal(size=parameters) + 0.1 * random.normal(size=samples)
    best = np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    # Each step takes the distance to the best weights times the same matrix.
    shrink = np.eye(parameters) - 0.2 * (inputs.T @ inputs) / samples
    weights = best - np.linalg.matrix_power(shrink, steps) @ best
    return np.mean(outputs**2), np.mean((inputs @ weights - outputs) ** 2)


@pytest.mark.parametrize(("workers", "seed"), [(1, 1), (2, 2), (4, 3)])
def test_training_ends_where_one_process_ends(workers: int, seed: int) -> None:
    """All gradients of a step are in it, and none of another one, however many trainers."""
    options = [f"--seed={seed}", "--steps=40", "--samples=120", "--parameters=10"]
    output = run_example("parameter_server.py", *options, workers=workers).stdout
    numbers = numbers_of(output)
    trainers = max(1, workers - 1)
    first, last = losses(seed, 120 * trainers, 10, 40)

    assert {"trainers": trainers, "samples": 120 * trainers, "steps": 40}.items() <= numbers.items()
    assert last < first / 100
    assert first == pytest.approx(numbers["loss at first"], abs=2e-6)
    assert last == pytest.approx(numbers["loss in the end"], abs=2e-6)
    assert numbers["loss in the end"] == numbers["loss of a single process"]


def test_missing_numpy_is_one_line(tmp_path: Path) -> None:
    """It says what to install."""
    (tmp_path / "numpy.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}

    run = run_example("parameter_server.py", workers=1, status=1, environment=environment)

    message = "examples/parameter_server.py needs numpy: pip install 'asyncrpc[numpy]'"
    assert message in run.stderr
    assert "Traceback" not in run.stderr
