"""rpc_test.py, remote references: where they are made, and what passes through whom.

Elsewhere: most of it, in tests/rref: `local_rref_no_fork`, `rref_str`, `local_value_not_on_owner`,
`builtin_remote_self`, `rref_py_pickle_not_supported`, `use_rref_after_shutdown`
(test_reference.py), `py_rref_args` and its kin, `user_rrefs_confirmed`, `return_local_rrefs`,
`nested_rref_stress`, `rref_forward_chain` (test_passing.py), `call_method_on_rref`, `rref_proxy_*`
(test_proxy.py), `rref_leak`, `ignore_rref_leak` and the circular dependency (test_shutdown.py).
There is no `rref_type` and no `rref_get_future`: the type is not asked for, and a creation has no
future.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.agent.groups import until
from tests.reference.functions import MODES, add, call
from tests.reference.groups import flushed
from tests.rref import workers
from tests.rref.workers import add_values, empty

pytestmark = pytest.mark.asyncio


async def rref_to_value(rref: rpc.RRef) -> Any:
    """Return what a reference refers to."""
    return await rref.to_here()


async def create_on(to: str, value: int) -> rpc.RRef:
    """Return a reference to a value of a third worker."""
    return rpc.remote(to, add, args=(value, 1))


async def create_two(to: str, value: int) -> tuple[rpc.RRef, ...]:
    """Return references to values of two workers, this one included."""
    return rpc.RRef(value), rpc.remote(to, add, args=(value, 1))


async def test_multi_py_udf_remote() -> None:
    """Each of many values made at once on one worker is its own."""
    async with cluster(4) as agents:
        rrefs = [agents[0].remote("worker1", add, args=(n, n)) for n in range(10)]

        assert [2 * n for n in range(10)] == [await rref for rref in rrefs]
        del rrefs
        assert {} == await empty(agents)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("to", ["worker1", "worker0"])
@pytest.mark.parametrize("made", ["local", "remote"])
async def test_pass_local_rrefs(mode: str, to: str, made: str) -> None:
    """`self_remote_rref_as_*` too: a value of one's own, `RRef(40)` or made by `remote`."""
    async with cluster(4) as agents:
        a = agents[0]
        rref = a.rref(40) if made == "local" else a.remote("worker0", add, args=(20, 20))

        assert 40 == await call(mode, a, to, rref_to_value, (rref,))
        assert 80 == await call(mode, a, to, add_values, (rref, rref))
        del rref
        assert {} == await empty(agents)


@pytest.mark.parametrize("mode", MODES)
async def test_remote_same_worker(mode: str) -> None:
    """References to two values of a worker are read there, and their sum refers to a third."""
    async with cluster(4) as agents:
        a = agents[0]
        first, second = (a.remote("worker1", add, args=(n, 1)) for n in (1, 2))

        assert 5 == await call(mode, a, "worker1", add_values, (first, second))
        del first, second
        assert {} == await empty(agents)


@pytest.mark.parametrize("mode", MODES)
async def test_rpc_return_rref(mode: str) -> None:
    """A reference to a third worker's value is a result like any other."""
    async with cluster(4) as agents:
        rref = await call(mode, agents[0], "worker1", create_on, ("worker2", 6))

        assert "worker2" == rref.owner_name()
        assert 7 == await rref
        del rref
        assert {} == await empty(agents)


async def test_nested_rref() -> None:
    """A value that is a tuple of references is shared by all who read it."""
    async with cluster(4) as agents:
        a = agents[0]
        rref = a.remote("worker1", create_two, args=("worker2", 5))
        here = await rref
        passed_on = await a.rpc_async("worker3", rref_to_value, args=(rref,))
        for pair in (here, passed_on):
            assert ("worker1", "worker2") == tuple(inner.owner_name() for inner in pair)
            assert [5, 6] == [await inner for inner in pair]
        del rref, here, passed_on, pair
        assert {} == await empty(agents)


async def test_rref_context_debug_info() -> None:
    """A reference counts once it is shared, and no more when nobody else holds it."""
    async with cluster(4) as agents:
        a, b, *_ = agents

        def counts(agent: rpc.RpcAgent) -> list[int]:
            info = agent.debug_info()
            return [int(info[f"num_{name}"]) for name in ("owner_rrefs", "pending_users", "forks")]

        local = a.rref(3)
        assert [0, 0, 0] == counts(a)
        await a.rpc_async("worker1", workers.keep, args=(local,))
        assert [1, 0, 1] == counts(a)
        await a.rpc_async("worker1", workers.forget)
        await until(lambda: counts(a) == [0, 0, 0])

        two = [a.remote("worker1", add, args=(1, 1)) for _ in range(2)]
        assert [0, 2, 0] == counts(a)
        await flushed(a)
        await asyncio.gather(*two)
        assert [0, 0, 0] == counts(a)
        assert [2, 0, 2] == counts(b)
        del local, two
        assert {} == await empty(agents)
