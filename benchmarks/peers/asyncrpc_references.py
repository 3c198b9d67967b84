"""References and calls between two asyncrpc workers, for bench_rref: every feature on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

import asyncrpc as rpc
from peers.asyncrpc_group import as_client, serve
from peers.asyncrpc_peer import echo

__all__ = ("Cell", "make", "measure", "serve")

_SMALL = {"id": 7, "name": "item"}
_BLOCK = 100  # operations of one kind before the next kind's turn: all see the same machine


class Cell:
    """A value with a method on the loop."""

    async def echo(self, value: object) -> object:
        """Give the argument back."""
        return value


async def make(value: object) -> object:
    """Make a value of the argument."""
    return value


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and return microseconds per operation."""
    return as_client(spec, lambda: _measure(int(spec["operations"])))  # type: ignore[call-overload]  # json's int


async def _measure(count: int) -> dict[str, float]:
    cell = rpc.remote("server", Cell)
    await cell
    proxy = cell.rpc_async()

    async def one_life() -> None:
        rref = rpc.remote("server", make, args=(_SMALL,))
        await rref.to_here()
        await rref.release()

    kinds: dict[str, Callable[[], Awaitable[object]]] = {
        "call_us": lambda: rpc.rpc_async("server", echo, args=(_SMALL,)),
        "proxy_us": lambda: proxy.echo(_SMALL),
        "to_here_us": cell.to_here,
        "life_us": one_life,
    }
    totals = dict.fromkeys(kinds, 0.0)
    for _ in range(count // _BLOCK):
        for name, operation in kinds.items():
            start = perf_counter()
            for _ in range(_BLOCK):
                await operation()
            totals[name] += perf_counter() - start
    await cell.release()
    done = count // _BLOCK * _BLOCK
    return {name: total / done * 1e6 for name, total in totals.items()}
