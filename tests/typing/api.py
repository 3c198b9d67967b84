"""The public types, pinned: mypy reads this file, nothing runs it.

A change here is a change that users' type checkers see.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any, Literal, assert_type

import asyncrpc as rpc
import launcher
from asyncrpc.pytest_plugin import KvStore, RpcCluster
from asyncrpc.store import (
    EtcdCredentials,
    EtcdStore,
    MemoryStore,
    PrefixStore,
    Store,
    StoreEvent,
    TCPStore,
    TCPStoreServer,
)
from asyncrpc.testing import ChaosProxy, VirtualClock, cluster, leak_check, time_limit
from launcher import events
from launcher.logs import DefaultLogsSpecs, Std
from launcher.metrics import ConsoleMetricHandler, configure, prof, put_metric
from launcher.preemption import on_preempt, preempted
from launcher.process import ProcessContext, RunProcsResult, record, start_processes
from launcher.timer import expires


def greet(name: str) -> str:
    """Return a greeting."""
    return f"hello {name}"


async def life_cycle() -> None:
    """Starting and ending, in all its forms."""
    async with rpc.init_rpc() as agent:
        assert_type(agent, rpc.RpcAgent)
    agent = await rpc.init_rpc("worker0", rank=0, world_size=2, options=rpc.RpcOptions())
    assert_type(agent, rpc.RpcAgent)
    assert_type(rpc.BackendType.ASYNCIO, rpc.BackendType)
    rpc.init_rpc("worker0", rpc.BackendType.FAULTY_ASYNCIO)
    assert_type(agent.info, rpc.WorkerInfo)
    assert_type(agent.info.name, str)
    assert_type(agent.info.id, int)
    assert_type(rpc.current_agent(), rpc.RpcAgent)
    assert_type(await rpc.RpcAgent.start("other", rank=1, world_size=2), rpc.RpcAgent)
    assert_type(await rpc.shutdown(graceful=False, timeout=1.0), None)


async def calls(worker: rpc.WorkerInfo) -> None:
    """Every way to call, and every way to name the destination."""
    call = rpc.rpc_async("worker1", greet, args=("you",), kwargs={}, timeout=None, idempotent=True)
    assert_type(call, rpc.RpcFuture[Any])
    policy = rpc.RetryPolicy(
        3, initial=0.1, max_delay=5, jitter="full", retry_on=(OSError,), seed=1
    )
    assert_type(policy.delay(0), float)
    assert_type(rpc.rpc_async("worker1", greet, ("you",), retry=policy), rpc.RpcFuture[Any])
    assert_type(rpc.RpcOptions(retry=policy, retry_budget=10), rpc.RpcOptions)
    agent = rpc.current_agent()
    message = agent.make_message("PYTHON_CALL", (greet, ("you",)))
    assert_type(agent.send_with_retries(worker, message, policy), rpc.RpcFuture[Any])
    future: asyncio.Future[Any] = call
    assert_type(await future, Any)
    assert_type(rpc.rpc_async(1, "module:name"), rpc.RpcFuture[Any])
    assert_type(rpc.rpc_async(worker, print, timeout=0), rpc.RpcFuture[Any])
    assert_type(await asyncio.to_thread(rpc.rpc_sync, worker, greet, ("you",)), Any)
    rpc.rpc_notify(worker, greet, args=["you"])
    hedged = rpc.rpc_hedged(["worker1", worker, 2], greet, ("you",), timeout=5, delay=0.1)
    assert_type(hedged, rpc.RpcFuture[Any])
    any_of = rpc.rpc_any(["worker1", worker], greet, ("you",), idempotent=True, random=Random(7))
    assert_type(any_of, rpc.RpcFuture[Any])
    async with rpc.wait_all():
        rpc.rpc_async(worker, greet, ("you",))
    assert_type(await rpc.all_gather(1, ["worker0", "worker1"], timeout=5), dict[str, Any])
    await rpc.barrier()


def without_a_loop() -> None:
    """The agent of a plain program."""
    with rpc.blocking_portal("worker0", rank=0, world_size=2, options=rpc.RpcOptions()) as agent:
        assert_type(agent, rpc.BlockingAgent)
        assert_type(agent.info, rpc.WorkerInfo)
        assert_type(agent.agent, rpc.RpcAgent)
        assert_type(agent.rpc_sync("worker1", greet, args=("you",), timeout=5), Any)
        assert_type(agent.rpc_async(1, greet, ("you",)), concurrent.futures.Future[Any])
        assert_type(agent.call(greet, "you"), str)
        assert_type(agent.call(rpc.barrier), None)
        assert_type(agent.call(rpc.get_worker_infos), list[rpc.WorkerInfo])
        assert_type(agent.shutdown(graceful=False, timeout=1.0), None)


async def references(worker: rpc.WorkerInfo) -> None:
    """A reference, what it says, and its three kinds of proxies."""
    rref = rpc.remote(worker, greet, args=("you",), timeout=None)
    assert_type(rref, rpc.RRef)
    assert_type(rpc.RRef([1]), rpc.RRef)
    assert_type(rpc.current_agent().remote(1, "module:name"), rpc.RRef)
    assert_type(rpc.current_agent().rref(1), rpc.RRef)
    assert_type((rref.is_owner(), rref.confirmed_by_owner()), tuple[bool, bool])
    assert_type((rref.owner(), rref.owner_name()), tuple[rpc.WorkerInfo, str])
    assert_type(await rref, Any)
    assert_type(await rref.to_here(timeout=5), Any)
    assert_type(rref.local_value(), Any)
    assert_type(await rref.rpc_async(timeout=5).upper(), Any)
    rref.rpc_sync().upper()
    rref.remote().upper()
    async with rref:
        await rref.release()
    row = rpc.rref_debug()[0]
    assert_type(row, rpc.RRefRow)
    assert_type((row.id, row.type, row.size), tuple[str, str, int])
    assert_type((row.holders, row.age), tuple[tuple[str, ...], float])


def around_a_call(agent: rpc.RpcAgent) -> None:
    """What a served function can ask."""
    assert_type(rpc.remaining(), float | None)
    assert_type(agent.remaining(), float | None)
    assert_type(rpc.caller(), rpc.WorkerInfo)
    assert_type(agent.caller(), rpc.WorkerInfo)
    assert_type(rpc.current_traceparent(), str | None)
    with rpc.detached(), rpc.traceparent("00-" + "a" * 32 + "-" + "b" * 16 + "-01"):
        assert_type(rpc.get_rpc_timeout(), float)
    assert_type(rpc.get_worker_info("worker1"), rpc.WorkerInfo)
    assert_type(rpc.get_worker_infos(), list[rpc.WorkerInfo])
    assert_type(rpc.debug_info(), dict[str, str])
    rpc.enable_profiling(False)
    assert_type(rpc.partition(["worker1", 2]), None)
    assert_type(rpc.heal(), None)
    assert_type(rpc.metrics(), rpc.Metrics)
    assert_type(rpc.metrics().peers, tuple[rpc.PeerMetrics, ...])
    assert_type(rpc.metrics().calls_failed, Mapping[rpc.StatusCode, int])
    rpc.prometheus.Collector(rpc.current_agent())


async def membership() -> None:
    """Who comes and goes."""
    async with rpc.init_rpc("alice") as agent, agent.monitor("bob") as bob:
        assert_type(await anext(bob), rpc.MemberEvent)
    async for event in rpc.monitor():
        assert_type(event.worker, rpc.WorkerInfo)
        assert_type(event.kind, Literal["joined", "left", "lost"])
        assert_type(event.reason, str)


def decorators() -> None:
    """A decorated function keeps its type."""
    assert_type(rpc.inline(greet)("you"), str)
    assert_type(rpc.functions.async_execution(greet)("you"), str)


def errors(error: rpc.RpcError, timeout: rpc.RpcTimeoutError, remote: rpc.RemoteError) -> None:
    """What an error says."""
    assert_type(error.code, rpc.StatusCode)
    assert_type(error.delivery, rpc.Delivery)
    assert_type(timeout.phase, str)
    assert_type(remote.type_name, str)
    wide: tuple[type[Exception], ...] = (rpc.PeerLostError, rpc.UnknownWorkerError)
    builtin: tuple[TimeoutError, RuntimeError] = (timeout, error)
    assert wide
    assert builtin


class Watcher(rpc.Interceptor):
    """What an interceptor overrides, and what it sees."""

    async def outgoing(
        self, call: rpc.OutgoingCall, proceed: Callable[[rpc.OutgoingCall], Awaitable[Any]]
    ) -> Any:
        """Go on."""
        assert_type(call.to, rpc.WorkerInfo)
        assert_type(call.metadata, dict[str, str])
        assert_type(call.timeout, float)
        return await proceed(call)

    async def incoming(
        self, call: rpc.IncomingCall, proceed: Callable[[rpc.IncomingCall], Awaitable[Any]]
    ) -> Any:
        """Go on."""
        assert_type(call.caller, rpc.WorkerInfo)
        assert_type(call.remaining, float | None)
        return await proceed(call)


def options() -> rpc.RpcOptions:
    """The options of this version."""
    return rpc.RpcOptions(
        rpc_timeout=1.0,
        num_worker_threads=2,
        init_method="tcp://127.0.0.1:0",
        listen="unix:///tmp/socket",
        secret=Path("/secret"),
        expose=[greet],
        limits=rpc.Limits(max_inflight=8, on_full="error"),
        interceptors=[Watcher()],
    )


async def contexts() -> None:
    """A context gives its state."""
    async with rpc.context() as context:
        assert_type(context, rpc.CallContext)
    assert_type(rpc.current_context(), rpc.CallContext | None)


async def streams() -> None:
    """A stream is an iterator and a context manager."""
    async with rpc.rpc_stream("worker1", greet, window=3) as stream:
        assert_type(stream, rpc.RpcStream[Any])


def types() -> None:
    """A class that travels by what its own functions make of it."""
    assert_type(rpc.register_type(Path, "path", str, Path), None)


async def stores() -> None:
    """Every store is a `Store`."""
    async with TCPStoreServer() as server:
        assert_type(server.port, int)
        async with await TCPStore.connect(server.host, server.port, timeout=5) as store:
            all_stores: list[Store] = [store, MemoryStore(), PrefixStore("a/", store)]
    credentials = EtcdCredentials(user="u", password="p", cacert="ca.pem")
    async with await EtcdStore.connect("etcd://a:1,b:2/p", 5.0, credentials) as lasting:
        all_stores.append(lasting)
    one = all_stores[0]
    assert_type(await one.get("key", timeout=1), bytes)
    assert_type(await one.add("key", 1), int)
    assert_type(await one.check(["key"]), bool)
    assert_type(await one.compare_set("key", b"old", "new"), bytes)
    assert_type(await one.snapshot("a/"), tuple[dict[str, bytes], int])
    async for event in one.watch("a/"):
        assert_type(event, StoreEvent)
    async with one.lease(5.0) as lease:
        await one.set("key", b"value", lease=lease)


async def tests(
    rpc_cluster: RpcCluster,
    fault_plan: type[rpc.FaultPlan],
    kv_store: KvStore,
    virtual_clock: VirtualClock,
    chaos_proxy: type[ChaosProxy],
    rpc_leak_check: type[leak_check],
) -> None:
    """What a test function says of the plugin's fixtures."""
    plan = fault_plan([rpc.Fault("drop")], seed=1)
    async with rpc_cluster(2, faults=plan, clock=virtual_clock) as workers:
        assert_type(workers, list[rpc.RpcAgent])
    async with kv_store(clock=virtual_clock) as store, rpc_leak_check():
        assert_type(store, MemoryStore)
    async with chaos_proxy("127.0.0.1", 1) as proxy, time_limit(5):
        assert_type(proxy, ChaosProxy)
    async with cluster(2) as workers:
        assert_type(virtual_clock.now(), float)
        assert_type(await virtual_clock.advance(1), None)


assert_type(rpc.run(life_cycle()), None)


async def launching(config: launcher.LaunchConfig) -> None:
    """A launch, in all its forms; workers' values are the user's."""
    launch = launcher.elastic_launch(config, greet)
    assert_type(launch("you"), dict[int, object])
    assert_type(await launch.launch("you"), dict[int, object])
    result = await launch.run("you")
    assert_type(result, launcher.LaunchResult)
    assert_type(result.values, Mapping[int, object])
    assert_type(result.exit_codes, Mapping[int, int])
    assert_type(await launcher.launch_agent(config, "true", ["x"]), dict[int, object])
    assert_type(launcher.get_entrypoint_name(greet, []), str)


async def processes(specs: DefaultLogsSpecs) -> None:
    """A group of workers."""
    args, envs = {0: ("you",)}, {0: {"A": "b"}}
    context = await start_processes("role", greet, args, envs, specs, start_method="fork")
    assert_type(context, ProcessContext)
    assert_type(context.pids(), dict[int, int])
    assert_type(await context.wait(timeout=0.1, period=0.01), RunProcsResult | None)
    assert_type(await context.close(timeout=1), None)
    assert_type(record(greet)("you"), str)
    assert_type(Std.from_str("0:1"), Std | dict[int, Std])


def save(_seconds_left: float) -> str:
    """Prepare to go."""
    return "saved"


def watching() -> None:
    """What a worker tells its launcher, and what a program tells of itself."""
    assert_type(expires(60, scope="step"), AbstractContextManager[None])
    assert_type(preempted(), float | None)
    assert_type(on_preempt(save)(1.0), str)
    assert_type(prof(greet)("you"), str)
    assert_type(prof(group="mine")(greet)("you"), str)
    assert_type(put_metric("loss", 0.5), None)
    assert_type(configure(ConsoleMetricHandler(), "mine"), None)
    assert_type(events.Event("name", events.EventSource.WORKER).serialize(), str)
