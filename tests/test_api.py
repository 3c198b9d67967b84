"""The life of a worker as a user sees it: start, names, errors of the start, end, introspection."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncrpc as rpc
from asyncrpc import RpcAgent, RpcOptions
from asyncrpc.store import MemoryStore, StoreConnectionError, TCPStoreServer
from asyncrpc.testing import VirtualClock, cluster
from tests.agent import targets
from tests.agent.groups import until
from tests.agent.processes import SECRET, started

pytestmark = pytest.mark.asyncio

OPTIONS = RpcOptions(secret=SECRET, init_timeout=10)


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    """A file that holds the secret of these tests."""
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return str(path)


def alone(**changes: Any) -> Any:
    """Return an init_rpc of a group of one."""
    arguments: dict[str, Any] = {"rank": 0, "world_size": 1, "options": OPTIONS}
    return rpc.init_rpc("solo", store=MemoryStore(), **{**arguments, **changes})


# --- start and end


async def test_awaited_or_entered() -> None:
    """init_rpc is awaited, or entered, which also ends it; then it can be done again."""
    agent = await alone()
    current = rpc.current_agent()
    await rpc.shutdown()
    async with alone() as second:
        info = rpc.get_worker_info()
        with pytest.raises(rpc.AlreadyInitializedError, match="RPC is already initialized"):
            await alone()
        assert 11 == await rpc.rpc_async("solo", targets.add, args=(1,))
    await rpc.shutdown()
    await rpc.shutdown(graceful=False)

    assert current is agent is not second
    assert rpc.WorkerInfo("solo", 0) == info


async def test_init_that_was_not_awaited_is_told() -> None:
    """Torch's `init_rpc` needs no await; that ours was not called at all would be no help."""
    alone()
    for call in (rpc.get_worker_info, lambda: rpc.rpc_async("solo", targets.who)):
        with pytest.raises(rpc.NotInitializedError, match="first") as caught:
            call()
        (note,) = caught.value.__notes__
        assert "init_rpc was called, and not awaited" in note
    async with alone():
        pass
    with pytest.raises(rpc.NotInitializedError) as caught:
        rpc.get_worker_info()

    assert not hasattr(caught.value, "__notes__")


async def test_before_and_after() -> None:
    """Without an agent every function says so, and how to get one."""
    text = r"RPC has not been initialized\. Call asyncrpc\.init_rpc first\."
    calls: list[Callable[[], Any]] = [
        rpc.current_agent,
        rpc.get_worker_info,
        rpc.get_worker_infos,
        rpc.get_rpc_timeout,
        rpc.debug_info,
        lambda: rpc.set_rpc_timeout(1),
        lambda: rpc.rpc_async("solo", targets.who),
        lambda: rpc.rpc_sync("solo", targets.who),
        lambda: rpc.rpc_notify("solo", targets.who),
    ]
    async with alone():
        pass
    for call in calls:
        with pytest.raises(rpc.NotInitializedError, match=text):
            call()
    with pytest.raises(rpc.NotInitializedError, match=text):
        await rpc.barrier()
    with pytest.raises(rpc.RpcError, match="inside a served call"):
        rpc.caller()

    assert rpc.remaining() is None


async def test_agents_beside_the_process_own() -> None:
    """RpcAgent.start leaves current_agent alone; a served call sees the agent that serves it."""
    async with cluster(2) as (a, _):
        with pytest.raises(rpc.NotInitializedError):
            rpc.current_agent()
        async with alone():
            serving = await a.rpc_async("worker1", targets.who)
            own = rpc.current_agent().info.name

    assert ("worker1", "worker0") == serving
    assert "solo" == own


async def test_cancelled_start(free_tcp_port: int) -> None:
    """A start that is cancelled leaves nothing, and the next one works."""
    options = RpcOptions(secret=SECRET, init_method=f"tcp://127.0.0.1:{free_tcp_port}")
    task = asyncio.ensure_future(_start(rpc.init_rpc("a", rank=0, world_size=2, options=options)))
    await asyncio.sleep(0.05)
    with pytest.raises(rpc.AlreadyInitializedError):
        await alone()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await rpc.shutdown()
    async with alone():
        pass


@pytest.fixture
def free_tcp_port() -> int:
    """A port of loopback that nobody listens on."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def _start(init: Any) -> Any:
    return await init


async def test_context_manager_in_an_error() -> None:
    """The error of the body comes out as it is."""
    with pytest.raises(KeyError, match="mine"):
        async with alone():
            raise KeyError("mine")
    with pytest.raises(rpc.NotInitializedError):
        rpc.current_agent()


async def test_an_agent_is_a_context_manager() -> None:
    """As `init_rpc` is: gracefully after its body, at once if that raises."""
    store = MemoryStore()

    def join(rank: int) -> Awaitable[RpcAgent]:
        return RpcAgent.start(
            f"worker{rank}", rank=rank, world_size=2, options=OPTIONS, store=store, environ={}
        )

    one, other = await asyncio.gather(join(0), join(1))
    leaving = asyncio.ensure_future(other.shutdown())
    async with one as entered:
        assert one is entered
        assert 1 == await one.rpc_async("worker1", min, args=(1, 2))
    await leaving
    assert one.is_closed

    store = MemoryStore()
    one, other = await asyncio.gather(join(0), join(1))
    with pytest.raises(KeyError):
        async with one:
            raise KeyError
    assert one.is_closed  # it did not wait for the other one
    await other.shutdown()


async def test_the_processs_agent_may_be_ended_by_its_own_method() -> None:
    """It is the current one no more then, and another one can be made."""
    agent = await alone()
    assert rpc.current_agent() is agent
    await agent.shutdown()
    with pytest.raises(rpc.NotInitializedError):
        rpc.current_agent()
    with pytest.raises(rpc.NotInitializedError):
        rpc.rpc_async("solo", min, args=(1, 2))
    async with alone() as other:
        assert rpc.current_agent() is other
        assert 1 == await rpc.rpc_async("solo", min, args=(1, 2))
    async with alone() as third:
        await third.shutdown(graceful=False)  # the context has nothing left to do


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"rank": -1}, "rank must be from 0 to world_size - 1"),
        ({"rank": 1}, "rank must be from 0 to world_size - 1"),
        ({"rank": "0"}, "rank must be an int, got '0'"),
        ({"world_size": 0}, "world_size must be at least 1"),
        ({"world_size": 32769}, "world_size must be at most 32768, got 32769"),
        ({"name": "abc*"}, "Worker name must match"),
        ({"name": " "}, "Worker name must match"),
        ({"name": ""}, "must be non-empty"),
        ({"name": "x" * 200}, "shorter than 128"),
    ],
)
async def test_bad_place(arguments: dict[str, Any], text: str) -> None:
    """A bad name, rank or world size is a ValueError that says what is right."""
    given = {"name": "solo", "rank": 0, "world_size": 1, **arguments}
    with pytest.raises(ValueError, match=text.replace("*", r"\*")):
        await RpcAgent.start(**given, options=OPTIONS, store=MemoryStore(), environ={})


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"WORLD_SIZE": "2"}, r"rank missing: pass rank=, or set \$RANK"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, r"\$RANK must be an int, got 'x'"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "h", "MASTER_PORT": "-1"}, "MASTER_PORT"),
        ({"RANK": "0", "WORLD_SIZE": "1", "LAUNCHER_STORE": "nonsense"}, "nonsense"),
    ],
)
async def test_bad_environment(environ: dict[str, str], text: str) -> None:
    """A variable that is missing or bad is named."""
    with pytest.raises(ValueError, match=text):
        await RpcAgent.start(options=OPTIONS, environ=environ)


async def test_names_by_default() -> None:
    """The name comes from the argument, else the variable, else the rank."""
    names = []
    for name, environ in (
        ("a", {"ASYNCRPC_NAME": "b"}),
        (None, {"ASYNCRPC_NAME": "b"}),
        (None, {}),
    ):
        agent = await RpcAgent.start(
            name, rank=0, world_size=1, options=OPTIONS, store=MemoryStore(), environ=environ
        )
        names.append(agent.info.name)
        await agent.shutdown()

    assert ["a", "b", "worker0"] == names


# --- finding each other


async def group_of(n: int, options: RpcOptions, **common: Any) -> list[Any]:
    """Start n workers in this process; return their agents, or what their start failed with."""
    starts = [
        RpcAgent.start(f"worker{rank}", rank=rank, world_size=n, options=options, **common)
        for rank in range(n)
    ]
    return await asyncio.gather(*starts, return_exceptions=True)


async def end(agents: list[Any]) -> None:
    """Shut down what started."""
    await asyncio.gather(*[a.shutdown() for a in agents if isinstance(a, RpcAgent)])


@pytest.mark.slow
async def test_env_in_processes(secret_file: str, free_tcp_port: int) -> None:
    """MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE are all a worker needs."""
    environ = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_tcp_port),
        "WORLD_SIZE": "3",
        "ASYNCRPC_SECRET_FILE": secret_file,
    }
    others = [
        {**environ, "RANK": "1"},
        {**environ, "RANK": "2", "ASYNCRPC_NAME": "trainer:2"},
    ]
    async with started(*others) as workers:
        agent = await RpcAgent.start(environ={**environ, "RANK": "0"})
        names = [info.name for info in agent.get_worker_infos()]
        pids = [await agent.rpc_async(to, os.getpid) for to in (0, 1, "trainer:2")]
        for worker in workers:
            await worker.tell("graceful")
        await agent.shutdown()
        lines = [[await worker.line() for _ in range(3)] for worker in workers]
        codes = [await worker.process.wait() for worker in workers]

    assert ["worker0", "worker1", "trainer:2"] == names
    assert [os.getpid(), *[worker.process.pid for worker in workers]] == pids
    assert [["ready", "leaving", "left"]] * 2 == lines
    assert [0, 0] == codes


@pytest.mark.parametrize("first", [0, 1])
async def test_tcp_store(free_tcp_port: int, first: int) -> None:
    """With tcp:// rank 0 serves the store, whoever comes first."""
    method = f"tcp://127.0.0.1:{free_tcp_port}"
    options = RpcOptions(secret=SECRET, init_method=method, init_timeout=10)

    async def start(rank: int) -> RpcAgent:
        await asyncio.sleep(0.02 * (rank != first))
        return await RpcAgent.start(rank=rank, world_size=2, options=options, environ={})

    agents = await asyncio.gather(start(0), start(1))
    result = await agents[1].rpc_async("worker0", targets.add, args=(1,))
    await end([*agents])

    assert 11 == result


async def test_file_store(tmp_path: Path) -> None:
    """With file:// the first opener serves the store; several at once agree on one."""
    path = tmp_path / "meet"
    options = RpcOptions(secret=SECRET, init_method=f"file://{path}", init_timeout=10)
    agents = await group_of(4, options, environ={})
    result = await agents[3].rpc_async("worker0", targets.add, args=(1,))
    await end(agents)

    assert 11 == result
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "garbage", "tcp://127.0.0.1:1\n", "\0\xff"])
async def test_stale_file(tmp_path: Path, content: str) -> None:
    """A file that was left behind, with whatever in it, is replaced."""
    path = tmp_path / "meet"
    path.write_text(content)
    options = RpcOptions(secret=SECRET, init_method=f"file://{path}", init_timeout=10)
    agents = await group_of(2, options, environ={})
    result = await agents[1].rpc_async("worker0", targets.add, args=(1,))
    await end(agents)

    assert 11 == result


async def test_file_in_no_folder(tmp_path: Path) -> None:
    """A file:// whose folder is missing is named as it was given."""
    options = RpcOptions(secret=SECRET, init_method=f"file://{tmp_path}/none/meet")

    with pytest.raises(ValueError, match=r"^init_method must name a file in a folder .*none/meet"):
        await RpcAgent.start(rank=0, world_size=1, options=options, environ={})


async def test_unix_sockets(tmp_path: Path) -> None:
    """A directory to listen in gives a socket for each worker; they are gone in the end."""
    options = RpcOptions(secret=SECRET, listen=f"unix://{tmp_path}")
    agents = await group_of(2, options, store=MemoryStore(), environ={})
    result = await agents[1].rpc_async("worker0", targets.add, args=(1,))
    names = sorted(os.listdir(tmp_path))
    await end(agents)

    assert 11 == result
    assert ["worker0.sock", "worker1.sock"] == names
    assert [] == os.listdir(tmp_path)


async def test_address_in_use(tmp_path: Path) -> None:
    """An address that another worker listens at is refused by name."""
    async with TCPStoreServer(secret=SECRET) as server:
        options = RpcOptions(secret=SECRET, listen=f"tcp://127.0.0.1:{server.port}")
        with pytest.raises(OSError, match=f"127.0.0.1:{server.port}"):
            await RpcAgent.start(
                rank=0, world_size=1, options=options, store=MemoryStore(), environ={}
            )


async def test_listen_everywhere() -> None:
    """Who listens at the wildcard address publishes one that can be reached."""
    options = RpcOptions(secret=SECRET, listen="tcp://0.0.0.0:0")
    agents = await group_of(2, options, store=MemoryStore(), environ={})
    places = [str(p.record.addresses[0]) for p in agents[0]._agent.members.all()]
    result = await agents[1].rpc_async("worker0", targets.add, args=(1,))
    await end(agents)

    assert 11 == result
    assert all(place.startswith("tcp://127.0.0.1:") for place in places)


@pytest.mark.slow
async def test_store_out_of_reach(free_tcp_port: int) -> None:
    """Without a store the start ends after init_timeout, with an error that names the address."""
    method = f"tcp://127.0.0.1:{free_tcp_port}"
    options = RpcOptions(secret=SECRET, init_method=method, init_timeout=1)
    begin = time.monotonic()
    with pytest.raises(StoreConnectionError, match=f"127.0.0.1:{free_tcp_port}"):
        await RpcAgent.start(rank=1, world_size=2, options=options, environ={})

    assert 0.4 < time.monotonic() - begin < 2.5


async def test_wait_for_a_store_is_told(
    free_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """While rank 0 does not come, the others say where nobody answers, and who should."""
    clock = VirtualClock()
    options = RpcOptions(secret=SECRET, init_method=f"tcp://127.0.0.1:{free_tcp_port}")
    start = asyncio.create_task(
        RpcAgent.start(rank=1, world_size=2, options=options, environ={}, clock=clock)
    )
    await clock.advance(9)
    early = list(caplog.messages)
    await clock.advance(2)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    told = f"no store answers at tcp://127.0.0.1:{free_tcp_port} for 10 s now; the worker of rank 0"
    assert [] == early
    assert [f"{told} serves it"] == caplog.messages


@pytest.mark.slow
async def test_somebody_is_missing(free_tcp_port: int) -> None:
    """When not all come, the error of all who came names the store and the missing ranks."""
    method = f"tcp://127.0.0.1:{free_tcp_port}"
    options = RpcOptions(secret=SECRET, init_method=method, init_timeout=0.5)
    starts = [
        RpcAgent.start(rank=rank, world_size=4, options=options, environ={}) for rank in (0, 2)
    ]
    begin = time.monotonic()
    errors = await asyncio.gather(*starts, return_exceptions=True)
    span = time.monotonic() - begin

    assert [rpc.RpcTimeoutError] * 2 == [type(error) for error in errors]
    assert all(f"127.0.0.1:{free_tcp_port}; missing rank 1, 3" in str(e) for e in errors), errors
    assert 0.4 < span < 3


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_one_name_twice(kind: str, free_tcp_port: int) -> None:
    """Two workers of one name are refused on all workers."""
    method = f"tcp://127.0.0.1:{free_tcp_port}"
    options = RpcOptions(secret=SECRET, init_method=method, init_timeout=10)
    store = MemoryStore() if kind == "memory" else None
    names = ["a", "b", "a"]
    starts = [
        RpcAgent.start(name, rank=rank, world_size=3, options=options, store=store, environ={})
        for rank, name in enumerate(names)
    ]
    errors = await asyncio.gather(*starts, return_exceptions=True)

    assert [rpc.DuplicateNameError] * 3 == [type(error) for error in errors]
    assert all("is not unique" in str(error) for error in errors)


@pytest.mark.parametrize("kind", ["memory", "tcp"])
async def test_one_rank_twice(kind: str, free_tcp_port: int) -> None:
    """Two workers of one rank are refused on all workers, at once."""
    method = f"tcp://127.0.0.1:{free_tcp_port}"
    options = RpcOptions(secret=SECRET, init_method=method, init_timeout=10)
    store = MemoryStore() if kind == "memory" else None
    starts = [
        RpcAgent.start(name, rank=rank, world_size=3, options=options, store=store, environ={})
        for name, rank in (("a", 0), ("b", 1), ("c", 1))
    ]
    begin = time.monotonic()
    errors = await asyncio.gather(*starts, return_exceptions=True)

    assert [rpc.DuplicateNameError] * 3 == [type(error) for error in errors]
    assert all("RPC worker id 1 is not unique" in str(error) for error in errors)
    assert time.monotonic() - begin < 5


@pytest.mark.slow
async def test_wrong_secret(free_tcp_port: int) -> None:
    """A worker with another secret, or of another run, learns it at once; the others go on."""
    method = f"tcp://127.0.0.1:{free_tcp_port}"
    options = RpcOptions(secret=SECRET, init_method=method, init_timeout=10)
    wrong = [
        RpcOptions(secret=b"another secret of tests", init_method=method, init_timeout=10),
        RpcOptions(secret=SECRET, run_id="other", init_method=method, init_timeout=10),
    ]
    first = asyncio.create_task(RpcAgent.start(rank=0, world_size=2, options=options, environ={}))
    for bad in wrong:
        begin = time.monotonic()
        with pytest.raises(rpc.AuthenticationError):
            await RpcAgent.start(rank=1, world_size=2, options=bad, environ={})
        assert time.monotonic() - begin < 2
    second = await RpcAgent.start(rank=1, world_size=2, options=options, environ={})
    result = await second.rpc_async("worker0", targets.add, args=(1,))
    await end([await first, second])

    assert 11 == result


async def test_secrets_of_links_differ() -> None:
    """Workers that only their links tell apart: the call fails with AuthenticationError."""
    store = MemoryStore()
    starts = [
        RpcAgent.start(
            rank=rank,
            world_size=2,
            options=RpcOptions(secret=SECRET + bytes([rank])),
            store=store,
            environ={},
        )
        for rank in range(2)
    ]
    a, b = await asyncio.gather(*starts)
    with pytest.raises(rpc.AuthenticationError) as caught:
        await a.rpc_async("worker1", targets.who)
    assert 11 == await a.rpc_async("worker0", targets.add, args=(1,))
    await asyncio.gather(a.shutdown(graceful=False), b.shutdown(graceful=False))

    assert rpc.Delivery.NOT_SENT is caught.value.delivery


@pytest.mark.parametrize(("mode", "content"), [(0o644, SECRET), (0o620, SECRET), (0o600, b"short")])
async def test_bad_secret_file(tmp_path: Path, mode: int, content: bytes) -> None:
    """A secret file that others can read or its group can write, or too short, is refused."""
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    for options, environ in (
        (RpcOptions(secret=path), {}),
        (RpcOptions(), {"ASYNCRPC_SECRET_FILE": str(path)}),
    ):
        with pytest.raises(ValueError, match="secret"):
            await RpcAgent.start(
                rank=0, world_size=1, options=options, store=MemoryStore(), environ=environ
            )


async def test_without_authentication() -> None:
    """secret=b"" works on loopback, for exposed functions only."""
    options = RpcOptions(secret=b"", expose=[targets.add])
    agents = await group_of(2, options, store=MemoryStore(), environ={})
    result = await agents[0].rpc_async("worker1", targets.add, args=(1,))
    with pytest.raises(rpc.PermissionDeniedError):
        await agents[0].rpc_async("worker1", eval, args=("1",))
    await end(agents)

    assert 11 == result


async def test_alone() -> None:
    """A group of one calls itself in every way."""
    async with alone() as agent:
        results = [
            await rpc.rpc_async("solo", targets.add, args=(1,)),
            await rpc.rpc_async(0, targets.echo, args=(b"x" * 500_000,)),
            await asyncio.to_thread(agent.rpc_sync, agent.info, targets.add, (2,)),
            await rpc.all_gather("x"),
        ]
        rpc.rpc_notify("solo", targets.note, args=("noted",))
        await rpc.barrier()

    assert [11, b"x" * 500_000, 12, {"solo": "x"}] == results
    assert "noted" in targets.log


# --- options


async def test_options_are_values() -> None:
    """Options are frozen, equal by value, and their combinations are checked."""
    with pytest.raises(AttributeError):
        OPTIONS.rpc_timeout = 5  # type: ignore[misc]
    with pytest.raises(ValueError, match="allow_pickle"):
        RpcOptions(expose=[targets.add], allow_pickle=True)
    with pytest.raises(ValueError, match="loopback or unix"):
        RpcOptions(secret=b"", expose=[targets.add], listen="tcp://192.0.2.1:0")

    assert RpcOptions(secret=SECRET, init_timeout=10) == OPTIONS


@pytest.mark.parametrize(
    "timeout", [10**400, float("inf"), 0, None, 1e300], ids=["int", "inf", "0", "None", "float"]
)
async def test_no_limit(timeout: Any) -> None:
    """However large a timeout is, it is no error."""
    async with alone():
        result = await rpc.rpc_async("solo", targets.add, args=(1,), timeout=timeout)

    assert 11 == result


# --- an agent as what its functions are called on


FUNCTIONS = (
    "all_gather",
    "barrier",
    "caller",
    "context",
    "current_context",
    "debug_info",
    "detached",
    "enable_profiling",
    "get_rpc_timeout",
    "get_worker_info",
    "get_worker_infos",
    "heal",
    "metrics",
    "monitor",
    "partition",
    "remaining",
    "remote",
    "rpc_any",
    "rpc_async",
    "rpc_hedged",
    "rpc_notify",
    "rpc_stream",
    "rpc_sync",
    "rref_debug",
    "set_rpc_timeout",
    "shutdown",
    "wait_all",
)


async def ask_the_agent() -> tuple[float | None, float | None, rpc.WorkerInfo]:
    """Say what an agent knows of the call being served, the second time without its deadline."""
    agent = rpc.current_agent()
    with agent.detached():
        free = agent.remaining()
    return agent.remaining(), free, agent.caller()


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_functions_are_methods(name: str) -> None:
    """What the module does for the process's agent, each agent does, with the same parameters."""
    async with cluster(1) as (agent,):
        method = inspect.signature(getattr(agent, name))

    assert list(inspect.signature(getattr(rpc, name)).parameters) == list(method.parameters)


async def test_what_is_served_through_an_agent() -> None:
    """A function that is handed an agent asks it about the call that is being served."""
    async with cluster(2) as workers:
        left, free, caller = await workers[0].rpc_async("worker1", ask_the_agent, timeout=60)

    assert left is not None
    assert 0 < left <= 60
    assert (None, workers[0].info) == (free, caller)


# --- introspection


async def test_debug_info() -> None:
    """debug_info has the reference's keys, and counts calls, links, bytes and round trips."""
    async with cluster(2) as (a, b):
        calls = [a.rpc_async("worker1", targets.sleep, args=(1000,)) for _ in range(2)]
        calls.append(a.rpc_async("worker1", targets.block, args=(0.05,)))
        await until(lambda: b.debug_info()["agent.server_active_async_calls"] == "2")
        near, far = a.debug_info(), b.debug_info()
        for call in calls[:2]:
            call.cancel()
        await calls[2]

    keys = {
        "num_owner_rrefs", "num_pending_futures", "num_pending_users", "num_forks",
        "agent.thread_pool_size", "agent.num_idle_threads", "agent.client_active_calls",
        "agent.server_active_calls", "agent.server_active_async_calls",
    }  # fmt: skip
    assert keys <= set(near)
    assert all(isinstance(value, str) for value in near.values())
    assert ("3", "3") == (near["num_pending_futures"], near["agent.client_active_calls"])
    assert ("3", "2") == (far["agent.server_active_calls"], far["agent.server_active_async_calls"])
    assert ("16", "15") == (far["agent.thread_pool_size"], far["agent.num_idle_threads"])
    assert float(near["peer.worker1.rtt"]) >= 0
    assert int(far["agent.bytes_received"]) > 0
    assert int(near["agent.bytes_sent"]) > int(far["agent.bytes_received"])  # and its handshake
