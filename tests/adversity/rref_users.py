"""What users do with references in the mesh: functions on workers that hold and pass them on."""

from __future__ import annotations

import collections
from collections.abc import AsyncIterator
from typing import Any

import asyncrpc as rpc

held: collections.defaultdict[str, list[rpc.RRef]] = collections.defaultdict(list)
"""References that each worker holds between calls, by its name."""


failed: set[str] = set()
"""Calls that have had their first run."""


class Token:
    """A value that knows which one it is."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def get(self) -> int:
        """Say which one it is."""
        return self.number

    async def next(self) -> Token:
        """Make another one."""
        return Token(self.number + 1)


def _mine() -> list[rpc.RRef]:
    return held[rpc.current_agent().info.name]


async def own(number: int) -> rpc.RRef:
    """Return a reference to a value of this worker's own."""
    return rpc.RRef(Token(number))


async def swap(given: list[rpc.RRef], count: int) -> list[tuple[int, rpc.RRef]]:
    """Hold what is given, after a look at it; give others away, each with its number."""
    assert all(rref.confirmed_by_owner() for rref in given), "unconfirmed in user code"
    mine = _mine()
    mine += given
    return [(await rref.rpc_async().get(), rref) for rref in mine[:count]]


async def hand_out(given: list[rpc.RRef], count: int) -> AsyncIterator[tuple[int, rpc.RRef]]:
    """Do the same as a stream."""
    for pair in await swap(given, count):
        yield pair


async def swap_at_last(given: list[rpc.RRef], call: str) -> list[tuple[int, rpc.RRef]]:
    """Do the same in the second run of a call."""
    if call not in failed:
        failed.add(call)
        raise BlockingIOError("not now")
    return await swap(given, 1)


async def note(given: list[rpc.RRef]) -> None:
    """Hold what came one way."""
    _mine().extend(given)


async def forget(count: int) -> None:
    """Let some go."""
    del _mine()[:count]


async def relay(names: list[str], rref: rpc.RRef) -> Any:
    """Pass a reference on, and return what the last worker reads."""
    if not names:
        return (await rref).number
    return await rpc.rpc_async(names[0], relay, args=(names[1:], rref))
