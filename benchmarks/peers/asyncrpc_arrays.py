"""Arrays of growing size between two asyncrpc workers, for bench_arrays: every feature on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import numpy as np

import asyncrpc as rpc
from harness.registry import is_present
from harness.samples import rate
from peers.asyncrpc_group import as_client, serve
from peers.asyncrpc_peer import echo, take

__all__ = ("MEBIBYTES", "measure", "serve")

MEBIBYTES = (1, 4, 16, 64, 256)
"""Sizes that are sent, in MiB."""

_LEAST, _MOST = 3, 100  # repetitions of one size


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and return GB/s of each kind, size and direction."""
    return as_client(spec, lambda: _measure(float(spec["seconds"])))  # type: ignore[arg-type]  # json's float


async def _measure(seconds: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for kind, make in _kinds().items():
        for size in MEBIBYTES:
            figures |= await _one_size(f"{kind}_{size}", make(size << 20), seconds)
    return figures


def _kinds() -> dict[str, Callable[[int], Any]]:
    """Return how to make an array of so many bytes, of each kind that is installed."""
    kinds: dict[str, Callable[[int], Any]] = {"numpy": lambda size: np.ones(size // 4, np.float32)}
    if is_present("torch"):
        import torch

        kinds["torch"] = lambda size: torch.ones(size // 4)
    return kinds


async def _one_size(name: str, array: Any, seconds: float) -> dict[str, float]:
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
