"""Twelve defects of the reference system, each with its numbers, that are none here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.store import MemoryStore
from asyncrpc.testing import VirtualClock, cluster
from asyncrpc.transport import MemoryNetwork
from tests.agent import targets
from tests.agent.groups import link, until
from tests.reference.groups import faulty, flushed
from tests.rref import workers
from tests.rref.workers import empty

pytestmark = pytest.mark.asyncio

TIMED_OUT = "RPC ran for more than set timeout"


class TwoArguments(Exception):
    """Cannot be made of its text alone."""

    def __init__(self, path: str, line: int) -> None:
        super().__init__(f"{path} is broken")
        self.path = path
        self.line = line


def nested(to: str) -> int:
    """Wait in a thread for a function that needs a thread, of the same worker."""
    return int(rpc.rpc_sync(to, targets.add, (1,), timeout=2))


def raise_two_arguments() -> None:
    """Raise what has a cause, a note and attributes."""
    error = TwoArguments("C:\\users\\café", 7)
    error.add_note("seen twice")
    raise error from KeyError("why")


def raise_text(kind: type[BaseException], text: str) -> None:
    """Raise an exception of that class."""
    raise kind(text)


@pytest.mark.slow
async def test_d1_timeouts_do_not_need_the_threads() -> None:
    """Four nested calls fill four threads: 2 s, and not 4 s, later all know of it."""
    clock = VirtualClock()
    options = rpc.RpcOptions(num_worker_threads=4)
    async with cluster(1, options=options, clock=clock) as (a,):
        calls = [a.rpc_async("worker0", nested, args=("worker0",), timeout=4) for _ in range(4)]
        await until(lambda: a.debug_info()["agent.server_active_calls"] == "8")
        await clock.advance(1.9)
        assert not any(call.done() for call in calls)
        await clock.advance(0.2)
        for call in calls:
            with pytest.raises(rpc.RemoteError, match=TIMED_OUT):
                await asyncio.wait_for(call, 5)

        assert 11 == await a.rpc_async("worker0", targets.add, args=(1,))


async def test_d2_a_tiny_timeout_is_one() -> None:
    """0.4 ms are not rounded to none."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.RpcTimeoutError, match=TIMED_OUT):
            await a.rpc_async("worker1", targets.sleep, args=(0.3,), timeout=0.0004)


@pytest.mark.parametrize("timeout", [-2, -1])
async def test_d3_no_negative_timeouts(timeout: float) -> None:
    """Neither is it a timeout at once, nor is -1 the default."""
    async with cluster(2) as (a, _):
        with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
            a.rpc_async("worker1", targets.add, (1,), timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
            a.remote("worker1", targets.add, (1,), timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be at least 0 seconds"):
            await asyncio.to_thread(a.rpc_sync, "worker1", targets.add, (1,), timeout=timeout)


@pytest.mark.parametrize("kind", [KeyError, ValueError, ZeroDivisionError, TwoArguments])
async def test_d4_exceptions_keep_their_type(kind: type[Exception]) -> None:
    """In all ways to call, and the same one in each."""
    func: Any = raise_text if kind is not TwoArguments else raise_two_arguments
    args = (kind, "no") if kind is not TwoArguments else ()
    async with cluster(2) as (a, _):
        rref = a.remote("worker1", func, args)
        errors = [
            *await asyncio.gather(
                a.rpc_async("worker1", func, args),
                asyncio.to_thread(a.rpc_sync, "worker1", func, args),
                rref.to_here(),
                rref.rpc_async().anything(),
                a.remote("worker1", targets.Counter, (1,)).remote().plus("x").to_here(),
                return_exceptions=True,
            )
        ]

    assert [kind] * 4 + [TypeError] == [type(error) for error in errors]
    assert 1 == len({str(error) for error in errors[:4]})


@pytest.mark.parametrize("text", ["café", "C:\\users", "\\N{x} \\x", "a\nb\\n", "%s {0}"])
async def test_d5_text_is_not_interpreted(text: str) -> None:
    """Backslashes and letters beyond ASCII arrive as they are."""
    async with cluster(2) as (a, _):
        with pytest.raises(ValueError) as caught:
            await a.rpc_async("worker1", targets.fail, args=(text,))

    assert (text,) == caught.value.args


async def test_d6_exceptions_keep_what_they_carry() -> None:
    """Arguments, attributes, notes and cause, of a class that its text does not make."""
    async with cluster(2) as (a, _):
        with pytest.raises(TwoArguments) as caught:
            await a.rpc_async("worker1", raise_two_arguments)
    error = caught.value

    assert ("C:\\users\\café is broken",) == error.args
    assert ("C:\\users\\café", 7) == (error.path, error.line)
    assert ["seen twice"] == error.__notes__
    assert error.__cause__ is not None
    assert isinstance(error.__cause__.__cause__, KeyError)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_d7_control_flow_stays_at_home(kind: type[BaseException]) -> None:
    """The caller gets an error that names it, and the callee serves on."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.RemoteError, match="x") as caught:
            await a.rpc_async("worker1", raise_text, args=(kind, "x"))
        assert 11 == await a.rpc_async("worker1", targets.add, args=(1,))

    assert kind.__name__ == caught.value.type_name


async def test_d8_coroutines_are_native() -> None:
    """An ``async def`` runs, its call is awaited, and cancelled where it runs."""
    targets.log.clear()
    async with cluster(2) as (a, b):
        assert "slept" == await a.rpc_async("worker1", targets.sleep, args=(0,))
        call = a.rpc_async("worker1", targets.sleep, args=(1000,))
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "1")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: "cancelled" in targets.log)


async def test_d9_names_may_have_any_legal_letter() -> None:
    """Those who join after a worker ``a-1:b_2`` find it, as ``-`` separates nothing."""
    common: dict[str, Any] = {
        "store": MemoryStore(),
        "network": MemoryNetwork(),
        "options": rpc.RpcOptions(secret=b"a secret of the tests"),
        "environ": {},
    }
    async with contextlib.AsyncExitStack() as stack:
        agents = []
        for name in ("a-1:b_2", "-", "3-4", "last"):
            agents.append(await rpc.RpcAgent.start(name, **common))
            stack.push_async_callback(agents[-1].shutdown, graceful=False)
        infos = {(info.name, info.id) for info in agents[-1].get_worker_infos()}
        answers = [
            await agents[-1].rpc_async(name, targets.who) for name in ("a-1:b_2", "-", "3-4")
        ]

    assert {("a-1:b_2", 0), ("-", 1), ("3-4", 2), ("last", 3)} == infos
    assert [("a-1:b_2", "last"), ("-", "last"), ("3-4", "last")] == answers


async def test_d10_retries_wait_from_the_failure_on() -> None:
    """1, 1.5 and 2.25 s for three failures: 4.75 s, and not 3.5 s as there."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_CALL", times=3)])
    async with cluster(2, faults=[plan, None], clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.add, args=(1,), retry=rpc.RetryPolicy())
        await clock.advance(4.749)
        assert not call.done()
        await clock.advance(0.002)
        assert 11 == await call


async def test_d10_the_last_error_of_retries_is_kept() -> None:
    """As the cause of the one that says that they are exhausted."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_CALL")])
    async with cluster(2, faults=[plan, None], clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.add, args=(1,), retry=rpc.RetryPolicy())
        await clock.advance(1 + 1.5 + 2.25 + 3.375 + 5.0625 + 0.001)
        text = r"^The RPC has not succeeded after the specified number of max retries \(5\)\."
        with pytest.raises(rpc.RetriesExhaustedError, match=text) as caught:
            await call

    assert 6 == caught.value.attempts == len(plan.events)
    assert isinstance(caught.value.__cause__, rpc.InjectedFaultError)


async def test_d10_the_end_of_the_worker_ends_retries() -> None:
    """No future of theirs stays pending for ever."""
    clock = VirtualClock()
    plan = rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_CALL")])
    async with cluster(2, faults=[plan, None], clock=clock) as (a, _):
        call = a.rpc_async("worker1", targets.add, args=(1,), retry=rpc.RetryPolicy())
        await clock.advance(0.5)
        await a.shutdown(graceful=False)
        with pytest.raises(rpc.RpcError):
            await asyncio.wait_for(call, 1)


async def test_d11_broken_links_are_opened_again() -> None:
    """After an error the next call goes over a new link, time and again."""
    async with cluster(2) as (a, _):
        for number in range(5):
            assert number == await a.rpc_async("worker1", targets.echo, args=(number,))
            link(a, "worker1").stream.abort()
            await until(lambda: link(a, "worker1") is None)


@pytest.mark.parametrize("to", ["worker1", "worker0"])
async def test_d12_failed_creations_are_not_confirmed(to: str) -> None:
    """Timed out or failed at the send, the owner never confirms it."""
    clock = VirtualClock()
    async with cluster(2, options=faulty(["PYTHON_REMOTE_CALL"]), clock=clock) as (a, _):
        injected = a.remote(to, workers.add, args=(1,))
        await flushed(a)
        assert not injected.confirmed_by_owner()
    async with cluster(2, clock=clock) as (a, _):
        slow = a.remote(to, workers.make_slowly, args=("never", 1), timeout=1)
        await clock.advance(1.001)
        assert not slow.confirmed_by_owner()
        with pytest.raises(rpc.RRefCreationError):
            slow.to_here()


async def test_d12_what_waits_for_a_creation_ends_with_its_owner() -> None:
    """The creation never came, its owner goes: what is parked fails, and the group ends."""
    plan = rpc.FaultPlan([rpc.Fault("drop", message="PYTHON_REMOTE_CALL")])
    forks = rpc.FaultPlan([rpc.Fault("drop", message="RREF_FORK_REQUEST")])
    async with cluster(3, faults=[plan, None, forks]) as agents:
        a, b, c = agents
        rref = a.remote("worker1", workers.add, args=(1,), timeout=None)
        call = a.rpc_async("worker2", workers.keep, args=(rref,), timeout=None)
        await until(lambda: c.references.machine._parking and forks.events)
        assert not call.done()
        await b.shutdown(graceful=False)
        with pytest.raises(rpc.OwnerLostError):
            await asyncio.wait_for(call, 5)
        with pytest.raises(rpc.OwnerLostError):
            await rref
        del rref, call
        left = await empty((a, c))

    assert [] == workers.kept
    assert {} == left
