"""rpc_test.py, errors: futures that cannot travel, and async functions that go wrong.

Elsewhere: `py_function_exception` (tests/agent/test_calls.py, ``test_wrong_arity``),
`py_raise_in_user_func_escaped_str` (test_defects.py, D5), `future_wait_twice`
(``test_awaited_again``), `remote_with_exception` and `remote_throw` (tests/rref/test_reference.py,
``test_errors_of_the_function_are_the_value``), `handle_send_exceptions` (tests/agent/test_lost.py).
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.agent import targets
from tests.reference.functions import (
    MODES,
    CustomException,
    add,
    async_raise,
    async_wrong_type,
    call,
    raise_custom,
    return_call,
    return_future,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("mode", MODES)]


async def test_pickle_future(mode: str) -> None:
    """A future, or a call under way, as an argument is refused at the call, by its place."""
    async with cluster(4) as (a, *_):
        pending = asyncio.get_running_loop().create_future()
        for future in (pending, a.rpc_async("worker2", add, args=(1, 2))):
            with pytest.raises(rpc.EncodingError, match=r"args\[0\]") as caught:
                await call(mode, a, "worker1", add, (future, 1))
            assert rpc.Delivery.NOT_SENT is caught.value.delivery
            await asyncio.wait([future], timeout=0)
        pending.cancel()


@pytest.mark.parametrize("func", [return_future, return_call])
async def test_return_future(mode: str, func: Any) -> None:
    """As a result it is an error that says so; the function did run."""
    async with cluster(4) as (a, *_):
        with pytest.raises(rpc.EncodingError, match=r"result.*Future") as caught:
            await call(mode, a, "worker1", func)
        assert 3 == await call(mode, a, "worker1", add, (1, 2))

    assert rpc.Delivery.EXECUTED is caught.value.delivery


async def test_async_function_raise(mode: str) -> None:
    """What is raised before there is an awaitable is an ordinary error."""
    async with cluster(4) as (a, *_):
        with pytest.raises(RuntimeError, match=r"^Expected error$") as caught:
            await call(mode, a, "worker1", async_raise)

    assert RuntimeError is type(caught.value)


async def test_async_function_wrong_return_type(mode: str) -> None:
    """A result that cannot be awaited is an error that says what it is."""
    async with cluster(4) as (a, *_):
        with pytest.raises(TypeError, match=r"must return an awaitable, but got builtins\.int"):
            await call(mode, a, "worker1", async_wrong_type)


async def test_py_raise_in_user_func(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets the error; the callee logs it with its traceback, for who wants to see it."""
    caplog.set_level(logging.DEBUG, logger="asyncrpc")
    async with cluster(4) as (a, *_):
        with pytest.raises(ValueError, match=r"^Expected error$"):
            await call(mode, a, "worker1", targets.fail, ("Expected error",))
    seen = [record for record in caplog.records if record.exc_info]
    text = "tests.agent.targets:fail, called by WorkerInfo(id=0, name=worker0), failed"

    assert [text] == [record.getMessage() for record in seen]
    assert [ValueError] == [record.exc_info[0] for record in seen if record.exc_info]
    assert {logging.DEBUG} == {record.levelno for record in seen}


async def test_custom_exception_throw_during_reconstruction(mode: str) -> None:
    """A class whose constructor would refuse arrives all the same: it is not called."""
    async with cluster(4) as (a, *_):
        with pytest.raises(CustomException, match=r"^the original text$"):
            await call(mode, a, "worker1", raise_custom)
