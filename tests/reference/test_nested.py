"""jit/rpc_test_faulty.py: the same inside of functions that run on another worker.

Where the reference compiles a function, a worker calls one here: the calls, references and waits
are those of a served call on worker 1, which script functions on worker 2 answer. Errors arrive at
worker 0 as those of worker 1's code.
"""

from __future__ import annotations

from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import scripts
from tests.reference.groups import faulty, in_time, turns_until

pytestmark = pytest.mark.asyncio

TIMED_OUT = "RPC ran for more than set timeout"
NOT_CREATED = r"RRef creation via rpc\.remote\(\)"

ARGS: Any = (1, 2)
KWARGS: Any = {"c": 2, "d": 3}
"""For 1 + 2 + 2 + 3: the defaults are 3 and 4."""


async def call_and_wait(timeout: Any) -> int:
    """Make a call and await it here."""
    return int(await rpc.rpc_async("worker2", scripts.add, ARGS, KWARGS, timeout))


@rpc.functions.async_execution
def call_and_return(timeout: Any) -> object:
    """Make a call here; what serves this one awaits it."""
    return rpc.rpc_async("worker2", scripts.add, ARGS, KWARGS, timeout)


async def read(rref: rpc.RRef, timeout: Any = rpc.UNSET) -> int:
    """Read a reference in a function of its own."""
    return int(await rref.to_here(timeout))


async def create() -> rpc.RRef:
    """Create on worker 2, and wait until that is confirmed or has failed."""
    rref = rpc.remote("worker2", scripts.add, ARGS, KWARGS)
    agent = rpc.current_agent()
    await turns_until(lambda: agent.debug_info()["num_pending_users"] == "0")
    return rref


async def create_and_read() -> int:
    """Create, and read in another function."""
    return await read(await create())


async def read_twice(short: float, long: float) -> list[str]:
    """Read with a time that is too short, then with one that is not."""
    rref = await create()
    try:
        await read(rref, short)
    except rpc.RpcTimeoutError as error:
        return [str(error), str(await read(rref, long))]
    return []


async def create_and_pass_on() -> str:
    """Pass a reference to a call on; return what the call itself raised."""
    rref = await create()
    try:
        rpc.rpc_async("worker3", read, args=(rref,))
    except rpc.RRefCreationError as error:
        return str(error)
    return ""


async def create_and_pass_on_blocking() -> int:
    """Pass a reference on in a blocking call of a thread."""
    rref = await create()
    return int(await rpc.rpc_async("worker1", pass_on_blocking, args=(rref,)))


def pass_on_blocking(rref: rpc.RRef) -> int:
    """Make a blocking call with a reference."""
    return int(rpc.rpc_sync("worker3", read, args=(rref,)))


@pytest.mark.parametrize("func", [call_and_wait, call_and_return])
async def test_timeout_in_torchscript_function(func: Any) -> None:
    """The timeout belongs to the call, whoever waits for it: `test_timeout_in_python` too."""
    clock = VirtualClock()
    async with cluster(4, options=faulty(delay={"SCRIPT_CALL": 1.5}), clock=clock) as agents:

        async def outcome(timeout: Any) -> Any:
            return await in_time(clock, agents[0].rpc_async("worker1", func, (timeout,)))

        with pytest.raises(rpc.RemoteError, match=TIMED_OUT) as given:
            await outcome(0.5)
        results = [await outcome(rpc.UNSET)]
        agents[1].set_rpc_timeout(0.001)
        with pytest.raises(rpc.RemoteError, match=TIMED_OUT) as default:
            await outcome(rpc.UNSET)
        results.append(await outcome(0))

    assert [8, 8] == results
    assert {"asyncrpc.errors.RpcTimeoutError"} == {
        error.value.type_name for error in (given, default)
    }


async def test_remote_timeout_to_here_in_jit() -> None:
    """A creation that was dropped is told by `to_here` in another function."""
    async with cluster(4, options=faulty(["SCRIPT_REMOTE_CALL"])) as (a, *_):
        with pytest.raises(rpc.RemoteError, match=NOT_CREATED) as caught:
            await a.rpc_async("worker1", create_and_read)

    assert "asyncrpc.errors.RRefCreationError" == caught.value.type_name


async def test_rref_to_here_timeout_in_jit() -> None:
    """A fetch that took too long is no reason for the next one to fail."""
    clock = VirtualClock()
    options = faulty(delay={"SCRIPT_RREF_FETCH_CALL": 1.0})
    async with cluster(4, options=options, clock=clock) as (a, *_):
        call = a.rpc_async("worker1", read_twice, args=(0.01, 100), timeout=None)
        text, value = await in_time(clock, call)

    assert TIMED_OUT in text
    assert "8" == value


async def test_rref_timeout_pickle_in_jit() -> None:
    """A reference whose creation failed is refused as an argument, at the call."""
    async with cluster(4, options=faulty(["SCRIPT_REMOTE_CALL"])) as (a, *_):
        text = await a.rpc_async("worker1", create_and_pass_on)

    assert text.startswith("RRef creation via rpc.remote()")


async def test_rref_timeout_pickle_script_func() -> None:
    """The same in a blocking call: in a thread, of a function it is an argument of."""
    async with cluster(4, options=faulty(["SCRIPT_REMOTE_CALL"])) as (a, *_):
        with pytest.raises(rpc.RemoteError, match=NOT_CREATED) as caught:
            await a.rpc_async("worker1", create_and_pass_on_blocking)

    assert "asyncrpc.errors.RRefCreationError" == caught.value.type_name
