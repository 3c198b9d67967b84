"""What a conformance check is, and the steps that checks are made of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

from asyncrpc.store import Store, StoreEvent, StoreWatch

__all__ = (
    "SHORT",
    "ConformanceError",
    "Connect",
    "StoreCheck",
    "broken",
    "collect",
    "equal",
    "failing",
    "settle",
    "take",
    "true",
)

Connect = Callable[[], Awaitable[Store]]
"""Returns one more client of the store under test; whoever made it closes them."""

StoreCheck = Callable[[Connect], Coroutine[Any, Any, None]]
"""One rule."""

SHORT = 0.05
"""Seconds; for time-outs that are meant to expire."""


class ConformanceError(AssertionError):
    """A store broke a rule."""


async def settle(store: Store) -> None:
    """Wait until what a client has started has reached the store, and answers have come back."""
    await asyncio.sleep(0)
    await store.num_keys()  # behind all that was asked before
    await asyncio.sleep(0)


async def take(watch: StoreWatch, count: int) -> list[StoreEvent]:
    """Return the next events of a watch."""
    async with asyncio.timeout(5):
        return [await anext(watch) for _ in range(count)]


async def collect(watch: StoreWatch) -> list[StoreEvent]:
    """Return the events of a watch until it ends."""
    return [event async for event in watch]


async def failing(error_type: Any, operation: Awaitable[object]) -> Any:
    """Return the error an operation must end with."""
    try:
        async with asyncio.timeout(5):
            result = await operation
    except error_type as error:
        return error
    raise ConformanceError(f"expected {error_type}, got {result!r}")


def equal(actual: object, expected: object, rule: str) -> None:
    """Say which rule was broken, if two values or their types differ."""
    if actual != expected or type(actual) is not type(expected):
        broken(f"{rule}: expected {expected!r}, got {actual!r}")


def true(is_true: bool, rule: str) -> None:
    """Say which rule was broken, if it does not hold."""
    if not is_true:
        broken(rule)


def broken(rule: str) -> NoReturn:
    """Say which rule was broken."""
    raise ConformanceError(rule)
