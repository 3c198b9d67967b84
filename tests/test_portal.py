"""`blocking_portal`: the whole agent in a background thread, for code that has no loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc.api import portal as portal_module
from asyncrpc.store import MemoryStore
from tests.agent import targets


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give the tests a secret of their own, and a clean log."""
    path = tmp_path / "secret"
    path.write_bytes(bytes(32))
    path.chmod(0o600)
    monkeypatch.setenv("ASYNCRPC_SECRET_FILE", str(path))
    targets.log.clear()


@pytest.fixture
def alone() -> Iterator[rpc.BlockingAgent]:
    """Run a group of one in a portal."""
    with rpc.blocking_portal("worker0", rank=0, world_size=1, store=MemoryStore()) as agent:
        yield agent


@contextlib.contextmanager
def peer(folder: Path) -> Iterator[tuple[rpc.RpcOptions, list[rpc.RpcAgent]]]:
    """Run worker1 of two on a loop in another thread; give its options and, once there is, it."""
    options = rpc.RpcOptions(init_method=f"file://{folder}/store")
    found: list[rpc.RpcAgent] = []

    async def serve() -> None:
        found.append(await rpc.RpcAgent.start("worker1", rank=1, world_size=2, options=options))
        await found[0].shutdown()  # once worker0 does so too, or is lost

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield options, found
    finally:
        thread.join(10)
    assert not thread.is_alive()


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.001)


@contextlib.contextmanager
def interrupted_when(condition: Callable[[], object]) -> Iterator[None]:
    """Press Ctrl-C once it is so; the body must be interrupted soon after."""
    pressed: list[float] = []

    def press() -> None:
        until(condition)
        pressed.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        yield
    thread.join()
    assert time.monotonic() - pressed[0] < 3


@pytest.mark.parametrize("has_uvloop", [False, True])
def test_example(has_uvloop: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the docstring shows works, on both loops."""
    monkeypatch.setattr(portal_module, "_has_uvloop", lambda: has_uvloop)
    monkeypatch.setenv("LAUNCHER_STORE", "")
    doc = inspect.getdoc(rpc.blocking_portal) or ""
    found = re.findall(r"^Example:\n    ```python\n(.*?)^    ```$", doc, re.DOTALL | re.MULTILINE)
    store = f'options=rpc.RpcOptions(init_method="file://{tmp_path}/store"), world_size='
    exec(textwrap.dedent(found[0]).replace("world_size=", store), {"rpc": rpc})

    assert 1 == len(found)


def test_two_workers(tmp_path: Path) -> None:
    """Calls go out from this thread and come in meanwhile; leaving it waits for the others."""
    with peer(tmp_path) as (options, found):
        with rpc.blocking_portal("worker0", rank=0, world_size=2, options=options) as agent:
            until(lambda: found)
            answers = [
                agent.rpc_sync("worker1", targets.who),
                agent.rpc_sync(1, targets.add, args=(1,), kwargs={"b": 2}, timeout=5),
                agent.rpc_async("worker1", targets.echo, args=("x",)).result(5),
                rpc.rpc_sync("worker1", targets.echo, args=("module level",)),
                found[0].rpc_sync("worker0", targets.who),
                found[0].rpc_sync("worker0", targets.nested_sync, args=("worker1", 3)),
                agent.rpc_sync("worker1", targets.nested_sync, args=("worker0", 3)),
            ]
            names = [info.name for info in agent.call(rpc.get_worker_infos)]

    assert [("worker1", "worker0"), 3, "x", "module level", ("worker0", "worker1"), 3, 3] == answers
    assert ["worker0", "worker1"] == names
    assert rpc.WorkerInfo("worker0", 0) == agent.info


def test_barrier(tmp_path: Path) -> None:
    """Collective calls go through `call`."""
    with peer(tmp_path) as (options, found):
        with rpc.blocking_portal("worker0", rank=0, world_size=2, options=options) as agent:
            until(lambda: found)
            theirs = asyncio.run_coroutine_threadsafe(found[0].all_gather("b"), found[0]._loop)
            ours = agent.call(rpc.all_gather, "a")

            assert {"worker0": "a", "worker1": "b"} == ours == theirs.result(5)


def test_errors(alone: rpc.BlockingAgent) -> None:
    """A failure is raised where the result is waited for, whatever it is."""
    with pytest.raises(ValueError, match="on purpose"):
        alone.rpc_sync("worker0", targets.fail, args=("on purpose",))
    with pytest.raises(ValueError, match="on purpose"):
        alone.rpc_async("worker0", targets.fail, args=("on purpose",)).result(5)
    with pytest.raises(rpc.UnknownWorkerError):
        alone.rpc_async("worker9", targets.who).result(5)
    with pytest.raises(rpc.RpcTimeoutError):
        alone.rpc_sync("worker0", targets.sleep, args=(1000,), timeout=0.01)
    with pytest.raises(KeyError):
        alone.call({}.__getitem__, "missing")


def test_call(alone: rpc.BlockingAgent) -> None:
    """A coroutine or future is awaited; other values, awaitable or not, come as they are."""

    class Reference:
        def __await__(self) -> Any:
            raise AssertionError

    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    reference = Reference()

    assert 42 == alone.call(double, 21)
    assert 11 == alone.call(rpc.rpc_async, "worker0", targets.add, (1,))
    assert reference is alone.call(lambda: reference)
    assert alone.agent is alone.call(rpc.current_agent)
    assert threading.get_ident() != alone.call(threading.get_ident)


def test_cancelled_future(alone: rpc.BlockingAgent) -> None:
    """Cancelling a future cancels the callee."""
    future = alone.rpc_async("worker0", targets.sleep, args=(1000,))
    until(lambda: alone.agent.debug_info()["agent.server_active_async_calls"] == "1")
    future.cancel()
    until(lambda: targets.log)

    assert ["cancelled"] == targets.log
    assert future.cancelled()


def test_many_threads(alone: rpc.BlockingAgent) -> None:
    """All threads may call at once."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(alone.rpc_sync, "worker0", targets.add, (number, 1)) for number in range(50)
        ]
        results = [call.result(10) for call in calls]

    assert list(range(1, 51)) == results


def test_while_a_loop_runs_in_this_thread() -> None:
    """It works from a thread whose own loop is running, as a notebook's is."""

    async def cell() -> list[object]:
        with rpc.blocking_portal("worker0", rank=0, world_size=1, store=MemoryStore()) as agent:
            return [
                agent.rpc_sync("worker0", targets.add, args=(1,)),
                await asyncio.wrap_future(agent.rpc_async("worker0", targets.echo, args=("x",))),
                await asyncio.to_thread(agent.rpc_sync, "worker0", targets.echo, ("y",)),
            ]

    assert [11, "x", "y"] == asyncio.run(cell())


def test_on_its_own_loop(alone: rpc.BlockingAgent) -> None:
    """What would block the agent's loop is refused there at once."""
    uses = ((alone.call, int), (alone.shutdown,), (alone.rpc_sync, "worker0", int))
    for function, *args in uses:
        with pytest.raises(RuntimeError, match=r"event loop thread|would block the loop"):
            alone.call(function, *args)
    assert 11 == alone.rpc_sync("worker0", targets.add, args=(1,))


def test_one_per_process(alone: rpc.BlockingAgent) -> None:
    """There is one agent per process, however it is started; the failure leaves nothing behind."""
    with pytest.raises(rpc.AlreadyInitializedError):
        rpc.blocking_portal("other", rank=0, world_size=1, store=MemoryStore())

    assert 11 == alone.rpc_sync("worker0", targets.add, args=(1,))


def test_bad_arguments() -> None:
    """They are refused as by init_rpc, and nothing stays behind."""
    with pytest.raises(ValueError, match="rank must be"):
        rpc.blocking_portal("worker0", rank=5, world_size=1, store=MemoryStore())
    with pytest.raises(rpc.NotInitializedError):
        rpc.current_agent()


def test_after_the_end() -> None:
    """Later calls say that there is no agent; ending it again is nothing; a new one may start."""
    for _ in range(2):
        agent = rpc.blocking_portal("worker0", rank=0, world_size=1, store=MemoryStore())
        with pytest.raises(ValueError, match="timeout"):
            agent.shutdown(timeout=-1)
        assert 11 == agent.rpc_sync("worker0", targets.add, args=(1,))
        agent.shutdown()
        agent.shutdown()
        for use in (agent.rpc_sync, agent.rpc_async):
            with pytest.raises(rpc.NotInitializedError):
                use("worker0", targets.who)
        with pytest.raises(rpc.NotInitializedError):
            agent.call(int)
        with pytest.raises(rpc.NotInitializedError):
            rpc.current_agent()


def test_shut_down_on_its_loop() -> None:
    """An agent that was shut down on its loop leaves a portal that closes."""
    with rpc.blocking_portal("worker0", rank=0, world_size=1, store=MemoryStore()) as agent:
        agent.call(rpc.shutdown)
        with pytest.raises(rpc.NotInitializedError):
            agent.rpc_sync("worker0", targets.who)


def test_what_still_waits_at_the_end() -> None:
    """Threads that wait for something when it ends do not wait on."""
    errors: list[BaseException] = []

    def wait(function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except BaseException as error:
            errors.append(error)

    agent = rpc.blocking_portal("worker0", rank=0, world_size=1, store=MemoryStore())
    threads = [
        threading.Thread(target=wait, args=(agent.call, asyncio.sleep, 1000)),
        threading.Thread(target=wait, args=(agent.rpc_sync, "worker0", targets.sleep, (1000,))),
    ]
    for thread in threads:
        thread.start()
    until(lambda: agent.agent.debug_info()["agent.server_active_async_calls"] == "1")
    agent.shutdown(graceful=False)
    for thread in threads:
        thread.join(5)

    assert {concurrent.futures.CancelledError, rpc.NotInitializedError} == {*map(type, errors)}


@pytest.mark.slow
def test_failure_in_the_body(tmp_path: Path) -> None:
    """An error in the body ends the agent at once: the others see it lost, not waiting."""
    with peer(tmp_path) as (options, found):
        with pytest.raises(KeyError):
            with rpc.blocking_portal("worker0", rank=0, world_size=2, options=options):
                until(lambda: found)
                raise KeyError

    assert "1" == found[0].debug_info()["agent.peers_gone"]


@pytest.mark.slow
def test_interrupted_rpc_sync(alone: rpc.BlockingAgent) -> None:
    """Ctrl-C ends a waiting rpc_sync at once and cancels the call; the agent goes on."""
    with interrupted_when(
        lambda: alone.agent.debug_info()["agent.server_active_async_calls"] == "1"
    ):
        alone.rpc_sync("worker0", targets.sleep, args=(1000,))
    until(lambda: targets.log)

    assert ["cancelled"] == targets.log
    assert 11 == alone.rpc_sync("worker0", targets.add, args=(1,))


@pytest.mark.slow
def test_interrupted_call(alone: rpc.BlockingAgent) -> None:
    """Ctrl-C ends a waiting `call` at once and cancels what it waits for."""
    began = threading.Event()

    async def wait() -> None:
        began.set()
        await targets.sleep(1000)

    with interrupted_when(began.is_set):
        alone.call(wait)
    until(lambda: targets.log)

    assert ["cancelled"] == targets.log
    assert 11 == alone.rpc_sync("worker0", targets.add, args=(1,))


@pytest.mark.slow
def test_interrupted_start() -> None:
    """Ctrl-C while it waits for the others ends that; nothing stays behind."""
    store = MemoryStore()
    with interrupted_when(lambda: store._waiting or store._feeds):
        rpc.blocking_portal("worker0", rank=0, world_size=2, store=store)
    with pytest.raises(rpc.NotInitializedError):
        rpc.current_agent()


@pytest.mark.slow
def test_interrupted_at_any_moment_of_the_start() -> None:
    """Whenever Ctrl-C comes while it starts, nothing stays behind and nothing hangs."""
    for step in range(30):

        def press(delay: float = step * 0.001) -> None:
            time.sleep(delay)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=press)
        agents: list[rpc.BlockingAgent] = []
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            agents.append(rpc.blocking_portal("worker0", rank=0, world_size=1, store=MemoryStore()))
            time.sleep(5)
        thread.join()
        for agent in agents:
            agent.shutdown()
        with pytest.raises(rpc.NotInitializedError):
            rpc.current_agent()


@pytest.mark.slow
def test_interrupted_shutdown(tmp_path: Path) -> None:
    """Ctrl-C while it waits for others in the end closes everything all the same."""
    with peer(tmp_path) as (options, found):
        agent = rpc.blocking_portal("worker0", rank=0, world_size=2, options=options)
        until(lambda: found)
        agent.call(rpc.rpc_notify, "worker1", targets.sleep, (1000,))
        until(lambda: found[0].debug_info()["agent.server_active_async_calls"] == "1")
        with interrupted_when(lambda: not agent._is_open):
            agent.shutdown()
        with pytest.raises(rpc.NotInitializedError):
            rpc.current_agent()
        found[0]._loop.call_soon_threadsafe(cancel_calls, found[0])


def cancel_calls(agent: rpc.RpcAgent) -> None:
    """Cancel what a worker serves."""
    for server in agent._agent.servers:
        for call in tuple(server.calls.values()):
            call.cancel()


FORGOTTEN = """
import asyncrpc as rpc
from asyncrpc.store import MemoryStore
{start} rpc.blocking_portal("worker0", rank=0, world_size=1, store=MemoryStore()){end}
    print(agent.rpc_sync("worker0", divmod, args=(7, 2)))
    {last}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "code", "warns"),
    [
        (FORGOTTEN.format(start="if agent :=", end=":", last="pass"), 0, True),
        (FORGOTTEN.format(start="if agent :=", end=":", last="1 / 0"), 1, True),
        (FORGOTTEN.format(start="with", end=" as agent:", last="raise SystemExit(3)"), 3, False),
    ],
)
def test_end_of_the_process(source: str, code: int, warns: bool) -> None:
    """A process ends promptly, also if it forgot to shut down; then it is told so."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", source],
        check=False,
        capture_output=True,
        text=True,
        timeout=15,
    )

    assert (code, "(3, 1)\n") == (done.returncode, done.stdout)
    assert warns == ("ResourceWarning: <BlockingAgent worker0 id 0>" in done.stderr)


@pytest.mark.slow
def test_end_of_a_fork() -> None:
    """A forked child that ends does not wait for the parent's thread."""
    source = FORGOTTEN.format(
        start="import os\nwith", end=" as agent:", last="pid = os.fork()\n    if pid: os.wait()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source.replace("if pid: os.wait()", END_OF_FORK)],
        check=False,
        capture_output=True,
        text=True,
        timeout=15,
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert "child 0" in done.stdout


END_OF_FORK = """if not pid:
        agent.__exit__ = None
        import atexit
        atexit._run_exitfuncs()
        os._exit(0)
    print("child", os.waitpid(pid, 0)[1])"""
