"""Messages that are too large for one side are refused by the other, and the link stays."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.agent import targets
from tests.agent.groups import any_network, at_rest, link, until

pytestmark = pytest.mark.asyncio

LARGE = 3 << 20
SMALL = rpc.RpcOptions(limits=rpc.Limits(max_message_size=1 << 20))


@contextlib.asynccontextmanager
async def uneven(kind: str = "memory") -> AsyncIterator[list[Any]]:
    """Run a worker that takes large messages, and one that does not."""
    async with (
        any_network(kind) as network,
        cluster(2, network=network, options=[rpc.RpcOptions(), SMALL]) as workers,
    ):
        yield workers


@pytest.mark.parametrize("kind", ["memory", "tcp"])
@pytest.mark.parametrize("argument", [b"x" * LARGE, "x" * LARGE])
async def test_callee_that_takes_less(kind: str, argument: object) -> None:
    """A call that the callee would not take fails alone, before and after there is a link."""
    async with uneven(kind) as (a, _):
        small = a.rpc_async("worker1", targets.add, args=(1,))
        calls = [a.rpc_async("worker1", len, args=(argument,), timeout=5)]
        first = await small
        opened = link(a, "worker1")
        with pytest.raises(rpc.MessageTooLargeError, match=r"max_message_size 1048576 of worker1$"):
            await calls[0]
        with pytest.raises(rpc.MessageTooLargeError, match=r"max_message_size 1048576 of worker1$"):
            await a.rpc_async("worker1", len, args=(argument,), timeout=5)
        second = await a.rpc_async("worker1", targets.add, args=(1,))

        assert opened is link(a, "worker1")
    assert [11, 11] == [first, second]


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_caller_that_takes_less(kind: str) -> None:
    """So does one whose result its caller would not take, and a stream at such an item."""
    got = []
    async with uneven(kind) as (a, b):
        with pytest.raises(rpc.MessageTooLargeError, match=r"result has .* above") as caught:
            await b.rpc_async("worker0", bytes, args=(LARGE,))
        opened = link(b, "worker0")
        with pytest.raises(rpc.MessageTooLargeError, match=r"item has .* above"):
            async for item in b.rpc_stream("worker0", growing):
                got.append(len(item))  # noqa: PERF401 -- what came before the error counts
        answer = await b.rpc_async("worker0", targets.add, args=(1,))

        assert opened is link(b, "worker0")
        assert len(await a.rpc_async("worker1", bytes, args=(1 << 19,))) == 1 << 19
    assert caught.value.delivery is rpc.Delivery.EXECUTED
    assert [1 << 10, 1 << 19] == got
    assert 11 == answer


async def test_one_way_calls(caplog: pytest.LogCaptureFixture) -> None:
    """A one-way call that has to wait for the link is logged, and lets go what it referred to."""
    async with uneven() as (a, b):
        a.rpc_notify("worker1", targets.add, args=(a.rref([1]), b"x" * LARGE))
        await until(lambda: link(a, "worker1") is not None)
        left = await at_rest([a, b])
        kept = a.rref_debug()

    assert [] == kept
    assert not any(left.values())
    assert "a one-way call to worker1 was not sent: the arguments of NOTIFY have" in caplog.text


async def test_references(caplog: pytest.LogCaptureFixture) -> None:
    """References among the arguments of a call that is refused late are let go."""
    async with uneven() as (a, b):
        with pytest.raises(rpc.MessageTooLargeError):
            await a.rpc_async("worker1", len, args=([a.rref([1]), b"x" * LARGE],), timeout=5)
        await at_rest([a, b])
        kept = a.rref_debug()

    assert [] == kept
    assert "" == caplog.text


async def test_given_up_before_there_is_a_link() -> None:
    """A call that was cancelled while it waited for the link is none that could be too large."""
    async with uneven() as (a, _):
        call = a.rpc_async("worker1", len, args=(b"x" * LARGE,))
        call.cancel()
        answer = await a.rpc_async("worker1", targets.add, args=(1,))

    assert 11 == answer
    assert call.cancelled()


async def growing() -> AsyncIterator[bytes]:
    """Give items, the last of which is too large for some."""
    for size in (1 << 10, 1 << 19, LARGE):
        yield bytes(size)
        await asyncio.sleep(0)
