"""The conformance suite notices stores that break its rules."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

import pytest

from asyncrpc.store import MemoryStore, Store
from asyncrpc.store.commands import Command
from asyncrpc.testing import conformance
from asyncrpc.testing.conformance import (
    SLOW_STORE_CHECKS,
    STORE_CHECKS,
    ConformanceError,
    StoreCheck,
)
from asyncrpc.testing.conformance.clients import operations_are_linearizable
from asyncrpc.testing.conformance.values import add_refuses_other_values
from asyncrpc.testing.conformance.waits import get_waits_for_the_key

CHECKED = ["connect"]  # what a check takes


class ForgetfulStore(MemoryStore):
    """Drops every third write."""

    count = 0

    async def set(self, key: str, value: object, **options: object) -> None:
        self.count += 1
        if self.count % 3:
            await super().set(key, value, **options)  # type: ignore[arg-type] # passed on


class TimelessStore(MemoryStore):
    """Lets nobody wait."""

    async def _call(self, command: Command, timeout: float | None = None, size: int = 0) -> object:
        if "timeout" in command._fields:
            command = command._replace(timeout=0.0)  # type: ignore[call-arg] # it has one
        return await super()._call(command, timeout, size)


class StaleStore(MemoryStore):
    """Answers each get with the value before."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, bytes] = {}

    async def get(self, key: str, *rest: object) -> bytes:
        value = await super().get(key, *rest)  # type: ignore[arg-type] # passed on
        self.seen[key], value = value, self.seen.get(key, value)
        return value


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("make", "check"),
    [
        (ForgetfulStore, add_refuses_other_values),
        (TimelessStore, get_waits_for_the_key),
        (StaleStore, operations_are_linearizable),
    ],
)
async def test_broken_stores_are_found(make: Callable[[], MemoryStore], check: StoreCheck) -> None:
    """The check of a rule fails for a store that breaks it."""
    async with make() as store:

        async def connect() -> Store:
            return store

        with pytest.raises((ConformanceError, TimeoutError, ExceptionGroup)):
            await check(connect)


def test_every_check_is_listed() -> None:
    """A check that stands in a module of the suite is run by those who run the suite."""
    modules = [
        import_module(f"{conformance.__name__}.{found.name}")
        for found in iter_modules(conformance.__path__)
    ]
    checks = {
        name
        for module in modules
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value)
        and list(inspect.signature(value).parameters) == ["connect"]
    }

    assert checks == {check.__name__ for check in STORE_CHECKS + SLOW_STORE_CHECKS}
