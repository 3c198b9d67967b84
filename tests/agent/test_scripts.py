"""Script functions: checked before they are sent, found by name, never pickled."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.functions import scripts as registry
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import scripts
from tests.agent.groups import until

pytestmark = pytest.mark.asyncio

WRONG: Any = "x"


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    scripts.ran.clear()


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "expected"),
    [
        (scripts.add, (1,), {}, 10),
        (scripts.add, (1, 2), {"c": 0, "d": 0}, 3),
        (scripts.scale, ([1, 2.5], 2), {}, [2, 5.0]),
        ("scale", ([1.0], 3), {}, [3.0]),
        ("tests.agent.scripts:add", (1,), {"b": 0}, 8),
        (functools.partial(scripts.add, 1, d=0), (1,), {}, 5),
        (scripts.later, (7,), {}, 7),
        (scripts.inline, (7,), {}, 8),
        ("anything", ({"a": (1, 2.5), "b": b"x"},), {}, "dict"),
    ],
)
async def test_calls(func: Any, args: Any, kwargs: Any, expected: Any) -> None:
    """Defaults fill in; by function, by name, bound; every way to run; on a peer and on oneself."""
    async with cluster(2) as (a, _):
        results = [
            await a.rpc_async(to, func, args=args, kwargs=kwargs) for to in ("worker1", "worker0")
        ]

    assert [expected, expected] == results


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "text"),
    [
        (scripts.add, (), {}, "missing a required argument: 'a'"),
        (scripts.add, ("1",), {}, "argument 'a' must be int, got str: '1'"),
        (scripts.add, (1,), {"e": 1}, "unexpected keyword argument 'e'"),
        (scripts.add, (1, 2, 3, 4, 5), {}, "too many positional arguments"),
        ("scale", (3, 1.0), {}, r"argument 'values' must be list\[float\], got int"),
        (functools.partial(scripts.add, b=WRONG), (1,), {}, "argument 'b' must be int"),
    ],
)
async def test_wrong_arguments_are_not_sent(func: Any, args: Any, kwargs: Any, text: str) -> None:
    """They raise at the call, as a TypeError that is also an RpcError, and nothing runs."""
    plan = rpc.FaultPlan([rpc.Fault("delay", message="SCRIPT_CALL")])
    async with cluster(2, faults=[plan, None]) as (a, _):
        with pytest.raises(TypeError, match=text) as caught:
            a.rpc_async("worker1", func, args=args, kwargs=kwargs)

    assert isinstance(caught.value, rpc.EncodingError)
    assert rpc.Delivery.NOT_SENT is caught.value.delivery
    assert ([], []) == (scripts.ran, list(plan.events))


async def test_unregistered() -> None:
    """A name that only the callee could know is asked for there, and nothing is imported."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.FunctionNotFoundError, match="no script function 'nope'") as caught:
            await a.rpc_async("worker1", "nope", args=(1,))

    assert rpc.Delivery.NOT_SENT is caught.value.delivery


async def test_the_callee_checks_what_its_caller_cannot() -> None:
    """A caller that does not know the function sends anything; it is a TypeError all the same."""
    known = registry.get("scale")
    assert known is not None
    async with cluster(2) as (a, _):
        await a.rpc_async("worker1", "scale", args=([1.0], 1.0))  # known to the callee from now on
        registry.discard("scale")
        try:
            with pytest.raises(TypeError, match="argument 'by' must be float, got str"):
                await a.rpc_async("worker1", "scale", args=([1.0], "x"))
        finally:
            registry.add(known)


async def test_no_pickle() -> None:
    """Neither as an argument nor as a result, though other calls may."""
    async with cluster(2) as (a, _):
        name = await a.rpc_async("worker1", scripts.not_a_script, args=(scripts.Odd(),))
        with pytest.raises(rpc.EncodingError, match=r"args\[0\].* while pickle is off"):
            a.rpc_async("worker1", "anything", args=(scripts.Odd(),))
        with pytest.raises(rpc.EncodingError, match=r"result.* pickle is off") as caught:
            await a.rpc_async("worker1", scripts.odd)

    assert "Odd" == name
    assert rpc.Delivery.EXECUTED is caught.value.delivery


async def test_a_type_of_message_of_their_own() -> None:
    """Fault plans tell them from other calls, and their replies too."""
    calls = rpc.FaultPlan([rpc.Fault("fail", message="SCRIPT_CALL", times=1)])
    replies = rpc.FaultPlan([rpc.Fault("fail", message="SCRIPT_RET", times=1)])
    async with cluster(2, faults=[calls, replies]) as (a, _):
        await a.rpc_async("worker1", scripts.not_a_script, args=(1,))
        with pytest.raises(rpc.InjectedFaultError) as unsent:
            await a.rpc_async("worker1", scripts.add, args=(1,))
        with pytest.raises(rpc.InjectedFaultError) as executed:
            await a.rpc_async("worker1", scripts.add, args=(1,))
        result = await a.rpc_async("worker1", scripts.add, args=(1,))

    assert rpc.Delivery.NOT_SENT is unsent.value.delivery
    assert rpc.Delivery.EXECUTED is executed.value.delivery
    assert (10, ["add", "add"]) == (result, scripts.ran)


async def test_delays_count_against_the_deadline() -> None:
    """The reference's test of script calls: 1.5 s of delay, timeouts of 1 s, 1 ms and none."""
    options = rpc.FaultyRpcOptions(messages_to_delay={"SCRIPT_CALL": 1.5}, heartbeat_interval=1e3)
    clock = VirtualClock()
    async with cluster(2, options=options, clock=clock) as (a, _):
        slow = a.rpc_async("worker1", scripts.add, args=(1,), timeout=1)
        default = a.rpc_async("worker1", scripts.add, args=(1,))
        a.set_rpc_timeout(0.001)
        tiny = a.rpc_async("worker1", scripts.add, args=(1,))
        endless = a.rpc_async("worker1", scripts.add, args=(1,), timeout=0)
        await clock.advance(2.0)
        errors = [slow.exception(), tiny.exception()]
        results = [await default, await endless]
        a.set_rpc_timeout(0)

    assert all("ran for more than set timeout" in str(error) for error in errors)
    assert [10, 10] == results


async def test_only_what_is_exposed() -> None:
    """A script function has to be listed as any other, itself or by its module."""
    for expose, allowed in (([scripts.add], True), ([scripts], True), ([scripts.scale], False)):
        options = rpc.RpcOptions(expose=expose)
        async with cluster(2, options=options) as (a, _):
            call = a.rpc_async("worker1", scripts.add, args=(1,))
            if allowed:
                assert 10 == await call
            else:
                with pytest.raises(rpc.PermissionDeniedError, match="does not expose"):
                    await call


async def test_one_way_and_cancelled() -> None:
    """`rpc_notify` takes them, and cancelling reaches them."""
    async with cluster(2) as (a, b):
        a.rpc_notify("worker1", scripts.add, args=(1,))
        with pytest.raises(rpc.EncodingError, match="must be int"):
            a.rpc_notify("worker1", scripts.add, args=("1",))
        call = a.rpc_async("worker1", scripts.wait, args=(60,))
        await a.rpc_async("worker1", scripts.inline, args=(1,))
        call.cancel()
        await until(lambda: b.debug_info()["agent.server_active_calls"] == "0")

    assert ["add"] == scripts.ran
