"""LIMIT raw: frames of bytes echoed on uvloop, one write per loop turn, no serialization.

Small values are packed once, before the clock starts. Arrays: see `limits.arrays`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

import msgpack
import numpy as np
import uvloop

from harness.async_load import AsyncClient, run_load
from harness.budget import Budget, small_value
from harness.samples import rate
from limits.arrays import ArrayClient, ArrayServer
from limits.framing import FrameProtocol
from limits.sockets import dial, serve_forever

__all__ = ("measure", "serve")


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve frames and, on a second endpoint, arrays."""
    serve_forever(spec, ready, _FrameServer, ArrayServer)


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run the load of an RPC peer plus the figures only this row has."""
    return uvloop.run(_measure(spec))


async def _measure(spec: dict[str, object]) -> dict[str, float]:
    arrays = await dial(spec, ArrayClient, index=1)
    client = AsyncClient(
        call=(await dial(spec, _FrameClient)).call,
        send_array=arrays.send_array,
        echo_array=arrays.echo_array,
    )
    figures = await run_load(client, spec, value=msgpack.packb(small_value(str(spec["small"]))))
    return figures | await _array_floors(arrays, Budget(**spec["budget"]))  # type: ignore[arg-type]


async def _array_floors(arrays: ArrayClient, budget: Budget) -> dict[str, float]:
    """Return one way into fresh memory, and plain memory copies of the same size."""
    array = np.arange(budget.array_bytes // 4, dtype=np.float32)
    target = array.copy()
    fresh, copies = [], []
    for _ in range(budget.array_calls):
        start = perf_counter()
        await arrays.send_fresh(array)
        fresh.append(perf_counter() - start)
    for _ in range(budget.array_calls):
        start = perf_counter()
        np.copyto(target, array)
        copies.append(perf_counter() - start)
    return {
        "array_send_fresh_gb_s": rate(array.nbytes / 1e9, fresh),
        "memcpy_gb_s": rate(array.nbytes / 1e9, copies),
    }


class _FrameServer(FrameProtocol):
    """Echoes each frame by itself: a server of an RPC system does not see runs of them."""

    frame_received = FrameProtocol.send


class _FrameClient(FrameProtocol):
    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.Future[object]] = {}
        self._next_id = 0

    def call(self, payload: bytes) -> asyncio.Future[object]:
        """Send a frame and return the future of its echo."""
        self._next_id = call_id = self._next_id + 1
        self._pending[call_id] = future = self._loop.create_future()
        self.send(call_id, payload)
        return future

    def frame_received(self, call_id: int, payload: bytes | bytearray) -> None:
        self._pending.pop(call_id).set_result(payload)
