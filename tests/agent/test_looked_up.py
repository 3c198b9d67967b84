"""Destinations of a dynamic group that have to be looked up: any-of routing and interceptors."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

import asyncrpc as rpc
from tests.agent.answers import answer
from tests.agent.groups import at_rest
from tests.agent.test_dynamic import OPTIONS, be_deaf, group

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("to", ["b", 1])
async def test_hedged_and_any_call_look_up_who_they_do_not_know(to: Any) -> None:
    """A worker that nobody knows makes way for the next one when the store says so."""
    async with group() as join:
        a = await join("a", rank=0)
        be_deaf(a)
        await join("b", rank=1)
        hedged = await a.rpc_hedged(["nobody", to], answer, ({},), delay=100)
        chosen = await a.rpc_any([to], answer, ({},))
        with pytest.raises(rpc.UnknownWorkerError, match="nobody"):
            await a.rpc_any(["nobody"], answer, ({},))
        left = await at_rest([a])

    assert ["b", "b", {}] == [hedged, chosen, left]


@pytest.mark.parametrize("to", ["b", 1])
async def test_interceptors_see_who_is_looked_up(to: Any) -> None:
    """A chain around a call to an unknown worker ends as the call without it."""
    seen: list[str] = []

    class Watcher(rpc.Interceptor):
        async def outgoing(self, call: rpc.OutgoingCall, proceed: Any) -> Any:
            seen.append(call.function.rpartition(":")[2])
            await asyncio.sleep(0)
            return await proceed(call)

    options = dataclasses.replace(OPTIONS, interceptors=[Watcher()])
    async with group(options=options) as join:
        a = await join("a", rank=0)
        be_deaf(a)
        await join("b", rank=1)
        assert await a.rpc_async(to, answer, ({},)) == "b"
        with pytest.raises(rpc.UnknownWorkerError):
            await a.rpc_async("nobody", answer, ({},))
        left = await at_rest([a])

    assert [["answer", "answer"], {}] == [seen, left]
