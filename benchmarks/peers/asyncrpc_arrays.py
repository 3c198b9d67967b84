"""Arrays of growing size between two asyncrpc workers, for bench_arrays: every feature on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import numpy as np

import asyncrpc as rpc
from harness.registry import is_present
from harness.samples import rate
from peers.asyncrpc_peer import connection_options, echo, take

__all__ = ("MEBIBYTES", "finish", "measure", "serve")

MEBIBYTES = (1, 4, 16, 64, 256)
"""Sizes that are sent, in MiB."""

_LEAST, _MOST = 3, 100  # repetitions of one size

_finished = asyncio.Event()


async def finish() -> None:
    """Let the server leave the group."""
    _finished.set()


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Join as rank 0 and serve until the client says it is finished."""

    async def main() -> None:
        ready(f"tcp://127.0.0.1:{spec['port']}")
        options = connection_options(spec, "server")
        async with rpc.init_rpc("server", rank=0, world_size=2, options=options):
            await _finished.wait()

    rpc.run(main())


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and return GB/s of each kind, size and direction."""

    async def main() -> dict[str, float]:
        options = connection_options(spec, "client")
        async with rpc.init_rpc("client", rank=1, world_size=2, options=options):
            figures: dict[str, float] = {}
            for kind, make in _kinds().items():
                for size in MEBIBYTES:
                    figures |= await _one_size(f"{kind}_{size}", make(size << 20), spec)
            await rpc.rpc_async("server", finish)
        return figures

    result: dict[str, float] = rpc.run(main())
    return result


def _kinds() -> dict[str, Callable[[int], Any]]:
    """Return how to make an array of so many bytes, of each kind that is installed."""
    kinds: dict[str, Callable[[int], Any]] = {"numpy": lambda size: np.ones(size // 4, np.float32)}
    if is_present("torch"):
        import torch

        kinds["torch"] = lambda size: torch.ones(size // 4)
    return kinds


async def _one_size(name: str, array: Any, spec: dict[str, object]) -> dict[str, float]:
    seconds = float(spec["seconds"])  # type: ignore[arg-type]  # json's float

    def send() -> Awaitable[object]:
        return rpc.rpc_async("server", take, args=(array,))

    def back() -> Awaitable[object]:
        return rpc.rpc_async("server", echo, args=(array,))

    sent, echoed = await _repeat(send, seconds), await _repeat(back, seconds)
    return {
        f"{name}_send_gb_s": rate(array.nbytes / 1e9, sent),
        f"{name}_echo_gb_s": rate(2 * array.nbytes / 1e9, echoed),
    }


async def _repeat(call: Callable[[], Awaitable[object]], seconds: float) -> list[float]:
    await call()
    samples: list[float] = []
    end = perf_counter() + seconds
    while len(samples) < _LEAST or (perf_counter() < end and len(samples) < _MOST):
        start = perf_counter()
        await call()
        samples.append(perf_counter() - start)
    return samples
