"""`run`: a program from beginning to end, on a loop of its own."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.api import process
from asyncrpc.store import MemoryStore
from asyncrpc.transport import MemoryNetwork

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

    def leave_two() -> None:
        try:
            rpc.run(leave_it())
            rpc.run(leave_it())
        finally:
            process.this_process.agent = None
        gc.collect()

    with pytest.warns(ResourceWarning, match="the RPC agent of solo was not shut down"):
        leave_two()

    assert not [t for t in threading.enumerate() if "liveness" in t.name]


def test_forgotten_agent() -> None:
    """An agent that nobody shut down says so once, by name; one that was shut down does not."""

    async def start(name: str) -> rpc.RpcAgent:
        return await rpc.RpcAgent.start(
            name, rank=0, world_size=1, options=OPTIONS, store=MemoryStore(),
            network=MemoryNetwork(), environ={},
        )  # fmt: skip

    async def use() -> None:
        await (await start("good")).shutdown()
        await (await start("hasty")).shutdown(graceful=False)
        await start("forgotten")

    def run() -> None:
        rpc.run(use())
        gc.collect()

    with pytest.warns(ResourceWarning) as caught:
        run()

    text = (
        "the RPC agent of forgotten was not shut down: await asyncrpc.shutdown() before its loop "
    )
    text += "ends, or use async with asyncrpc.init_rpc(...)"
    assert [text] == [str(warning.message) for warning in caught]


FORGETFUL = """
import asyncrpc as rpc
from asyncrpc.store import MemoryStore

async def main():
    options = rpc.RpcOptions(secret=b"a secret of the tests")
    await rpc.init_rpc("forgotten", rank=0, world_size=1, options=options, store=MemoryStore())

rpc.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "count"), [(["-W", "always::ResourceWarning"], 1), ([], 0)])
def test_forgotten_until_the_end(flags: list[str], count: int) -> None:
    """At the end of the process it says so too, to who asked for such warnings."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", FORGETFUL], capture_output=True, text=True, check=True
    )

    assert count == done.stderr.count("the RPC agent of forgotten was not shut down")
    assert "Traceback" not in done.stderr
    assert count or not done.stderr
