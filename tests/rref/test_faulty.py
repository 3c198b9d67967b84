"""The reference's fault tests about references: same message types, numbers and error texts.

Source: torch/testing/_internal/distributed/rpc/faulty_agent_rpc_test.py and jit/rpc_test_faulty.py,
what they require. Where a test there waits inside a compiled function, these wait inside a served
one; times are virtual.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import until
from tests.rref import scripts, workers
from tests.rref.workers import empty

pytestmark = pytest.mark.asyncio

RETRYABLE = (
    "RREF_FORK_REQUEST",
    "RREF_CHILD_ACCEPT",
    "RREF_USER_DELETE",
    "CLEANUP_AUTOGRAD_CONTEXT_REQ",
)
CREATION = r"RRef creation via rpc\.remote\(\) timed out"
TIMEOUT = "RPC ran for more than set timeout"


@contextlib.asynccontextmanager
async def faulty(
    clock: VirtualClock | None = None,
    *,
    fail: Sequence[str] = RETRYABLE,
    delay: Mapping[str, float] | None = None,
    sends: int = 3,
) -> AsyncIterator[list[rpc.RpcAgent]]:
    """Run the reference's group of four, linked, and find its tables empty in the end."""
    options = rpc.FaultyRpcOptions(
        num_worker_threads=8,
        num_fail_sends=sends,
        messages_to_fail=fail,
        messages_to_delay={"PYTHON_CALL": 1.5, "SCRIPT_CALL": 1.5} if delay is None else delay,
    )
    async with cluster(4, options=options, clock=clock) as agents:
        for a in agents:
            for b in agents:
                a._agent.members.route(b.info.name).connect()
        await until(lambda: all(len(a._agent.connections()) == 4 for a in agents))
        yield agents


def last(agents: Sequence[rpc.RpcAgent]) -> tuple[rpc.RpcAgent, str]:
    """Return the worker of rank 3 and the name of the next one."""
    return agents[3], "worker0"


async def test_check_failed_messages() -> None:
    """With all four control messages failing three times, references are passed on and deleted."""
    async with faulty(delay={}) as agents:
        a = agents[0]
        rref = a.remote("worker1", workers.add, args=(1, 1))
        total = a.remote("worker2", workers.add_values, args=(rref,))

        assert 2 == await total
        del rref, total
        assert {} == await empty(agents, 15)


@pytest.mark.parametrize("dst", ["worker0", "worker3"])
@pytest.mark.parametrize("kind", ["PYTHON_REMOTE_CALL", "SCRIPT_REMOTE_CALL"])
async def test_remote_message_dropped_pickle(dst: str, kind: str) -> None:
    """A reference whose creation failed cannot be put into a call, which says so at once."""
    function: Any = workers.add if kind.startswith("PYTHON") else scripts.script_add
    async with faulty(fail=[kind], delay={}) as agents:
        a, _ = last(agents)
        rref = a.remote(dst, function, args=(1, 1))
        with pytest.raises(rpc.RRefCreationError, match=CREATION):
            a.rpc_async(dst, workers.echo, args=(rref, 1))
        with pytest.raises(rpc.RRefCreationError, match=CREATION):
            a.references.machine.fork(rref._handle, agents[0]._agent.incarnation)


@pytest.mark.parametrize("dst", ["worker0", "worker3"])
@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("PYTHON_REMOTE_CALL", workers.add),
        ("PYTHON_REMOTE_CALL", min),
        ("SCRIPT_REMOTE_CALL", scripts.script_add),
    ],
)
async def test_remote_message_dropped_timeout(dst: str, kind: str, function: Any) -> None:
    """After a dropped creation `to_here` raises; the owner never heard of it, and nobody minds."""
    async with faulty(fail=[kind], delay={}) as agents:
        a, _ = last(agents)
        rref = a.remote(dst, function, args=(1, 1))
        with pytest.raises(rpc.RRefCreationError, match=CREATION):
            await rref.to_here()
        assert not rref.confirmed_by_owner()
        del rref
        assert {} == await empty(agents)


@pytest.mark.parametrize("dst", ["worker0", "worker3"])
@pytest.mark.parametrize("kind", ["PYTHON", "SCRIPT"])
async def test_remote_message_delay_timeout(dst: str, kind: str) -> None:
    """A late creation: whoever gave up says so; it is made all the same, and can be deleted."""
    function: Any = workers.add if kind == "PYTHON" else scripts.script_add
    clock = VirtualClock()
    delays = {f"{kind}_REMOTE_CALL": 2.0}
    async with faulty(clock, fail=[], delay=delays) as agents:
        a, _ = last(agents)
        owner = agents[int(dst[-1])]
        rref = a.remote(dst, function, args=(1, 1), timeout=0.001)
        await clock.advance(0.002)
        with pytest.raises(rpc.RRefCreationError, match=f"{CREATION}.*{TIMEOUT}"):
            await rref.to_here()  # says what the creation itself failed with
        if owner is not a:
            slow = a.remote(dst, function, args=(1, 1), timeout=2.5)
            reading = slow.to_here(timeout=0.001)
            await clock.advance(0.002)
            with pytest.raises(rpc.RpcTimeoutError, match=TIMEOUT):
                await reading  # its own time, which was over first
            await clock.advance(2.1)
            assert 2 == await slow
            del slow, reading
        await clock.advance(3)
        del rref
        assert {} == await empty(agents)


@pytest.mark.parametrize("kind", ["PYTHON", "SCRIPT"])
async def test_rref_to_here_timeout(kind: str) -> None:
    """A fetch that times out does not poison the reference."""
    function: Any = workers.add if kind == "PYTHON" else scripts.script_add
    clock = VirtualClock()
    delays = {f"{kind}_RREF_FETCH_CALL": 1.0}
    async with faulty(clock, fail=[], delay=delays) as agents:
        a, dst = last(agents)
        rref = a.remote(dst, function, args=(1, 1))
        reading = rref.to_here(timeout=0.01)
        await clock.advance(0.02)
        with pytest.raises(rpc.RpcTimeoutError, match=TIMEOUT):
            await reading
        again = rref.to_here()
        await clock.advance(1)
        assert 2 == await again
        del rref, reading, again
        await clock.advance(1)
        assert {} == await empty(agents)


async def create_and_read(to: str, timeout: float) -> Any:
    """Create and read inside a served function."""
    return await rpc.remote(to, workers.add, args=(1, 1)).to_here(timeout=timeout)


async def create_and_pass(to: str) -> Any:
    """Create, and pass what failed to another call, inside a served function."""
    return await rpc.rpc_async(to, workers.echo, args=(rpc.remote(to, workers.add, args=(1, 1)),))


async def test_remote_timeout_to_here_in_a_served_function() -> None:
    """A creation dropped inside a function is raised where that reads it, and told its caller."""
    async with faulty(fail=["PYTHON_REMOTE_CALL"], delay={}) as agents:
        a, dst = last(agents)
        with pytest.raises(rpc.RemoteError, match=CREATION) as caught:
            await a.rpc_async("worker1", create_and_read, args=(dst, 100))
        assert "asyncrpc.errors.RRefCreationError" == caught.value.type_name


async def test_rref_to_here_timeout_in_a_served_function() -> None:
    """Each read has its own time, wherever it is awaited."""
    clock = VirtualClock()
    async with faulty(clock, fail=[], delay={"PYTHON_RREF_FETCH_CALL": 1.0}) as agents:
        a, dst = last(agents)
        for timeout, expected in ((0.01, TIMEOUT), (100, None)):
            call = asyncio.ensure_future(
                a.rpc_async("worker1", create_and_read, args=(dst, timeout))
            )
            for _ in range(20):
                await asyncio.sleep(0.002)
                await clock.advance(0.1)
            if expected is None:
                assert 2 == await call
            else:
                with pytest.raises(rpc.RemoteError, match=expected):
                    await call


async def test_rref_timeout_pickle_in_a_served_function() -> None:
    """A failed reference as an argument inside a function fails at that call."""
    async with faulty(fail=["PYTHON_REMOTE_CALL"], delay={}) as agents:
        a, dst = last(agents)
        with pytest.raises(rpc.RemoteError, match=CREATION):
            await a.rpc_async("worker1", create_and_pass, args=(dst,))


async def test_rref_timeout() -> None:
    """`remote(timeout=0.01)` of a long function: the owner keeps one fork of it, till deleted."""
    clock = VirtualClock()
    async with cluster(4, clock=clock) as agents:
        a, b = agents[0], agents[1]
        rref = a.remote("worker1", workers.make_slowly, args=("never", 1), timeout=0.01)
        await until(rref.confirmed_by_owner)
        await clock.advance(0.02)
        with pytest.raises(rpc.RRefCreationError, match=CREATION):
            rref.to_here()
        await until(lambda: not b.references.keeper._creations)
        counts = b.debug_info()
        assert ("1", "1") == (counts["num_owner_rrefs"], counts["num_forks"])
        del rref
        assert {} == await empty(agents)
