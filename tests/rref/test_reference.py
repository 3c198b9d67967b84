"""RRef: what each method gives, and which error, on the owner and on others."""

from __future__ import annotations

import asyncio
import copy
import pickle
import typing
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.functions.conformity import conforms
from asyncrpc.testing import VirtualClock, cluster
from tests.agent.groups import until
from tests.rref import workers
from tests.rref.workers import Counter, empty

pytestmark = pytest.mark.asyncio


async def test_annotations() -> None:
    """They may say what a reference refers to, also where they are looked at."""
    annotation: Any = rpc.RRef[int]  # type: ignore[misc]  # generic at run time alone

    assert rpc.RRef is typing.get_origin(annotation)
    async with cluster(1) as (a,):
        assert conforms(a.rref(1), annotation)
    assert not conforms(1, annotation)


@pytest.mark.parametrize("to", ["worker1", "worker0", 1, 0])
async def test_create_and_read(to: str | int) -> None:
    """A value made on another worker, or here, is read by awaiting the reference."""
    async with cluster(2) as (a, b):
        rref = a.remote(to, workers.add, args=(1,), kwargs={"b": 2})
        values = (await rref, await rref.to_here(), await rref.to_here(timeout=5))
        confirmed = rref.confirmed_by_owner()
        owner = (rref.owner(), rref.owner_name(), rref.is_owner())
        del rref
        left = await empty((a, b))

    name = "worker1" if to in ("worker1", 1) else "worker0"
    assert (3, 3, 3) == values
    assert confirmed
    assert (rpc.WorkerInfo(name, int(name[-1])), name, name == "worker0") == owner
    assert {} == left


async def test_remote_returns_at_once() -> None:
    """Neither the destination nor the function is waited for."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", workers.make_slowly, args=("gate", 5))
        before = rref.confirmed_by_owner()
        await until(rref.confirmed_by_owner)
        running = [row.type for row in b.rref_debug()]
        workers.open_gate("gate")

        assert 5 == await rref
    assert not before
    assert ["running"] == running


async def test_remote_from_anywhere() -> None:
    """The module-level form acts on the agent that serves, also in threads."""
    async with cluster(3) as (a, _, _):
        assert 6 == await a.rpc_async("worker1", workers.create_elsewhere, args=("worker2", 5))
        rref = await a.rpc_async("worker1", workers.make_rref_in_thread, args=([1],))

        assert [1] == await rref
        assert "worker1" == rref.owner_name()


async def test_own_value() -> None:
    """A value of one's own is not copied, and is in no table that others see until it is shared."""
    value: list[int] = []
    async with cluster(2) as (a, b):
        rref = a.rref(value)
        here = (await rref, rref.local_value())
        before = a.debug_info()["num_owner_rrefs"]
        await a.rpc_async("worker1", workers.keep, args=(rref,))
        shared = a.debug_info()["num_owner_rrefs"], a.debug_info()["num_forks"]
        await a.rpc_async("worker1", workers.forget)
        await until(lambda: a.debug_info()["num_owner_rrefs"] == "0")
        del rref
        left = await empty((a, b))

    assert value is here[0]
    assert value is here[1]
    assert ("0", ("1", "1")) == (before, shared)
    assert {} == left


async def test_copies_travel_to_users() -> None:
    """A user gets a copy each time; the value changes only where it is."""
    async with cluster(2) as (a, _):
        rref = a.remote("worker1", list, args=([1],))
        copied = await rref
        copied.append(2)
        await rref.rpc_async().append(3)

        assert [1, 3] == await rref


async def test_errors_of_the_function_are_the_value() -> None:
    """`remote` does not raise; reading, calling and reading elsewhere raise the original error."""
    async with cluster(3) as (a, b, _):
        for to in ("worker1", "worker0"):
            rref = a.remote(to, workers.fail, args=("no",))
            for use in (
                lambda rref=rref: rref.to_here(),
                lambda rref=rref: rref.rpc_async().anything(),
                lambda rref=rref: a.rpc_async("worker2", workers.add_values, args=(rref,)),
            ):
                with pytest.raises(ValueError, match=r"^no$") as caught:
                    await use()
                assert isinstance(caught.value.__cause__, rpc.RemoteTraceback)
            assert rref.confirmed_by_owner()
        rref = b.remote("worker0", "nowhere:nothing")
        with pytest.raises(rpc.FunctionNotFoundError, match="nowhere"):
            await rref


async def test_local_value() -> None:
    """Only the owner has it; the error names both workers."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", Counter, args=(3,))
        with pytest.raises(rpc.RpcError, match=r"can't call localValue\(\) on user .*worker0") as e:
            rref.local_value()
        assert "Call it on owner WorkerInfo(id=1, name=worker1)" in str(e.value)
        await rref
        value = await b.rpc_async("worker1", workers.echo, args=(1,))
        assert 3 == (await a.rpc_async("worker1", workers.own_value_of, args=(rref,))).value

        here = a.remote("worker0", workers.make_slowly, args=("gate", [value]))
        with pytest.raises(rpc.RpcError, match="is not there yet"):
            here.local_value()
        reading = asyncio.ensure_future(asyncio.to_thread(here.local_value))
        await asyncio.sleep(0.01)
        workers.open_gate("gate")

        assert [1] == await reading
        assert [1] == here.local_value()
        failed = a.remote("worker0", workers.fail, args=("no",))
        with pytest.raises(ValueError, match=r"^no$"):
            await failed
        with pytest.raises(ValueError, match=r"^no$"):
            failed.local_value()


async def test_never_outside_a_call() -> None:
    """Pickling and copying are refused, and so is an RRef of another agent."""
    async with cluster(2) as (a, b):
        rref = a.rref(1)
        for forbidden in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"RRef|rref"):
                forbidden(rref)
        with pytest.raises(TypeError, match="another agent"):
            b.rpc_async("worker0", workers.echo, args=(rref,))
        with pytest.raises(TypeError, match="only be pickled when using RPC"):
            a._agent.codec.encode(rref)


async def test_before_init() -> None:
    """Without an agent there is nowhere to keep a value."""
    with pytest.raises(rpc.NotInitializedError, match="init_rpc"):
        rpc.RRef(1)
    with pytest.raises(rpc.NotInitializedError, match="init_rpc"):
        rpc.remote("worker1", min, args=(1, 2))


async def test_shown_as_the_reference_shows_them() -> None:
    """Names and ids are the reference system's."""
    async with cluster(2) as (a, _):
        mine = a.rref(1)
        other = a.remote("worker1", workers.add, args=(1,))

        assert "OwnerRRef(GloballyUniqueId(created_on=0, local_id=1))" == str(mine)
        assert (
            "UserRRef(RRefId = GloballyUniqueId(created_on=0, local_id=2), "
            "ForkId = GloballyUniqueId(created_on=0, local_id=3))"
        ) == str(other)


async def test_release() -> None:
    """A released reference cannot be used; the owner knows of it, and the value is gone."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", Counter)
        await rref.rpc_async().plus()
        await rref.release()
        rows = b.rref_debug()
        await rref.release()
        uses: list[Any] = [
            rref.to_here,
            rref.rpc_async().plus,
            rref.remote().plus,
            lambda: a.rpc_async("worker1", workers.echo, args=(rref,)),
        ]
        for use in uses:
            with pytest.raises(rpc.RRefDeletedError, match="has been deleted"):
                use()
        confirmed = rref.confirmed_by_owner()
        async with a.remote("worker1", Counter, args=(2,)) as other:
            assert 3 == await other.rpc_async().plus()
        with pytest.raises(rpc.RRefDeletedError):
            await other
        mine = a.rref([])
        await mine.release()
        with pytest.raises(rpc.RRefDeletedError):
            mine.local_value()
        left = await empty((a, b))

    assert [] == rows
    assert not confirmed
    assert {} == left


async def test_release_of_one_of_two() -> None:
    """Each RRef object stands for itself."""
    async with cluster(2) as (a, b):
        first = a.remote("worker1", Counter, args=(1,))
        (second,) = await a.rpc_async("worker1", workers.echo, args=([first],))
        await first.release()

        assert 1 == (await second).value
        await second.release()
        assert {} == await empty((a, b))


async def test_use_after_shutdown() -> None:
    """Everything says that the reference is deleted; nothing hangs."""
    async with cluster(2) as (a, b):
        other, mine = a.remote("worker1", Counter), a.rref(1)
        await other
        await asyncio.gather(a.shutdown(), b.shutdown())
        for rref in (other, mine):
            with pytest.raises(rpc.RRefDeletedError, match="has been deleted"):
                await rref
            assert not rref.confirmed_by_owner()
        await other.release()


@pytest.mark.parametrize("to", ["worker1", "worker0"])
async def test_timeout_of_to_here(to: str) -> None:
    """It bounds that read alone, on the owner too; a later one succeeds."""
    clock = VirtualClock()
    async with cluster(2, clock=clock) as (a, _):
        rref = a.remote(to, workers.make_slowly, args=("gate", 1), timeout=None)
        reading = asyncio.ensure_future(rref.to_here(timeout=5))
        await asyncio.sleep(0.01)
        await clock.advance(5)
        with pytest.raises(rpc.RpcTimeoutError, match="RPC ran for more than set timeout"):
            await reading
        workers.open_gate("gate")

        assert 1 == await rref.to_here(timeout=5)
        with pytest.raises(ValueError, match="timeout"):
            rref.to_here(timeout=-1)


@pytest.mark.parametrize("to", ["worker1", "worker0"])
async def test_timeout_of_remote(to: str) -> None:
    """It bounds the function, too: that is stopped, and each use says so at once."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (a, b, c):
        rref = a.remote(to, workers.make_slowly, args=("gate", 1), timeout=5)
        await until(rref.confirmed_by_owner)
        await clock.advance(5.001)
        await until(lambda: not rref.confirmed_by_owner())
        expected = pytest.raises(
            rpc.RRefCreationError, match=r"^RRef creation via rpc\.remote\(\) time"
        )
        with expected:
            rref.to_here()
        with expected:
            a.rpc_async("worker2", workers.echo, args=(rref,))
        with expected:
            rref.rpc_async().anything()
        with expected:
            rref.remote().anything()
        assert not rref.confirmed_by_owner()
        owner = b if to == "worker1" else a
        assert 1 == len(owner.rref_debug()) or to == "worker0"
        await rref.release()
        assert {} == await empty((a, b, c))


async def test_cancelling_a_read() -> None:
    """Nothing waits for it any more, and the reference is as good as before."""
    async with cluster(2) as (a, b):
        rref = a.remote("worker1", workers.make_slowly, args=("gate", 1))
        reading = rref.to_here()
        await until(rref.confirmed_by_owner)
        reading.cancel()
        await until(lambda: not b.references.machine._owners._fetches)
        workers.open_gate("gate")

        assert 1 == await rref
        del rref, reading
        assert {} == await empty((a, b))


async def test_dropping_in_a_thread() -> None:
    """The last reference may go anywhere."""
    async with cluster(2) as (a, b):
        box = [a.remote("worker1", Counter)]
        await box[0]
        await asyncio.to_thread(box.clear)
        left = await empty((a, b))

    assert {} == left


async def test_rows() -> None:
    """`rref_debug` names what is kept, for whom, how large, how long."""
    clock = VirtualClock()
    async with cluster(3, clock=clock) as (a, b, _):
        rref = a.remote("worker1", bytes, args=(1000,))
        await rref
        await a.rpc_async("worker2", workers.keep, args=(rref,))
        await clock.advance(7)
        (row,) = b.rref_debug()
        await a.rpc_async("worker2", workers.forget)

    assert ("worker0/1", "bytes", ("worker0", "worker2")) == (row.id, row.type, row.holders)
    assert row.size >= 1000
    assert 7 == pytest.approx(row.age)
