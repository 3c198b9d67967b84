"""A pipeline over workers: each has a stage, and values go from stage to stage by themselves.

Run it on four workers of this machine::

    python -m launcher --standalone --nproc-per-node 4 examples/pipeline.py

Worker 0 makes one stage on each worker, a layer of a small neural network, and holds a reference to
it. For each batch it then asks all stages at once, each with a reference to what the one before
*will* have made; nothing is waited for. A stage gets its input straight from the worker that has
it, so worker 0 sends references and its own stage's outputs, and no other values. While a stage
works on one batch the next one works on the batch before. The result must be what the same layers
make in one process.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import operator
import random
import sys
import time
from collections.abc import Sequence
from itertools import chain

import asyncrpc as rpc

WIDTH = 64
"""Numbers per item, which are the inputs of a layer as well as its outputs."""

BATCH = 16
"""Items that travel together."""

Item = list[float]


class Stage:
    """One layer of the network."""

    def __init__(self, seed: int, index: int) -> None:
        chance = random.Random(f"{seed} {index}")  # noqa: S311 -- no secret
        self._weights = [[chance.gauss(0, WIDTH**-0.5) for _ in range(WIDTH)] for _ in range(WIDTH)]
        self._turn = asyncio.Lock()

    async def forward(self, batch: rpc.RRef) -> list[Item]:
        """Take a batch from wherever it is, and return what this layer makes of it."""
        items: list[Item] = await batch
        async with self._turn:  # one batch after the other, and in a thread: the loop stays free
            return await asyncio.to_thread(self.apply, items)

    def apply(self, items: Sequence[Item]) -> list[Item]:
        """Return what this layer makes of each item."""
        return [
            [math.tanh(sum(map(operator.mul, row, item))) for row in self._weights]
            for item in items
        ]


def make_batches(seed: int, items: int) -> list[list[Item]]:
    """Return some random input."""
    chance = random.Random(seed)  # noqa: S311 -- no secret
    data = [[chance.uniform(-1, 1) for _ in range(WIDTH)] for _ in range(items)]
    return [data[start : start + BATCH] for start in range(0, items, BATCH)]


async def run_pipeline(stages: Sequence[rpc.RRef], batches: list[list[Item]]) -> list[list[Item]]:
    """Send all batches through all stages; only the last one's outputs come back here."""
    outputs: list[rpc.RRef] = []
    for batch in batches:
        value = rpc.RRef(batch)
        for stage in stages:
            value = stage.remote().forward(value)
        outputs.append(value)
    return await asyncio.gather(*outputs)


def run_alone(stages: Sequence[Stage], batches: list[list[Item]]) -> list[list[Item]]:
    """Send all batches through all stages in this process."""
    outputs = []
    for batch in batches:
        value = batch
        for stage in stages:
            value = stage.apply(value)
        outputs.append(value)
    return outputs


async def lead(workers: list[rpc.WorkerInfo], arguments: argparse.Namespace) -> int:
    """Make the stages, have the batches pass them, and compare; return the exit status."""
    batches = make_batches(arguments.seed, arguments.items)
    stages = [rpc.remote(worker, Stage, (arguments.seed, worker.id)) for worker in workers]
    start = time.perf_counter()
    outputs = await run_pipeline(stages, batches)
    middle = time.perf_counter()
    alone = [Stage(arguments.seed, worker.id) for worker in workers]
    expected = await asyncio.to_thread(run_alone, alone, batches)  # long; the loop is to live on
    end = time.perf_counter()

    print(f"stages: {len(stages)}, items: {arguments.items}, batches: {len(batches)}")
    print(f"sum of the outputs: {math.fsum(map(math.fsum, chain(*outputs))):.9f}")
    print(f"items/s of the pipeline: {arguments.items / (middle - start):,.0f}")
    print(f"items/s of a single process: {arguments.items / (end - middle):,.0f}")
    return 0 if outputs == expected else 1


async def main(arguments: argparse.Namespace) -> int:
    """Run this worker's part; return the exit status."""
    async with rpc.init_rpc() as agent:
        workers = sorted(rpc.get_worker_infos(), key=lambda worker: worker.id)
        status = await lead(workers, arguments) if agent.info.id == 0 else 0
        await rpc.barrier(timeout=None)  # until worker 0 has the outputs
        sent = await rpc.all_gather(int(rpc.debug_info()["agent.bytes_sent"]))
        if agent.info.id == 0:
            print("bytes sent by", *[f"{name}: {size:,}" for name, size in sorted(sent.items())])
        return status


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Send batches through stages on all workers.")
    parser.add_argument("--items", type=int, default=1024, help="to send (default: 1024)")
    parser.add_argument("--seed", type=int, default=0, help="of layers and items (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(rpc.run(main(parse())))
