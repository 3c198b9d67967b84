"""Destinations of a dynamic group that have to be looked up: any-of routing and interceptors."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
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


@contextlib.asynccontextmanager
async def before_b_is_found() -> AsyncIterator[tuple[rpc.RpcAgent, rpc.RpcAgent, rpc.RpcAgent]]:
    """Give workers a, b and c; a does not know b, nor d. Look at what is left of references."""
    async with group() as join:
        a = await join("a", rank=0)
        c = await join("c", rank=2)
        await a.rpc_async("c", answer, ({},))
        be_deaf(a)
        b, d = await join("b", rank=1), await join("d", rank=3)
        yield a, b, c
        assert {} == await workers.empty([a, b, c, d])


async def create_there(to: str) -> list[rpc.RRef]:
    """Return two references to a value on a worker that this one may not know yet."""
    rref = rpc.remote(to, Counter, args=(5,))
    return [rref, rref]


async def stream_there(to: str) -> AsyncIterator[rpc.RRef]:
    """Give such a reference as an item."""
    yield rpc.remote(to, Counter)


async def test_a_reference_goes_elsewhere_as_soon_as_its_owner_is_known() -> None:
    """In calls, creations, one-way calls, and to the owner itself; all are made at once."""
    async with before_b_is_found() as (a, _, c):
        rref = a.remote("b", Counter, args=(1,))
        others = [a.remote("b", int, args=(10,)), a.remote("d", int, args=(20,))]
        back = a.rpc_async("c", workers.echo, args=(rref,))
        total = a.rpc_async("c", workers.add_values, args=others)
        made = a.remote("c", workers.echo, args=({"rref": rref},))
        again = a.rpc_async("c", workers.echo, args=(rref,), retry=rpc.RetryPolicy())
        home = a.rpc_async("b", workers.is_confirmed, args=(rref,))
        a.rpc_notify("c", workers.keep, args=(rref,))
        assert repr(back).startswith("<RpcFuture pending")
        assert 2 == await (await back).rpc_async().plus()
        assert 2 == (await (await made)["rref"]).value
        assert rref.owner() == (await again).owner()
        assert await home
        assert 30 == await total
        await until(lambda: workers.kept)
        await c.rpc_async("c", workers.forget)
        del rref, others, back, total, made, again, home


async def test_a_stream_with_such_a_reference_among_its_arguments() -> None:
    """It begins as soon as the owner is known, may be left before that, and fails without one."""
    async with before_b_is_found() as (a, _, c):
        rref = a.remote("b", Counter, args=(1,))
        items = a.rpc_stream("c", workers.one_by_one, args=(rref, 7))
        left = a.rpc_stream("c", workers.one_by_one, args=(rref,))
        chosen = a.rpc_any(["c"], workers.echo, (rref,))
        await left.aclose()
        back, seven = [item async for item in items]
        assert 7 == seven
        assert back.owner() == rref.owner() == (await chosen).owner()
        nobodys = a.remote("nobody", Counter)
        with pytest.raises(rpc.RRefCreationError):
            async for _item in a.rpc_stream("c", workers.one_by_one, args=(nobodys,)):
                pass
        assert 0 == c.references.machine.counts()["num_pending_users"]
        del rref, nobodys, items, left, chosen, back


@pytest.mark.parametrize("options", [{}, {"idempotent": True}])
async def test_a_result_waits_for_the_owner_of_what_it_refers_to(options: Any) -> None:
    """An item of a stream does not: it says what to do."""
    async with before_b_is_found() as (_, _, c):
        one, other = await c.rpc_async("a", create_there, args=("b",), **options)
        assert 5 == (await one).value
        assert one.owner() == other.owner() == rpc.WorkerInfo("b", 1)
        del one, other
        with pytest.raises(rpc.EncodingError, match="await the reference first"):
            async for _item in c.rpc_stream("a", stream_there, args=("d",)):
                pass


async def test_a_message_that_waits_for_an_owner_may_be_given_up() -> None:
    """Cancelled or timed out it never goes, and what it enclosed is taken back."""
    async with before_b_is_found() as (a, _, _):
        rref = a.remote("b", Counter, args=(1,))
        cancelled = a.rpc_async("c", workers.keep, args=(rref,))
        again = a.rpc_async("c", workers.keep, args=(rref,), retry=rpc.RetryPolicy())
        cancelled.cancel()
        again.cancel()
        late = a.rpc_async("c", workers.keep, args=(rref,), timeout=1e-9)
        with pytest.raises(rpc.RpcTimeoutError, match="keep on c"):
            await late
        assert 1 == (await rref).value
        assert [] == workers.kept
        del rref, cancelled, again, late


async def test_a_message_whose_owner_is_not_found_fails(caplog: pytest.LogCaptureFixture) -> None:
    """As the creation did; a one-way call says so in the log."""
    async with before_b_is_found() as (a, _, c):
        rref = a.remote("nobody", Counter)
        given = a.rpc_async("c", workers.keep, args=(rref,))
        a.rpc_notify("c", workers.keep, args=(rref,))
        for call in (given, c.rpc_async("a", create_there, args=("nobody",))):
            with pytest.raises(rpc.RRefCreationError, match=r"^RRef creation.*find dest.* nobody"):
                await call
        with pytest.raises(rpc.RRefCreationError):
            a.rpc_async("c", workers.keep, args=(rref,))
        assert "a one-way call to c was not sent: RRef creation" in caplog.text
        assert [] == workers.kept
        del rref, given, call
