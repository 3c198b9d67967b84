"""Script functions that tests call on other workers."""

from __future__ import annotations

import asyncio

import asyncrpc as rpc

ran: list[str] = []
"""Names of the functions that ran."""


@rpc.script
def add(a: int, b: int = 2, c: int = 3, d: int = 4) -> int:
    """Add up."""
    ran.append("add")
    return a + b + c + d


@rpc.script(name="scale")
async def scale(values: list[float], by: float) -> list[float]:
    """Multiply each, on the loop."""
    ran.append("scale")
    return [value * by for value in values]


@rpc.functions.async_execution
@rpc.script(name="later")
def later(value: int) -> asyncio.Future[int]:
    """Give the value in the next turn."""
    done = asyncio.get_running_loop().create_future()
    done.get_loop().call_soon(done.set_result, value)
    return done


@rpc.script(name="inline")
@rpc.inline
def inline(value: int) -> int:
    """Run on the loop at once."""
    return value + 1


class Odd:
    """Travels only as pickle."""

    def __reduce__(self) -> tuple[type[Odd], tuple[()]]:
        return Odd, ()


@rpc.script(name="odd")
def odd() -> object:
    """Return what no script function may return."""
    return Odd()


@rpc.script(name="anything")
def anything(value: object) -> str:
    """Take whatever travels without pickle."""
    return type(value).__name__


@rpc.script(name="wait")
async def wait(seconds: float) -> None:
    """Take a while."""
    await asyncio.sleep(seconds)


def not_a_script(value: object) -> str:
    """Is no script function."""
    return type(value).__name__


@rpc.script(name="fail")
def fail(text: str) -> None:
    """Raise a ValueError."""
    raise ValueError(text)
