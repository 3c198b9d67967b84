"""`run`: a program from beginning to end, on a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc import api
from asyncrpc.store import MemoryStore

OPTIONS = rpc.RpcOptions(secret=b"a secret of the tests")


def alone() -> Any:
    """Return an init_rpc of a group of one."""
    return rpc.init_rpc("solo", rank=0, world_size=1, options=OPTIONS, store=MemoryStore())


def test_result_and_error() -> None:
    """It runs on uvloop, and gives the result or the error of the program."""

    async def succeed() -> str:
        async with alone():
            return type(asyncio.get_running_loop()).__module__

    async def fail() -> None:
        async with alone():
            raise KeyError("from main")

    module = rpc.run(succeed())
    with pytest.raises(KeyError, match="from main"):
        rpc.run(fail())

    assert "uvloop" == module


def test_after_a_loop_that_died() -> None:
    """An agent that was left to die with its loop does not keep others from starting."""

    async def leave_it() -> None:
        agent = await alone()
        await agent._agent.close("lost", "the test")
        agent._started.liveness.close()

    try:
        rpc.run(leave_it())
        rpc.run(leave_it())
    finally:
        api._process.agent = None

    assert not [t for t in threading.enumerate() if "liveness" in t.name]
