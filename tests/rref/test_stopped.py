"""Creations that take too long: there is no value for anybody, whatever their functions do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc import Fault, FaultPlan
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import until
from tests.rref import workers
from tests.rref.workers import empty

pytestmark = pytest.mark.asyncio

TIMED_OUT = r"RRef creation via rpc\.remote\(\) timed out"
goes_on = threading.Event()
"""Set when functions may end that were told to stop."""
told: list[str] = []
"""What functions that nobody waits for came to know."""


@pytest.fixture(autouse=True)
def no_function_is_left() -> Iterator[None]:
    """Let functions end whatever the test does."""
    goes_on.clear()
    yield
    goes_on.set()


def block() -> int:
    """Take a thread, which nothing stops."""
    assert goes_on.wait(20)
    return 1


async def heedless() -> int:
    """Return a value although it was cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    while not goes_on.is_set():
        await asyncio.sleep(0.005)
    return 1


class Heedless:
    async def run(self) -> int:
        """Do not heed a cancel in a method either."""
        return await heedless()


async def read_kept() -> Any:
    """Read the reference that this worker keeps."""
    return await workers.kept[-1]


@pytest.mark.parametrize(
    ("what", "to"),
    [
        ("def", "worker1"),  # alone: virtual time waits 2 s for its thread
        ("async def", "worker1"),
        ("async def", "worker0"),
        ("method", "worker1"),
        ("method", "worker0"),
    ],
)
async def test_what_waits_fails_in_time(what: str, to: str) -> None:
    """Reads and methods, also of other workers; what comes later fails at the call."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (a, b, c):
        if what == "method":
            rref = a.remote(to, Heedless).remote(timeout=5).run()
        else:
            rref = a.remote(to, block if what == "def" else heedless, timeout=5)
        owner = (b if to == "worker1" else a).references
        reads: list[Any] = [
            rref.to_here(timeout=None),
            rref.rpc_async(timeout=None).bit_length(),
            a.rpc_async("worker2", workers.add_values, args=(rref,), timeout=None),
        ]
        await until(lambda: len(owner.machine._owners._fetches) == len(reads))
        await clock.advance(5.001)
        for read in reads:
            with pytest.raises(rpc.RpcError, match=TIMED_OUT):
                await asyncio.wait_for(read, 5)
        with pytest.raises(rpc.RRefCreationError):
            rref.to_here()
        goes_on.set()
        await until(lambda: not owner.keeper._creations)
        with pytest.raises(rpc.RRefCreationError):
            rref.to_here()
        assert not rref.confirmed_by_owner()
        del rref, read
        reads.clear()
        assert {} == await empty((a, b, c))


async def test_nobody_gets_a_late_value() -> None:
    """Who held a reference before does not either, while the function runs or when it has ended."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (a, b, c):
        rref = a.remote("worker1", heedless, timeout=5)
        await a.rpc_async("worker2", workers.keep, args=(rref,))
        await clock.advance(5.001)
        with pytest.raises(rpc.RemoteError, match="told to stop"):
            await b.rpc_async("worker2", read_kept)
        goes_on.set()
        await until(lambda: not b.references.keeper._creations)
        with pytest.raises(rpc.RemoteError, match="told to stop"):
            await b.rpc_async("worker2", read_kept)
        (row,) = b.rref_debug()
        await c.rpc_async("worker2", workers.forget)

    assert "RRefCreationError" == row.type


async def test_an_owner_whose_clock_is_ahead() -> None:
    """The creator fails by its own clock, not with the end of what the owner has stopped."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, b):
        rref = a.remote("worker1", workers.make_slowly, args=("never", 1), timeout=5)
        await until(lambda: bool(b.references.keeper._creations))
        for server in b._agent.servers:
            for call in tuple(server.calls.values()):
                call.cancel()  # as its deadline does
        await until(lambda: not b.references.keeper._creations)
        assert rref.confirmed_by_owner()
        await clock.advance(5.001)

        assert not rref.confirmed_by_owner()
        with pytest.raises(rpc.RRefCreationError, match=TIMED_OUT):
            a.rpc_async("worker1", workers.echo, args=(rref,))


def create_and_wait(to: str) -> str:
    """Create a value by a call that is lost; return what its reference says after a while."""
    rref = rpc.remote(to, int)
    assert goes_on.wait(20)
    with pytest.raises(rpc.RRefCreationError, match=TIMED_OUT) as caught:
        rref.remote().bit_length()
    assert not rref.confirmed_by_owner()
    told.append(str(caught.value))
    return told[-1]


@pytest.mark.parametrize("is_sent", [True, False])
async def test_a_creation_ends_with_the_call_that_makes_it(*, is_sent: bool) -> None:
    """A plain function goes on when it is cancelled, the calls that it made do not."""
    told.clear()
    faults = FaultPlan([Fault("drop", message="PYTHON_REMOTE_CALL")])
    plans = [FaultPlan([]), faults, FaultPlan([])]
    async with cluster(3, faults=plans) as (a, b, c):
        if not is_sent:
            b.partition(["worker2"])
        call = a.rpc_async("worker1", create_and_wait, args=("worker2",))
        await until(lambda: 1 == b.references.machine.counts()["num_pending_users"])
        call.cancel()
        await until(lambda: 0 == b.references.machine.counts()["num_pending_users"])
        goes_on.set()
        await until(lambda: bool(told))
        b.heal()
        assert "the call that made it was cancelled" in told[0]
        assert {} == await empty((a, b, c))
