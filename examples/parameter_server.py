"""A parameter server with batched updates: trainers send gradients, and wait for each other's.

Run it on four workers of this machine; it needs the extra ``numpy``::

    python -m launcher --standalone --nproc-per-node 4 examples/parameter_server.py

Worker 0 keeps the parameters of a linear model. The others have a part of the data each; in every
step they send the gradient of their part, by a reference to the server that they got as an
argument. The server collects one gradient of each trainer, makes one step of them all, and answers
all trainers at once with the new parameters. In the end these must be those of the same training
in a single process.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

import asyncrpc as rpc

try:
    import numpy as np
except ImportError:
    sys.exit("examples/parameter_server.py needs numpy: pip install 'asyncrpc[numpy]'")

if TYPE_CHECKING:
    Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

RATE = 0.1


class ParameterServer:
    """Keeps the parameters, and changes them once it has a gradient of every trainer."""

    def __init__(self, parameters: int, trainers: int) -> None:
        self.weights = np.zeros(parameters)
        self._trainers = trainers
        self._gradients: dict[str, Array] = {}
        self._step: asyncio.Future[Array] = asyncio.get_running_loop().create_future()

    async def update(self, gradient: Array) -> Array:
        """Take a gradient of the caller; return the parameters after the step it is part of."""
        self._gradients[rpc.caller().name] = gradient
        step = self._step
        if len(self._gradients) == self._trainers:
            in_order = [self._gradients[name] for name in sorted(self._gradients)]
            # A new array: the old one may still be on its way to somebody.
            self.weights = self.weights - RATE * np.mean(in_order, axis=0)
            self._gradients = {}
            self._step = asyncio.get_running_loop().create_future()
            step.set_result(self.weights)  # releases all callers of this step
        return await asyncio.shield(step)  # a caller that gives up must not cancel it for all


def make_data(seed: int, samples: int, parameters: int) -> tuple[Array, Array]:
    """Return what a hidden model was asked, and its answers, which are a little noisy."""
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(samples, parameters))
    hidden = random.normal(size=parameters)
    return inputs, inputs @ hidden + 0.1 * random.normal(size=samples)


def loss_of(weights: Array, inputs: Array, outputs: Array) -> float:
    """Return the mean square error."""
    return float(np.mean((inputs @ weights - outputs) ** 2))


def gradient_of(weights: Array, inputs: Array, outputs: Array) -> Array:
    """Return the gradient of the loss."""
    gradient: Array = 2 / len(outputs) * inputs.T @ (inputs @ weights - outputs)
    return gradient


async def train(server: rpc.RRef, inputs: Array, outputs: Array, steps: int) -> None:
    """Train with a part of the data; worker 0 calls this on each trainer."""
    weights = np.zeros(inputs.shape[1])
    for _ in range(steps):
        weights = await server.rpc_async().update(gradient_of(weights, inputs, outputs))


def train_alone(inputs: Array, outputs: Array, steps: int) -> Array:
    """Train with all of the data in this process."""
    weights = np.zeros(inputs.shape[1])
    for _ in range(steps):
        weights = weights - RATE * gradient_of(weights, inputs, outputs)
    return weights


async def lead(workers: list[rpc.WorkerInfo], arguments: argparse.Namespace) -> int:
    """Have the others train, and compare; return the exit status."""
    trainers = workers[1:] or workers  # alone, the server trains as well
    samples = arguments.samples * len(trainers)  # parts of one size: their mean is that of all
    inputs, outputs = make_data(arguments.seed, samples, arguments.parameters)
    server = rpc.RRef(ParameterServer(arguments.parameters, len(trainers)))
    async with rpc.wait_all():
        for trainer, part, answers in zip(
            trainers,
            np.split(inputs, len(trainers)),
            np.split(outputs, len(trainers)),
            strict=True,
        ):
            rpc.rpc_async(trainer, train, (server, part, answers, arguments.steps), timeout=None)

    trained: Array = server.local_value().weights
    alone = await asyncio.to_thread(train_alone, inputs, outputs, arguments.steps)
    print(f"trainers: {len(trainers)}, samples: {samples}, steps: {arguments.steps}")
    print(f"loss at first: {loss_of(np.zeros_like(trained), inputs, outputs):.6f}")
    print(f"loss in the end: {loss_of(trained, inputs, outputs):.6f}")
    print(f"loss of a single process: {loss_of(alone, inputs, outputs):.6f}")
    return 0 if np.allclose(trained, alone) else 1


async def main(arguments: argparse.Namespace) -> int:
    """Run this worker's part; return the exit status."""
    async with rpc.init_rpc() as agent:
        workers = sorted(rpc.get_worker_infos(), key=lambda worker: worker.id)
        return await lead(workers, arguments) if agent.info.id == 0 else 0


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Train a linear model on several workers.")
    parser.add_argument("--steps", type=int, default=100, help="of the training (default: 100)")
    parser.add_argument("--samples", type=int, default=500, help="of each trainer (default: 500)")
    parser.add_argument("--parameters", type=int, default=20, help="of the model (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the data (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(rpc.run(main(parse())))
