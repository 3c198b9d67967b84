"""What the reference's tests call, and the three ways in which they call it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncrpc as rpc

MODES = ("sync", "async", "remote")
"""`rpc_sync`, `rpc_async`, and `remote` with `to_here`."""


async def call(mode: str, agent: rpc.RpcAgent, to: Any, func: Any, args: Any = ()) -> Any:
    """Call a function in one of the three ways; return its result."""
    if mode == "sync":
        return await asyncio.to_thread(agent.rpc_sync, to, func, args)
    if mode == "async":
        return await agent.rpc_async(to, func, args)
    return await agent.remote(to, func, args)


async def call_method(mode: str, rref: rpc.RRef, name: str, *args: object, **time: Any) -> Any:
    """Call a method by reference in one of the three ways; return its result."""
    if mode == "sync":
        return await asyncio.to_thread(lambda: getattr(rref.rpc_sync(**time), name)(*args))
    if mode == "async":
        return await getattr(rref.rpc_async(**time), name)(*args)
    return await getattr(rref.remote(**time), name)(*args)


def add(a: int, b: int) -> int:
    """Add."""
    return a + b


async def double_by(to: str, value: int) -> int:
    """Build the result from that of another call, made later."""
    return 2 * int(await rpc.rpc_async(to, add, args=(value, 1)))


@rpc.functions.async_execution
def async_add(to: str, a: int, b: int) -> object:
    """Have another worker add."""
    return rpc.rpc_async(to, add, args=(a, b))


@rpc.functions.async_execution
def async_add_nested(to: str, a: int, b: int) -> object:
    """Have another worker have this one add."""
    me = rpc.current_agent().info.name
    return rpc.rpc_async(to, async_add, args=(me, a, b))


@rpc.functions.async_execution
def async_add_chained(to: str, a: int, b: int, c: int) -> Coroutine[Any, Any, int]:
    """Add to what another worker has added."""

    async def chained() -> int:
        return int(await rpc.rpc_async(to, add, args=(a, b))) + c

    return chained()


@rpc.functions.async_execution
def async_add_with_future_ctor(to: str, a: int, b: int, c: int) -> asyncio.Future[int]:
    """Complete a future of one's own in a callback."""
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    rpc.rpc_async(to, add, args=(a, b)).add_done_callback(
        lambda call: done.set_result(call.result() + c)
    )
    return done


@rpc.functions.async_execution
def async_add_chained_multi(to: str, a: int, steps: int, b: int) -> Coroutine[Any, Any, int]:
    """Add in so many steps, one after the other."""

    async def chained() -> int:
        value = a
        for _ in range(steps):
            value = await rpc.rpc_async(to, add, args=(value, b))
        return value

    return chained()


@rpc.functions.async_execution
def async_add_multi_fanout(to: str, a: int, times: int, b: int) -> Coroutine[Any, Any, int]:
    """Add at so many places at once."""

    async def fan_out() -> int:
        return sum(
            await asyncio.gather(*[rpc.rpc_async(to, add, args=(a, b)) for _ in range(times)])
        )

    return fan_out()


@rpc.functions.async_execution
def async_raise() -> object:
    """Raise before there is anything to wait for."""
    raise RuntimeError("Expected error")


@rpc.functions.async_execution
def async_wrong_type() -> object:
    """Return what cannot be awaited."""
    return 3


async def return_future() -> object:
    """Return what belongs to this process alone."""
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    done.set_result(1)
    return done


async def return_call() -> object:
    """Return a call that was not awaited."""
    return rpc.rpc_async(rpc.current_agent().info, add, args=(1, 2))


@rpc.script(name="reference later, marked first")
@rpc.functions.async_execution
def marked_first(value: int) -> asyncio.Future[int]:
    """Give the value in a future; the mark is below the registration."""
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    done.get_loop().call_soon(done.set_result, value)
    return done


class AsyncExecutionClass:
    """Methods that give awaitables, of every kind."""

    @staticmethod
    @rpc.functions.async_execution
    def static_async_add(to: str, a: int, b: int, c: int) -> object:
        """Need no instance."""
        return AsyncExecutionClass.chained(to, a, b, c)

    @classmethod
    @rpc.functions.async_execution
    def class_async_add(cls, to: str, a: int, b: int, c: int) -> object:
        """Need the class."""
        return cls.chained(to, a, b, c)

    @rpc.functions.async_execution
    def bound_async_add(self, to: str, a: int, b: int, c: int) -> object:
        """Need an instance."""
        return self.chained(to, a, b, c)

    @staticmethod
    async def chained(to: str, a: int, b: int, c: int) -> int:
        """Add to what another worker has added."""
        return int(await rpc.rpc_async(to, add, args=(a, b))) + c


class CustomException(Exception):
    """Cannot be constructed a second time."""

    def __init__(self, is_first: bool, text: str) -> None:
        assert is_first, "made twice"
        super().__init__(text)


def raise_custom() -> None:
    """Raise what cannot be constructed from what it carries."""
    raise CustomException(True, "the original text")
