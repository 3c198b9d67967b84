"""One computation of JAX over the processes of a job.

Run it on two workers of this machine::

    JAX_PLATFORMS=cpu python -m launcher --standalone --nproc-per-node 2 examples/jax_mean.py

or on two nodes, with the same command on each::

    python -m launcher --nnodes 2 --rdzv-endpoint node0:29400 examples/jax_mean.py

Every process has some rows of one matrix and sees it as a whole; the mean over all rows is summed
up across processes by JAX itself. The launcher tells each of them which it is and where the first
one has JAX's coordinator.

Needs jax: pip install jax
"""

from __future__ import annotations

import argparse
import os

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def main() -> None:
    """Compute the mean of each column, and compare it with what one process alone finds."""
    parser = argparse.ArgumentParser(description="Find the mean of the columns of a matrix.")
    parser.add_argument("--rows", type=int, default=1000, help="in each process")
    rows = parser.parse_args().rows

    # JAX finds JAX_COORDINATOR_ADDRESS by itself, but not these two. A scheduler around the
    # launcher counts launchers, not workers, so JAX shall not ask it.
    jax.distributed.initialize(
        num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
        process_id=int(os.environ["JAX_PROCESS_ID"]),
        cluster_detection_method="deactivate",
    )
    processes, devices = jax.process_count(), jax.devices()
    mesh, by_rows = Mesh(devices, ("rows",)), PartitionSpec("rows")

    keys = jax.random.split(jax.random.key(0), processes)
    own = jax.random.normal(keys[jax.process_index()], (rows, 4))
    matrix = jax.make_array_from_process_local_data(NamedSharding(mesh, by_rows), own)

    mean = jax.jit(
        jax.shard_map(
            lambda part: jax.lax.psum(part.sum(axis=0), "rows") / (rows * processes),
            mesh=mesh,
            in_specs=by_rows,
            out_specs=PartitionSpec(),
        )
    )
    whole = jnp.concatenate([jax.random.normal(key, (rows, 4)) for key in keys])
    difference = float(jnp.abs(mean(matrix) - jnp.mean(whole, axis=0)).max())
    print(
        f"process: {jax.process_index()}, processes: {processes}, devices: {len(devices)}, "
        f"rows: {matrix.shape[0]}, difference: {difference:.6f}",
        flush=True,
    )
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
