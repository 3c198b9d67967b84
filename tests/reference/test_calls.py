"""rpc_test.py, calls: values of every shape, one after the other and many at once.

Elsewhere: what may be called (tests/agent/test_calls.py, ``test_kinds_of_function``), a thousand
calls (``test_many_at_once``), `nested_rpc` (``test_nested_blocking_calls``),
`multi_layer_nested_async_rpc` (tests/agent/test_shutdown.py, ``test_chain_of_one_way_calls``),
`function_not_on_callee` (tests/execution/test_functions.py), `py_nested_pickle`
(tests/wire/test_codec.py, ``test_codec_can_be_used_while_it_encodes``), `deadlock`
(tests/adversity/test_nested.py, ``test_served_while_the_main_task_is_stuck``),
`op_with_invalid_args` (tests/agent/test_scripts.py, ``test_wrong_arguments_are_not_sent``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from asyncrpc.testing import cluster
from tests.agent import targets
from tests.reference.functions import MODES, add, call

pytestmark = pytest.mark.asyncio


@dataclass(frozen=True)
class Key:
    """May be the key of a dict."""

    text: str
    number: int


@dataclass
class Holder:
    """Holds other values."""

    content: Any


def heavy(size: int) -> int:
    """Take some time in a thread."""
    return sum(number * number for number in range(size))


def sizes(values: list[bytes]) -> list[int]:
    """Measure."""
    return [len(value) for value in values]


def no_result() -> None:
    """Return nothing."""


@pytest.mark.parametrize("mode", MODES)
async def test_self_add(mode: str) -> None:
    """A worker calls itself by its own WorkerInfo."""
    async with cluster(4) as (a, *_):
        assert 3 == await call(mode, a, a.info, add, (1, 2))


@pytest.mark.parametrize("mode", MODES)
async def test_py_no_return_result(mode: str) -> None:
    """None comes back."""
    async with cluster(4) as (a, *_):
        assert await call(mode, a, "worker1", no_result) is None


async def test_py_multi_async_call() -> None:
    """Two calls to one peer end each in its own time."""
    async with cluster(4) as (a, *_):
        hanging = a.rpc_async("worker1", targets.sleep, args=(1000,))
        quick = a.rpc_async("worker1", max, args=(1, 2))

        assert 2 == await quick
        assert not hanging.done()
        hanging.cancel()


async def test_multi_rpc() -> None:
    """Twenty calls, one after the other."""
    async with cluster(4) as (a, *_):
        results = [await a.rpc_async("worker1", add, args=(n, n)) for n in range(20)]

    assert [2 * n for n in range(20)] == results


async def test_stress_heavy_rpc() -> None:
    """Twenty functions at once that compute in threads."""
    async with cluster(4) as (a, *_):
        calls = [a.rpc_async("worker1", heavy, args=(5_000 + n,)) for n in range(20)]
        results = await asyncio.gather(*calls)

    assert [heavy(5_000 + n) for n in range(20)] == results


@pytest.mark.parametrize("mode", MODES)
async def test_py_tensors_in_container(mode: str) -> None:
    """Members of nested containers that are one object twice, and dicts with objects as keys."""
    shared = [1, (2, b"x" * 5000)]
    value = {
        Key("a", 1): shared,
        Key("b", 2): [shared, {"deep": (shared, {3, 4})}, Holder(shared)],
        (1, "two"): None,
    }
    async with cluster(4) as (a, *_):
        back = await call(mode, a, "worker1", targets.echo, (value,))

    assert value == back
    assert [Key, Key, tuple] == [type(key) for key in back]
    assert isinstance(back[Key("b", 2)][1]["deep"][0][1], tuple)


async def test_py_tensors_multi_async_call() -> None:
    """A hundred calls at once with growing values each have their own result."""
    async with cluster(4) as (a, *_):
        calls = [
            a.rpc_async("worker1", sizes, args=([bytes(n * n), bytes(n)],)) for n in range(100)
        ]
        results = await asyncio.gather(*calls)

    assert [[n * n, n] for n in range(100)] == results
