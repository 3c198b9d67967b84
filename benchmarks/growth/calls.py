"""Calls in flight at once between two workers over TCP: all have arrived before any is answered."""

from __future__ import annotations

import asyncio

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork
from growth.point import Held, timed

__all__ = ("measure", "meet")


class _Gate:
    """Opens when as many calls as are expected wait before it."""

    def __init__(self, size: int) -> None:
        self.opened = asyncio.Event()
        self.held = Held()
        self.fullest = 0
        self._missing = size

    async def pass_through(self) -> None:
        """Wait for the others."""
        self._missing -= 1
        if not self._missing:
            self.fullest = self.held.bytes()
            self.opened.set()
        await self.opened.wait()


_gates: list[_Gate] = []


async def meet(value: object) -> object:
    """Answer once all calls are here."""
    await _gates[-1].pass_through()
    return value


def measure(size: int) -> dict[str, float]:
    """Have `size` calls in flight; the seconds are from the first send to the last answer."""
    return rpc.run(_measure(size))


async def _measure(size: int) -> dict[str, float]:
    limits = rpc.Limits(max_inflight=size, max_queued=max(size, 100_000))
    options = rpc.RpcOptions(limits=limits, rpc_timeout=300.0)
    async with cluster(2, options=options, network=SocketNetwork()) as (ours, _):

        async def fly() -> None:
            _gates.append(_Gate(size))
            await asyncio.gather(*[ours.rpc_async("worker1", meet, args=(7,)) for _ in range(size)])

        seconds = await timed(fly)
        return {"seconds": seconds, "bytes": max(gate.fullest for gate in _gates)}
