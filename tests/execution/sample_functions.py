"""Callables of every kind, for the tests of naming and exposure to name and find."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from os import getpid
from typing import Any

from asyncrpc.functions import async_execution, inline

__all__ = ("getpid",)


def add(a: int, b: int) -> int:
    return a + b


def _hidden() -> None:
    pass


async def add_async(a: int, b: int) -> int:
    return a + b


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


@inline
def add_inline(a: int, b: int) -> int:
    return a + b


@async_execution
def add_later(a: int, b: int) -> Awaitable[int]:
    return add_async(a, b)


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@logged
def wrapped(a: int) -> int:
    return a


@functools.lru_cache
def cached(a: int) -> int:
    return a


class Counter:
    step = 1
    environ = os.environ
    run = os.system

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    async def increment_async(self) -> int:
        return self.increment()

    @classmethod
    def make(cls, start: int) -> Counter:
        return cls(start)

    @staticmethod
    def double(a: int) -> int:
        return 2 * a

    @staticmethod
    @async_execution
    def later_static(a: int) -> Awaitable[int]:
        return add_async(a, a)

    @classmethod
    @async_execution
    def later_class(cls, a: int) -> Awaitable[int]:
        return add_async(a, a)

    @inline
    @staticmethod
    def inline_outside(a: int) -> int:
        return a

    def _private(self) -> None:
        pass

    class Part:
        def size(self) -> int:
            return 1


class BigCounter(Counter):
    def increment(self, by: int = 1) -> int:
        return super().increment(10 * by)

    def plain(self) -> Callable[..., int]:
        return super().increment


class Adder:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, a: int) -> int:
        return self.n + a


class AsyncAdder(Adder):
    async def __call__(self, a: int) -> int:  # type: ignore[override]  # the point of it
        return self.n + a


class Unhashable(Adder):
    __hash__ = None  # type: ignore[assignment]  # the point of it

    def __eq__(self, other: object) -> bool:
        return True


add_five = functools.partial(add, 5)
add_five_async = functools.partial(add_async, 5)
adder = Adder(3)
async_adder = AsyncAdder(3)
number = 3
system = os.system
