"""`register_type`: classes of the user's travel by name, values and exceptions alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.wire import user_types

pytestmark = pytest.mark.asyncio


class Money:
    """A value that no codec knows and that pickle would refuse."""

    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __reduce__(self) -> str:
        raise TypeError("never pickled")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.cents == other.cents

    __hash__ = None  # type: ignore[assignment]  # a value that changes


class Broke(Exception):
    """An exception with a state of its own."""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    user_types.reset()


async def double(money: Money) -> list[Money]:
    """Return it twice; the callee sees the class itself."""
    assert type(money) is Money
    return [money, Money(2 * money.cents)]


async def fail() -> None:
    """Raise what is registered."""
    raise Broke("no money")


def register() -> None:
    """Register both classes."""
    rpc.register_type(Money, "money", lambda m: m.cents, Money)
    rpc.register_type(Broke, "broke", lambda e: list(e.args), lambda args: Broke(*args))


async def test_values_travel_both_ways() -> None:
    """An argument and a result are of the class itself, also with pickle off."""
    register()
    options = rpc.RpcOptions(expose=[double])
    async with cluster(2, options=options) as (a, _):
        result = await a.rpc_async("worker1", double, args=(Money(3),))

    assert [Money(3), Money(6)] == result


async def test_registered_while_agents_run() -> None:
    """It acts on agents that were started before."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.EncodingError, match=r"args\[0\]"):
            a.rpc_async("worker1", double, args=(Money(3),))
        register()
        result = await a.rpc_async("worker1", double, args=(Money(1),))

    assert [Money(1), Money(2)] == result


async def test_exceptions_arrive_as_themselves() -> None:
    """A registered exception is rebuilt by its own function."""
    register()
    async with cluster(2) as (a, _):
        with pytest.raises(Broke, match="no money") as caught:
            await a.rpc_async("worker1", fail)

    assert ("no money",) == caught.value.args
    assert "worker1" in str(caught.value.__cause__)


async def test_bad_arguments() -> None:
    """What cannot be registered is refused by name."""
    rpc.register_type(Money, "money", str, Money)

    with pytest.raises(ValueError, match="both class and name must be unique"):
        rpc.register_type(Broke, "money", str, Broke)
    with pytest.raises(TypeError, match="cls must be a class, got 3"):
        rpc.register_type(3, "three", str, int)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(TypeError, match="encode must be callable"):
        rpc.register_type(Broke, "broke", "x", int)  # type: ignore[arg-type]  # likewise
    with pytest.raises(ValueError, match="name must be a str of 1 to 255"):
        rpc.register_type(Broke, "", str, int)
    for native in (int, rpc.WorkerInfo, rpc.RRef):
        with pytest.raises(ValueError, match=f"does not travel by itself, got {native.__name__}"):
            rpc.register_type(native, "native", str, int)
