"""References and calls between two workers of torch.distributed.rpc, for bench_rref."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from torch.distributed import rpc

from peers.torch_rpc import echo, join, serve

__all__ = ("Cell", "make", "measure", "serve")

_SMALL = {"id": 7, "name": "item"}
_BLOCK = 100  # operations of one kind before the next kind's turn, as in `asyncrpc_references`
_LIMIT = 4.0  # seconds for all of them


class Cell:
    """A value with a method."""

    def echo(self, value: object) -> object:
        """Give the argument back."""
        return value


def make(value: object) -> object:
    """Make a value of the argument."""
    return value


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and return microseconds per operation."""
    join(spec, "client", 1)
    figures = _measure(int(spec["operations"]))  # type: ignore[call-overload]  # json's int
    rpc.shutdown()
    return figures


def _measure(count: int) -> dict[str, float]:
    cell = rpc.remote("server", Cell)
    cell.to_here()
    proxy = cell.rpc_sync()

    def one_life() -> None:
        rpc.remote("server", make, args=(_SMALL,)).to_here()  # and let go of it

    kinds: dict[str, Callable[[], object]] = {
        "call_us": lambda: rpc.rpc_sync("server", echo, args=(_SMALL,)),
        "proxy_us": lambda: proxy.echo(_SMALL),
        "to_here_us": cell.to_here,
        "life_us": one_life,
    }
    totals = dict.fromkeys(kinds, 0.0)
    done, end = 0, perf_counter() + _LIMIT
    while done < count and perf_counter() < end:
        for name, operation in kinds.items():
            start = perf_counter()
            for _ in range(_BLOCK):
                operation()
            totals[name] += perf_counter() - start
        done += _BLOCK
    return {name: total / done * 1e6 for name, total in totals.items()}
