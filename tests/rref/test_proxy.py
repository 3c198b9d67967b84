"""Proxies: methods called where the value is, in one round trip."""

from __future__ import annotations

import asyncio
import copy
import threading
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import until
from tests.rref import workers
from tests.rref.workers import Counter, empty

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("to", ["worker1", "worker0"])
async def test_every_kind_of_method(to: str) -> None:
    """In a thread, on the loop, static, class, and async_execution; on peers and on oneself."""
    async with cluster(2) as (a, b):
        rref = a.remote(to, Counter, args=(1,))
        proxy = rref.rpc_async()
        results = [
            await proxy.plus(2),
            await proxy.async_plus(n=3),
            await proxy.get(),
            await proxy.twice(4),
            (await proxy.make(5)).value,
            await proxy.later("worker1"),
        ]
        with pytest.raises(KeyError, match="on purpose") as caught:
            await proxy.fail()
        left: Any = (rref, proxy)
        del rref, proxy, left
        rest = await empty((a, b))

    assert [3, 6, 6, 8, 5, 7] == results
    assert "Counter.fail" in str(caught.value.__cause__)
    assert {} == rest


async def test_methods_of_any_value() -> None:
    """Values need not know that they are referred to."""
    async with cluster(2) as (a, _):
        rref = a.remote("worker1", dict, kwargs={"x": 1})

        assert {"x": 1} == await rref.rpc_async().copy()
        assert 1 == await rref.rpc_async().get("x")


async def test_remote_results() -> None:
    """`.remote()` gives a reference to the result, at once; it can be gone on from."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", Counter, args=(1,))
        made = rref.remote().make(10)
        twice = made.remote().plus(5).remote().bit_length()
        failed = rref.remote().fail()
        missing = rref.remote().missing()
        results = (await twice, (await made).value, made.owner_name())
        with pytest.raises(KeyError, match="on purpose"):
            await failed
        with pytest.raises(AttributeError, match="missing"):
            await missing
        del rref, made, twice, failed, missing
        left = await empty((a, b))

    assert (4, 15, "worker1") == results
    assert {} == left


async def test_one_round_trip_on_a_pending_value() -> None:
    """Creation, call and read go out together; nothing waits for an answer in between."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", workers.make_slowly, args=("gate", Counter(1)))
        call = rref.rpc_async().plus()
        reading = rref.to_here()
        await until(lambda: len(b.references.machine._owners._fetches) == 2)
        assert not call.done()
        assert not reading.done()
        workers.open_gate("gate")

        assert 2 == await call
        assert (await reading).value in (1, 2)


async def test_timeout_covers_the_making() -> None:
    """A call of a method waits for the value within its own time; the reference stays good."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        rref = a.remote("worker1", workers.make_slowly, args=("gate", Counter(1)), timeout=None)
        call = rref.rpc_async(timeout=5).plus()
        await until(lambda: b.references.machine._owners._fetches)
        await clock.advance(5.001)
        with pytest.raises(rpc.RpcTimeoutError, match=r"\.plus on worker1"):
            await call
        workers.open_gate("gate")
        assert 2 == await rref.rpc_async(timeout=5).plus()
        slow = rref.rpc_async(timeout=1).slow("never")
        await until(lambda: len(b._agent.servers) and any(s.calls for s in b._agent.servers))
        await clock.advance(1.001)
        with pytest.raises(rpc.RpcTimeoutError):
            await slow
        for bad in (-1, float("nan"), "3"):
            with pytest.raises(ValueError, match="timeout"):
                rref.rpc_async(timeout=bad).plus()  # type: ignore[arg-type]
        del rref
        assert {} == await empty((a, b))


async def test_cancelling_a_call() -> None:
    """A method is cancelled as any function; one that waits for the value never runs."""
    async with cluster(2) as (a, b):
        value = Counter(1)
        rref = a.remote("worker1", workers.make_slowly, args=("gate", value))
        waiting = rref.rpc_async().plus()
        await until(lambda: b.references.machine._owners._fetches)
        waiting.cancel()
        await until(lambda: not b.references.machine._owners._fetches)
        workers.open_gate("gate")
        assert 1 == (await rref).value
        running = rref.rpc_async().slow("never")
        await until(lambda: any(s.calls for s in b._agent.servers))
        running.cancel()
        del rref, waiting, running
        assert {} == await empty((a, b))


async def test_blocking_calls() -> None:
    """`.rpc_sync()` blocks other threads, and refuses to block the loop."""
    async with cluster(2) as (a, _):
        rref = a.remote("worker1", Counter, args=(1,))
        assert 2 == await asyncio.to_thread(lambda: rref.rpc_sync().plus())
        assert 4 == await a.rpc_async("worker1", workers.blocking, args=(rref,))
        with pytest.raises(KeyError):
            await asyncio.to_thread(lambda: rref.rpc_sync().fail())
        with pytest.raises(RuntimeError, match="would block the loop"):
            rref.rpc_sync().plus()
        failures: list[BaseException] = []

        def misuse() -> None:
            for use in (rref.rpc_async().plus, rref.to_here):
                try:
                    use()
                except RuntimeError as error:
                    failures.append(error)

        thread = threading.Thread(target=misuse)
        thread.start()
        thread.join()

    assert 2 == len(failures)


async def test_missing() -> None:
    """Neither what the value has not nor what is no method is called; the error names it."""
    async with cluster(2) as (a, _):
        rref = a.remote("worker1", Counter)
        with pytest.raises(AttributeError, match="no attribute 'missing'"):
            await rref.rpc_async().missing()
        with pytest.raises(AttributeError, match="no attribute 'missing'"):
            await asyncio.to_thread(lambda: rref.rpc_sync().missing())
        with pytest.raises(AttributeError, match="no attribute 'missing'"):
            await rref.remote().missing()
        with pytest.raises(TypeError, match=r"Counter\.value is no method"):
            await rref.rpc_async().value()


async def test_special_and_private_methods() -> None:
    """As with a reference of torch's; where functions are exposed only public ones are called."""
    async with cluster(2) as (a, _):
        items = a.remote("worker1", dict, kwargs={"x": 1})
        await items.rpc_async().__setitem__("y", 2)
        both = await items.remote().__or__({"z": 3})
        count = await asyncio.to_thread(lambda: items.rpc_sync().__len__())
        hidden = await a.remote("worker1", Counter, args=(5,)).rpc_async()._hidden()
        with pytest.raises(TypeError, match="cannot be copied"):
            copy.deepcopy(items.rpc_async())
        again = await copy.copy(items.rpc_async()).get("x")
    async with cluster(2, options=rpc.RpcOptions(expose=[Counter])) as (a, _):
        rref = a.remote("worker1", Counter, args=(5,))
        with pytest.raises(rpc.PermissionDeniedError, match=r"Counter\._hidden"):
            await rref.rpc_async()._hidden()
        assert 5 == await rref.rpc_async().get()

    assert {"x": 1, "y": 2, "z": 3} == both
    assert (2, 5, 1) == (count, hidden, again)


async def test_argument_that_cannot_travel() -> None:
    """It is refused at the call, with its path, and the reference stays good."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", Counter)
        other = a.rref(1)
        with pytest.raises(rpc.EncodingError, match=r"args\[1\]"):
            rref.rpc_async().plus(other, lambda: 1)
        with pytest.raises(rpc.EncodingError, match=r"kwargs\['n'\]"):
            rref.remote().plus(n=lambda: 1)

        assert 1 == await rref.rpc_async().plus()
        del rref, other
        assert {} == await empty((a, b))


async def test_only_what_is_exposed() -> None:
    """With ``expose`` methods of exposed classes are called, and nothing else of any value."""
    exposed = rpc.RpcOptions(expose=[Counter, workers.make_rrefs, workers.echo])
    async with cluster(2, options=[rpc.RpcOptions(), exposed]) as (a, _):
        rref = a.remote("worker1", Counter, args=(1,))
        assert 3 == await rref.rpc_async().plus(2)
        assert 8 == await rref.rpc_async().twice(4)
        (of_list,) = await a.rpc_async("worker1", workers.make_rrefs, args=(1,))
        with pytest.raises(rpc.PermissionDeniedError, match=r"list\.append"):
            await of_list.rpc_async().append(1)
        inherited = a.remote("worker1", workers.Gated)
        with pytest.raises(rpc.PermissionDeniedError, match="Gated"):
            await inherited
        for name in ("value", "shared", "missing", "mro"):
            with pytest.raises(rpc.PermissionDeniedError, match=name):
                await getattr(rref.rpc_async(), name)()
        with pytest.raises(rpc.PermissionDeniedError, match="eval"):
            await a.remote("worker1", eval, args=("1",))


async def test_an_instance_cannot_widen_what_is_exposed() -> None:
    """The class decides: what an instance has in place of a method is never called."""
    exposed = rpc.RpcOptions(expose=[workers.Changing])
    async with cluster(2, options=[rpc.RpcOptions(), exposed]) as (a, _):
        rref = a.remote("worker1", workers.Changing)

        assert "method" == await rref.rpc_async().act()


async def test_proxies_are_reusable_and_show_themselves() -> None:
    """One proxy, many calls; a method says whose it is."""
    async with cluster(2) as (a, _):
        rref = a.remote("worker1", Counter)
        plus = rref.rpc_async().plus
        assert [1, 2, 3] == sorted(await asyncio.gather(plus(), plus(), plus()))

        assert "method plus of UserRRef" in repr(plus)


async def test_wait_all_collects_calls_by_proxy() -> None:
    """A scope waits for the calls of methods that were started in it."""
    async with cluster(2) as (a, _):
        rref = a.remote("worker1", Counter)
        async with a.wait_all():
            calls = [rref.rpc_async().async_plus() for _ in range(5)]

        assert all(call.done() for call in calls)
        with pytest.raises(KeyError, match="on purpose"):
            async with a.wait_all():
                rref.rpc_async().fail()
