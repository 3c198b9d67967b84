"""rpc_test.py, timeouts: explicit ones before the default, of calls, creations and methods.

Elsewhere: `default_timeout_used` (tests/agent/test_calls.py, ``test_default_timeout``),
`all_gather_timeout` (tests/agent/test_collectives.py, ``test_gather_timeout``),
`wait_all_workers_timeout` (tests/agent/test_shutdown.py, ``test_timeout``). There is no
`rref_get_type_timeout`: a method by reference is one call.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import targets
from tests.agent.groups import until
from tests.reference.functions import MODES, call_method
from tests.reference.groups import emptied
from tests.rref import workers
from tests.rref.workers import Counter

pytestmark = pytest.mark.asyncio

TIMED_OUT = "RPC ran for more than set timeout"


@pytest.mark.parametrize("is_sync", [True, False])
async def test_rpc_timeouts(is_sync: bool) -> None:
    """An explicit timeout counts before the default, a shorter and a longer one, and 0 is none."""
    clock = VirtualClock()
    async with cluster(4, clock=clock) as (a, b, *_):

        def start(**timeout: Any) -> asyncio.Future[Any]:
            if is_sync:
                thread = asyncio.to_thread(
                    a.rpc_sync, "worker1", workers.passed, ("gate",), **timeout
                )
                return asyncio.ensure_future(thread)
            return a.rpc_async("worker1", workers.passed, ("gate",), **timeout)

        def is_served(count: int) -> bool:
            return b.debug_info()["agent.server_active_calls"] == str(count)

        short = start(timeout=0.001)
        await until(lambda: is_served(1))
        await clock.advance(0.002)
        with pytest.raises(rpc.RpcTimeoutError, match=TIMED_OUT):
            await short
        a.set_rpc_timeout(0.001)
        default, longer, endless = start(), start(timeout=100), start(timeout=0)
        await until(lambda: is_served(3))
        await clock.advance(0.002)
        with pytest.raises(rpc.RpcTimeoutError, match=TIMED_OUT):
            await default
        await clock.advance(90)
        assert not longer.done()
        workers.open_gate("gate")
        assert (None, None) == (await longer, await endless)
        a.set_rpc_timeout(60)


async def test_set_and_get_default_rpc_timeout() -> None:
    """What the options say, then what was set; calls under way keep theirs."""
    clock = VirtualClock()
    options = rpc.RpcOptions(rpc_timeout=0.5)
    async with cluster(4, options=options, clock=clock) as (a, b, *_):
        given = a.get_rpc_timeout()
        early = a.rpc_async("worker1", targets.sleep, args=(1000,))
        await until(lambda: b.debug_info()["agent.server_active_calls"] == "1")
        a.set_rpc_timeout(200)
        await clock.advance(0.501)
        with pytest.raises(rpc.RpcTimeoutError, match=TIMED_OUT):
            await early

        assert (0.5, 200) == (given, a.get_rpc_timeout())
        with pytest.raises(ValueError, match="timeout"):
            a.set_rpc_timeout(dt.timedelta(seconds=1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rpc_timeout"):
        rpc.RpcOptions(rpc_timeout=dt.timedelta(seconds=1))  # type: ignore[arg-type]


async def test_rref_timeout() -> None:
    """`remote(timeout=0.01)` of a long function: its owner keeps one fork of it till deleted."""
    clock = VirtualClock()
    async with cluster(4, clock=clock) as agents:
        a, b, *_ = agents
        rref = a.remote("worker1", workers.make_slowly, args=("never", 1), timeout=0.01)
        await until(rref.confirmed_by_owner)
        await clock.advance(0.02)
        with pytest.raises(
            rpc.RRefCreationError, match=rf"^RRef creation via rpc\.remote.*{TIMED_OUT}"
        ):
            rref.to_here()
        await until(lambda: not b.references.keeper._creations)
        counts = b.debug_info()
        assert ("1", "1") == (counts["num_owner_rrefs"], counts["num_forks"])
        del rref
        assert {} == await emptied(clock, agents)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["method", "creation"])
async def test_rref_proxy_timeout(mode: str, what: str) -> None:
    """It covers a slow method and a slow creation; it comes with the result, not at the call."""
    clock = VirtualClock()
    async with cluster(4, clock=clock) as (a, b, *_):
        making = workers.make_slowly if what == "creation" else workers.echo
        args = ("gate", Counter(1)) if what == "creation" else (Counter(1),)
        rref = a.remote("worker1", making, args=args, timeout=None)
        if what == "method":
            await rref
        name, of_method = ("plus", ()) if what == "creation" else ("slow", ("gate",))
        owner, creations = b.references.machine._owners, b.references.keeper._creations
        before = len(creations)
        late = asyncio.ensure_future(call_method(mode, rref, name, *of_method, timeout=2))
        await until(
            lambda: (
                owner._fetches
                or len(creations) > before
                or any(server.calls for server in b._agent.servers)
            )
        )
        await clock.advance(2.001)
        text = r"^RRef creation via rpc\.remote\(\) timed out" if mode == "remote" else TIMED_OUT
        kind = rpc.RRefCreationError if mode == "remote" else rpc.RpcTimeoutError
        with pytest.raises(kind, match=text):
            await asyncio.wait_for(late, 5)
        workers.open_gate("gate")

        assert 2 == await call_method(mode, rref, "plus")
