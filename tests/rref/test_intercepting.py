"""Interceptors around `remote` and around methods called by proxies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import any_network, until
from tests.rref.workers import Counter, echo, empty, one_by_one

pytestmark = pytest.mark.asyncio

Outgoing = Callable[[rpc.OutgoingCall], Awaitable[Any]]


class Recorder(rpc.Interceptor):
    """Writes down what it sees, and waits a little before each call."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, Any]] = []

    async def outgoing(self, call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        await asyncio.sleep(0)
        result = await proceed(call)
        self.log.append((f"out {call.kind}", call.function, result))
        return result

    async def incoming(self, call: rpc.IncomingCall, proceed: Any) -> Any:
        result = await proceed(call)
        self.log.append((f"in {call.kind}", call.function.rpartition(":")[2], type(result)))
        return result


class Out(rpc.Interceptor):
    """Does on the caller's side what a function says."""

    def __init__(self, act: Callable[[rpc.OutgoingCall, Outgoing], Awaitable[Any]]) -> None:
        self._act = act

    async def outgoing(self, call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        return await self._act(call, proceed)


def options(*interceptors: rpc.Interceptor) -> rpc.RpcOptions:
    """Return options with these interceptors."""
    return rpc.RpcOptions(interceptors=interceptors)


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_both_sides_see_creations_and_methods(kind: str) -> None:
    """Each once; references are usable at once, and nothing is left in the tables."""
    seen = Recorder()
    async with (
        any_network(kind) as network,
        cluster(2, options=options(seen), network=network) as (a, b),
    ):
        rref = a.remote("worker1", Counter, args=(1,))
        results = [
            await rref.rpc_async().plus(2),
            await rref.rpc_async().async_plus(3),
            await rref.remote().get(),
            await asyncio.to_thread(rref.rpc_sync().get),
            await a.remote("worker1", Counter).rpc_async().get(),
            (await rref).value,
        ]
        del rref
        rest = await empty((a, b))

    assert [3, 6, 6, 6, 0, 6] == results
    assert {} == rest
    once = [
        ("in remote", "Counter", Counter),
        ("in call", "Counter.plus", int),
        ("in call", "Counter.async_plus", int),
        ("in remote", "Counter.get", int),
        ("out call", ".plus", 3),
        ("out remote", ".get", None),
        ("out remote", "tests.rref.workers:Counter", None),
    ]
    for entry in once:
        assert entry in seen.log
    assert 2 * 7 == len(seen.log)


async def test_what_interceptors_make_of_a_creation() -> None:
    """They may change arguments; a refusal is the end of the reference, on use."""

    async def double(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        if call.args == (13,):
            raise PermissionError("not thirteen")
        call.args = tuple(2 * arg for arg in call.args)
        return await proceed(call)

    async with cluster(2, options=options(Out(double))) as (a, b):
        rref = a.remote("worker1", Counter, args=(4,))
        made = await rref.remote().plus(1)
        refused = a.remote("worker1", Counter, args=(13,))
        with pytest.raises(rpc.RRefCreationError):
            await refused  # which asks the owner before the refusal is known here
        with pytest.raises(rpc.RRefCreationError, match="not thirteen"):
            await refused
        assert not refused.confirmed_by_owner()
        of_method = rref.remote().plus(13)
        with pytest.raises(rpc.RRefCreationError):
            await of_method
        del rref, refused, of_method
        rest = await empty((a, b))

    assert [10, {}] == [made, rest]


async def test_a_creation_is_sent_once() -> None:
    """Proceeding again would be another value under the same reference."""

    async def twice(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        await proceed(call)
        return await proceed(call)

    async with cluster(2, options=options(Out(twice))) as (a, b):
        rref = a.remote("worker1", Counter, args=(4,))
        await rref.to_here()
        while rref.confirmed_by_owner():
            await asyncio.sleep(0)
        with pytest.raises(rpc.RRefCreationError, match="once only"):
            await rref
        del rref
        rest = await empty((a, b))

    assert {} == rest


async def test_a_dropped_reference_still_makes_its_call() -> None:
    """What a chain is about lives until it is sent."""
    seen = Recorder()
    async with cluster(2, options=options(seen)) as (a, b):
        call = a.remote("worker1", Counter, args=(1,)).rpc_async().plus(1)
        assert await call == 2
        a.remote("worker1", Counter).remote().plus(1)
        rest = await empty((a, b))

    assert {} == rest
    assert ("in remote", "Counter.plus", int) in seen.log


async def test_errors_at_the_call_and_in_time() -> None:
    """Destination and released references at once; the deadline holds for all."""
    clock = VirtualClock()

    async def hesitate(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        if call.function == ".plus":
            await asyncio.Event().wait()
        return await proceed(call)

    async with cluster(2, options=options(Out(hesitate)), clock=clock) as (a, b):
        with pytest.raises(rpc.UnknownWorkerError):
            a.remote("worker9", Counter)
        rref = a.remote("worker1", Counter)
        call = rref.rpc_async(timeout=3).plus(1)
        await clock.advance(3)
        assert isinstance(call.exception(), rpc.RpcTimeoutError)
        await rref.release()
        with pytest.raises(rpc.RRefDeletedError):
            rref.rpc_async().plus(1)
        del rref
        rest = await empty((a, b))

    assert {} == rest


async def test_calls_of_an_interceptor_go_past_it() -> None:
    """Creations and methods too."""
    holder: list[rpc.RpcAgent] = []

    async def count(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        rref = holder[0].remote("worker1", Counter, args=(5,))
        assert await rref.rpc_async().plus(1) == 6
        assert await rref.remote().get() == 6
        return await proceed(call)

    async with cluster(2, options=options(Out(count))) as (a, b):
        holder.append(a)
        assert await a.rpc_async("worker1", max, (1, 2)) == 2
        rest = await empty((a, b))

    assert {} == rest


@pytest.mark.parametrize("kind", ["call", "notify", "stream", "remote", "method", "of method"])
async def test_metadata_that_are_refused_leave_no_references(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """References among the arguments are nobody's then, whichever way the call was made."""
    caplog.set_level("CRITICAL", "asyncrpc.caller")  # a log with its traceback refers to them

    async def spoil(call: rpc.OutgoingCall, proceed: Outgoing) -> Any:
        if call.args:
            call.metadata["a"] = "x" * 20_000
        return await proceed(call)

    async with cluster(2, options=options(Out(spoil))) as (a, b):
        outcome: Awaitable[Any]
        rref, counter = a.rref([1]), a.remote("worker1", Counter)
        await counter
        match kind:
            case "call":
                outcome = a.rpc_async("worker1", echo, args=(rref,))
            case "notify":
                a.rpc_notify("worker1", echo, args=(rref,))
                outcome = until(lambda: not a._agent.chains)
            case "stream":
                outcome = anext(a.rpc_stream("worker1", one_by_one, args=(rref,)))
            case "remote":
                outcome = a.remote("worker1", echo, args=(rref,)).to_here()
            case "method":
                outcome = counter.rpc_async().plus(rref)
            case _:
                outcome = counter.remote().plus(rref).to_here()
        with contextlib.suppress(ValueError, rpc.RRefCreationError):
            await outcome
        del rref, counter, outcome
        rest = await empty((a, b))

    assert {} == rest
