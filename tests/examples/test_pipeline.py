"""examples/pipeline.py on real workers: values go from stage to stage, and come out right."""

from __future__ import annotations

import math
import random
import re

import pytest

from tests.examples.launched import numbers_of, run_example

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


def sum_of_outputs(seed: int, items: int, layers: int) -> float:
    """Return the sum of what the network makes of all items, computed item by item."""
    chance = random.Random(seed)
    inputs = [[chance.uniform(-1, 1) for _ in range(64)] for _ in range(items)]
    network = []
    for index in range(layers):
        of_layer = random.Random(f"{seed} {index}")
        network.append([[of_layer.gauss(0, 1 / 8) for _ in range(64)] for _ in range(64)])
    outputs = []
    for item in inputs:
        values = item
        for layer in network:
            values = [math.tanh(sum(w * values[k] for k, w in enumerate(row))) for row in layer]
        outputs += values
    return math.fsum(outputs)


@pytest.mark.parametrize(("workers", "seed", "items"), [(1, 1, 40), (4, 2, 200)])
def test_outputs_are_those_of_one_process(workers: int, seed: int, items: int) -> None:
    """Every batch passes every stage once, the last and smaller batch too."""
    options = [f"--seed={seed}", f"--items={items}"]
    numbers = numbers_of(run_example("pipeline.py", *options, workers=workers).stdout)

    assert (workers, items, -(-items // 16)) == tuple(
        numbers[name] for name in ("stages", "items", "batches")
    )
    assert sum_of_outputs(seed, items, workers) == pytest.approx(
        numbers["sum of the outputs"], abs=1e-8
    )
    assert numbers["items/s of the pipeline"] > 0


def test_values_do_not_pass_the_driver() -> None:
    """Each worker sends its own stage's outputs once, and worker 0 those of no other one."""
    output = run_example("pipeline.py", "--items=512").stdout
    line = next(line for line in output.splitlines() if line.startswith("bytes sent by"))
    sent = [int(size.replace(",", "")) for size in re.findall(r"worker\d: ([\d,]+\d)", line)]
    values = 512 * 64 * 9  # a float is nine bytes of msgpack

    assert 4 == len(sent)
    assert all(values < size < 1.5 * values for size in sent)
