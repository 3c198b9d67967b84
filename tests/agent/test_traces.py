"""A W3C traceparent rides on calls of every kind, and on those that they make."""

from __future__ import annotations

from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.wire import HeaderMap
from tests.agent import traced
from tests.agent.groups import any_network, until

pytestmark = pytest.mark.asyncio

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
LATER = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what.comes"


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_rides_on_calls_and_on_those_they_make(kind: str) -> None:
    """It goes as far as the chain of calls; outside of the block there is none."""
    async with any_network(kind) as network, cluster(3, network=network) as (a, *_):
        with rpc.traceparent(TRACE):
            assert TRACE == rpc.current_traceparent()
            chain = await a.rpc_async("worker1", traced.trace_over, (["worker2", "worker0"],))
            thread = await a.rpc_async("worker1", traced.trace_in_a_thread)
        without = await a.rpc_async("worker1", traced.trace_over, (["worker2"],))
        assert rpc.current_traceparent() is None

    assert [[TRACE] * 3, TRACE, [None, None]] == [chain, thread, without]


async def test_rides_on_notifications_and_streams() -> None:
    """The other kinds of call carry it too."""
    traced.notified.clear()
    async with cluster(2) as (a, _):
        with rpc.traceparent(LATER):
            a.rpc_notify("worker1", traced.note)
            items = [item async for item in a.rpc_stream("worker1", traced.items_of, ("worker0",))]
        await until(lambda: traced.notified)

    assert [[LATER], [LATER, LATER]] == [traced.notified, items]


async def test_inner_blocks_and_served_calls() -> None:
    """The innermost counts, and ends with its block."""
    async with cluster(3) as (a, *_):
        with rpc.traceparent(TRACE):
            with rpc.traceparent(OTHER):
                inner = await a.rpc_async("worker1", traced.trace)
            outer = await a.rpc_async("worker1", traced.trace)
            served = await a.rpc_async("worker1", traced.trace_of_another, ("worker2", OTHER))

    assert [OTHER, TRACE, [OTHER, TRACE]] == [inner, outer, served]


async def test_what_is_no_traceparent_is_refused() -> None:
    """At the call, with the rule; one that a peer sends is none, and is passed over."""
    wrong: list[Any] = [
        "",
        None,
        7,
        TRACE.upper(),
        TRACE[:-1],
        f"{TRACE}-more",
        f"ff{TRACE[2:]}",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        f"{TRACE}\n",
        f"{LATER}{'x' * 500}",
    ]
    for value in wrong:
        with pytest.raises(ValueError, match=r"traceparent must be .* got"):
            rpc.traceparent(value)
    async with cluster(2) as (a, _):
        caller = a._agent.caller
        caller.carried = lambda *_: HeaderMap(trace="nonsense").encode()  # type: ignore[method-assign]  # as a foreign peer might
        with rpc.traceparent(TRACE):
            assert await a.rpc_async("worker1", traced.trace) is None
