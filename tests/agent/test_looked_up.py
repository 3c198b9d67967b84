"""Destinations of a dynamic group that have to be looked up: any-of routing and interceptors."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

import asyncrpc as rpc
from tests.agent.answers import answer
from tests.agent.groups import at_rest, until
from tests.agent.test_dynamic import OPTIONS, be_deaf, group
from tests.rref import workers
from tests.rref.workers import Counter

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


@pytest.mark.parametrize("to", ["b", 1])
@pytest.mark.parametrize("is_intercepted", [False, True])
async def test_references_to_and_on_who_is_looked_up(to: Any, *, is_intercepted: bool) -> None:
    """`remote` returns at once, is used at once, and means a value of the worker that is found."""
    options = OPTIONS
    if is_intercepted:
        options = dataclasses.replace(OPTIONS, interceptors=[rpc.Interceptor()])
    async with group(options=options) as join:
        a = await join("a", rank=0)
        be_deaf(a)
        b = await join("b", rank=1)
        mine = a.rref([])
        rref = a.remote(to, Counter, args=(1,))
        method = rref.rpc_async().async_plus(2)
        made = rref.remote().async_plus(10)
        assert not rref.is_owner()
        given = a.rpc_async(to, workers.echo, args=([mine],))
        a.rpc_notify(to, workers.keep, args=(mine,))
        assert 3 == await method
        assert 13 == await made
        assert 13 == (await rref).value
        assert ("b", b.info) == (rref.owner_name(), made.owner())
        assert rref.confirmed_by_owner()
        (home,) = await given
        assert home.local_value() is mine.local_value()
        assert 13 == (await a.rpc_async("b", workers.own_value_of, args=(rref,))).value
        await until(lambda: workers.kept)
        workers.kept.clear()
        await rref.release()
        del mine, rref, method, made, given, home
        assert {} == await workers.empty([a, b])


async def test_a_reference_that_is_given_up_meanwhile() -> None:
    """Released or dropped before its owner is known: the owner is told as ever."""
    async with group() as join:
        a = await join("a", rank=0)
        be_deaf(a)
        b = await join("b", rank=1)
        released, dropped = a.remote("b", Counter), a.remote("b", Counter)
        del dropped
        await asyncio.wait_for(released.release(), 10)
        assert {} == await workers.empty([a, b])


@pytest.mark.parametrize("is_intercepted", [False, True])
async def test_references_to_nobody(*, is_intercepted: bool) -> None:
    """The error comes with the first use, and nothing of it is left."""
    options = OPTIONS
    if is_intercepted:
        options = dataclasses.replace(OPTIONS, interceptors=[rpc.Interceptor()])
    async with group(options=options) as join:
        a = await join("a", rank=0)
        mine = a.rref([])
        rref = a.remote("nobody", Counter)
        early = rref.to_here()
        method = rref.rpc_async().plus(1)
        made = rref.remote().plus(1)
        given = a.rpc_async("nobody", workers.echo, args=([mine],))
        a.rpc_notify("nobody", workers.keep, args=(mine,))
        for call in (early, method, given):
            with pytest.raises(rpc.RpcError, match="could not find destination"):
                await call
        for use in (rref.to_here, rref.rpc_async().plus, made.to_here):
            with pytest.raises(rpc.RRefCreationError, match="could not find destination"):
                await use()
        assert not rref.confirmed_by_owner()
        await until(lambda: a.references.machine.counts()["num_forks"] == 0)
        del mine, rref, early, method, made, given, call, use
        await asyncio.sleep(0.01)
        assert {} == await workers.empty([a])


async def test_a_reference_cannot_go_elsewhere_before_its_owner_is_known() -> None:
    """Nobody could read it there; once the owner is found it goes."""
    async with group() as join:
        a = await join("a", rank=0)
        c = await join("c", rank=2)
        await a.rpc_async("c", answer, ({},))
        be_deaf(a)
        b = await join("b", rank=1)
        rref = a.remote("b", Counter, args=(1,))
        with pytest.raises(rpc.UnknownWorkerError, match="await it first"):
            a.rpc_async("c", workers.echo, args=(rref,))
        await rref
        back = await a.rpc_async("c", workers.echo, args=(rref,))
        assert 2 == await back.rpc_async().plus()
        del rref, back
        assert {} == await workers.empty([a, b, c])
