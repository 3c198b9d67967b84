"""`RpcAgent`: what `init_rpc` gives, the parts put together.

Start-up and the end of a worker are here: secret, store, listener, discovery; drain, links, threads,
store. Calls go straight to the agent underneath. Several agents can live in one process.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import concurrent.futures
import contextvars
import hashlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from asyncrpc.agent import Agent, Collectives, Drain, LivenessThread, PeerState, RpcFuture
from asyncrpc.discovery import (
    Record,
    StoreLink,
    join_static,
    open_store,
    record_key,
    route_to,
    scoped,
)
from asyncrpc.errors import RpcError, ShutdownTimeoutError, StatusCode
from asyncrpc.execution import Executor, ThreadPool
from asyncrpc.identity import WorkerInfo, new_incarnation
from asyncrpc.observe import Clock, LoopClock
from asyncrpc.options import UNSET, RpcOptions, Unset, check_timeout
from asyncrpc.secret import load_secret, run_key
from asyncrpc.store import Store, StoreError
from asyncrpc.transport import Address, Network, SocketNetwork
from asyncrpc.wire import Codec, Handshake, Hello, Purpose

__all__ = ("RpcAgent",)

_WITHDRAW = 1.0  # seconds for the last word to the store
_LINGER = 5.0  # seconds a served store outlives the worker that serves it


_starts: weakref.WeakKeyDictionary[object, collections.Counter[str]] = weakref.WeakKeyDictionary()
"""How often each name was started, by the store it was given, or by `_Starter` for the launcher's:
in a store that outlives groups, the n-th start of a worker meets the n-th of the others."""


class RpcAgent:
    """One worker of a group; made by `start` or `init_rpc`, never directly."""

    def __init__(
        self, agent: Agent, store: StoreLink, group: Store, liveness: LivenessThread | None
    ) -> None:
        self._agent = agent
        self._store = store
        self._group = group
        self._liveness = liveness
        self._drain = Drain(agent)
        self._collectives = Collectives(agent)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._ending: asyncio.Task[None] | None = None
        self.call = agent.caller.call
        """`rpc_async` with all arguments given; for the module-level function."""

    # -- life

    @classmethod
    async def start(
        cls,
        name: str | None = None,
        backend: None = None,
        rank: int | None = None,
        world_size: int | None = None,
        options: RpcOptions | None = None,
        *,
        store: Store | None = None,
        network: Network | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """Start a worker and find the others, without touching `asyncrpc.current_agent`.

        Args:
            name: the worker's name; ``None`` takes ``$ASYNCRPC_NAME``, else ``worker{rank}``.
            backend: for compatibility; ``None``.
            rank: the worker's id, 0 to ``world_size - 1``; ``None`` takes ``$RANK``.
            world_size: number of workers; ``None`` takes ``$WORLD_SIZE``.
            options: settings; ``None`` takes the defaults.
            store: where workers find each other; ``None`` takes ``options.init_method``.
            network: opens links; ``None`` takes sockets.
            clock: the time; ``None`` takes the loop's.
            environ: environment variables; ``None`` takes the process's.

        Returns:
            The agent, once all ``world_size`` workers know each other.

        Raises:
            ValueError: an argument or variable breaks its rule; the message names it.
            DuplicateNameError: two workers have one name or rank.
            RpcTimeoutError: not all workers came within ``options.init_timeout``.
            StoreConnectionError: the store was not reached within ``options.init_timeout``.
            AuthenticationError: the store has another secret or run id.
        """
        if backend is not None:
            raise TypeError(f"Argument backend must be a member of BackendType, got {backend!r}")
        starter = _Starter(
            options if options is not None else RpcOptions(),
            os.environ if environ is None else environ,
            network,
            clock if clock is not None else LoopClock(),
        )
        agent = await starter.start(cls, name, rank, world_size, store)
        assert isinstance(agent, cls)
        return agent

    async def shutdown(self, graceful: bool = True, timeout: float | None = None) -> None:
        """Leave the group; see `asyncrpc.shutdown`."""
        seconds = check_timeout("timeout", timeout)
        if self._ending is None:
            self._ending = asyncio.create_task(
                self._shut_down(graceful, seconds), name=f"asyncrpc {self.info.name}: shutdown"
            )
            await asyncio.shield(self._ending)
        else:
            await asyncio.wait([self._ending])

    async def _shut_down(self, graceful: bool, timeout: float) -> None:
        """Drain, then close everything, whatever happens to the first."""
        now = self._agent.clock.time
        give_up = now() + timeout if timeout else None
        try:
            if graceful:
                # First: some workers may not have read the records yet, and would wait for ours.
                await self._drain.run(timeout)
            await self._withdraw_record()
        except ShutdownTimeoutError:
            await self._close("lost", "its graceful shutdown timed out", 0.0)
            raise
        except BaseException:
            await self._close("lost", "its shutdown was interrupted", 0.0)
            raise
        if graceful:
            left = _LINGER if give_up is None else max(0.0, give_up - now())
            await self._close("left", "it shut down", min(left, _LINGER))
        else:
            await self._close("lost", "it shut down without waiting", 0.0)

    async def _withdraw_record(self) -> None:
        """Take this worker out of the store before the group ends, so that a new one may begin."""
        with contextlib.suppress(StoreError, TimeoutError):  # the store may be gone already
            async with asyncio.timeout(_WITHDRAW):
                await self._group.delete_key(record_key(self.info.id))

    async def _close(self, goodbye: str, reason: str, patience: float) -> None:
        running = []
        try:
            await self._agent.close(goodbye, reason)
            running = await self._agent.executor.threads.close(patience)
        finally:
            if self._liveness is not None:
                self._liveness.close()
            await self._store.close(patience)
        if running and goodbye == "left":
            names = ", ".join(f"{r.function} in {r.thread}" for r in running)
            raise ShutdownTimeoutError(
                f"functions still run in threads after shutdown: {names}", phase="threads"
            )

    # -- calls

    def rpc_async(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        timeout: float | None | Unset = UNSET,
        *,
        idempotent: bool = False,
    ) -> RpcFuture[Any]:
        """Call a function on another worker; see `asyncrpc.rpc_async`."""
        return self.call(to, func, args, kwargs, timeout, idempotent, sys._getframe(1))  # noqa: SLF001 -- says where an unseen failure came from

    def rpc_sync(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        timeout: float | None | Unset = UNSET,
    ) -> Any:
        """Call a function and block this thread until it answers; see `asyncrpc.rpc_sync`."""
        if threading.get_ident() == self._thread:
            raise RuntimeError(
                "rpc_sync would block the loop it waits for: await rpc_async instead, or call it "
                "from another thread"
            )
        blocked = _Blocked(self._loop)
        return blocked.run(lambda: self.rpc_async(to, func, args, kwargs, timeout))

    def rpc_notify(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Call a function without waiting for anything; see `asyncrpc.rpc_notify`."""
        self._agent.caller.notify(to, func, args, kwargs)

    async def all_gather(
        self,
        obj: object,
        worker_names: Iterable[str] | None = None,
        timeout: float | None | Unset = UNSET,
    ) -> dict[str, Any]:
        """Exchange one object per worker; see `asyncrpc.all_gather`."""
        seconds = self.get_rpc_timeout() if timeout is UNSET else check_timeout("timeout", timeout)
        return await self._collectives.all_gather(obj, worker_names, seconds)

    async def barrier(
        self,
        worker_names: Iterable[str] | None = None,
        timeout: float | None | Unset = UNSET,
    ) -> None:
        """Wait until all workers are here; see `asyncrpc.barrier`."""
        await self.all_gather(None, worker_names, timeout)

    # -- what is known

    @property
    def info(self) -> WorkerInfo:
        """This worker's name and id."""
        return self._agent.info

    @property
    def options(self) -> RpcOptions:
        """The settings it was started with."""
        return self._agent.options

    def get_worker_info(self, name: str | int | WorkerInfo | None = None) -> WorkerInfo:
        """Return who a worker is; see `asyncrpc.get_worker_info`."""
        return self.info if name is None else self._agent.members.route(name).info

    def get_worker_infos(self) -> list[WorkerInfo]:
        """Return the live members by id; see `asyncrpc.get_worker_infos`."""
        return [peer.info for peer in self._agent.members.present()]

    def get_rpc_timeout(self) -> float:
        """Return the default timeout in seconds, 0 for none."""
        return self._agent.caller.timeout

    def set_rpc_timeout(self, timeout: float | None) -> None:
        """Set the default timeout of later calls; see `asyncrpc.set_rpc_timeout`."""
        self._agent.caller.timeout = check_timeout("timeout", timeout)

    def debug_info(self) -> dict[str, str]:
        """Return counters by name; see `asyncrpc.debug_info`."""
        agent = self._agent
        threads = agent.executor.threads
        calls = [call for server in agent.servers for call in server.calls.values()]
        links = [c for c in agent.connections() if c.hello is not None]
        info: dict[str, object] = {
            "num_pending_futures": len(agent.pending),
            "agent.thread_pool_size": agent.options.num_worker_threads,
            "agent.num_idle_threads": agent.options.num_worker_threads - threads.size + threads.idle,
            "agent.client_active_calls": len(agent.caller.user_calls()),
            "agent.server_active_calls": len(calls),
            "agent.server_active_async_calls": sum(call.task is not None for call in calls),
            "agent.calls_served": agent.served,
            "agent.connections": len(links),
            "agent.bytes_received": sum(c.received for c in links),
            "agent.loop_lag": f"{agent.detector.lag:.6f}",
        }
        for link in links:
            info[f"peer.{link.peer}.rtt"] = f"{link.rtt:.6f}"
            info[f"peer.{link.peer}.inflight"] = link.peer.inflight
        gone = [p for p in agent.members.all() if p.state is not PeerState.PRESENT]
        info["agent.peers_gone"] = len(gone)
        return {name: str(value) for name, value in info.items()}

    def __repr__(self) -> str:
        return f"<RpcAgent {self.info.name} id {self.info.id}>"


class _Starter:
    """The start of one agent."""

    def __init__(
        self,
        options: RpcOptions,
        environ: Mapping[str, str],
        network: Network | None,
        clock: Clock,
    ) -> None:
        self._options = options
        self._environ = environ
        self._clock = clock
        self._is_real = network is None and isinstance(clock, LoopClock)
        self._network = SocketNetwork(options.tls) if network is None else network
        self._in_memory = network is not None
        run_id = options.run_id
        self._run_id = environ.get("TORCHELASTIC_RUN_ID", "") if run_id is None else run_id

    async def start(
        self,
        cls: type[RpcAgent],
        name: str | None,
        rank: int | None,
        world_size: int | None,
        store: Store | None,
    ) -> RpcAgent:
        rank = _variable(self._environ, "RANK", "rank", rank)
        world_size = _variable(self._environ, "WORLD_SIZE", "world_size", world_size)
        _check_place(rank, world_size)
        info = WorkerInfo(name or self._environ.get("ASYNCRPC_NAME") or f"worker{rank}", rank)
        secret = load_secret(self._options.secret, self._environ)
        count = self._count(store, info.name)
        link = await self._reach_store(store, rank, secret)
        group = scoped(link.store, self._run_id, self._environ, count)
        try:
            return await self._start(cls, info, world_size, secret, link, group)
        except BaseException:
            await link.close()
            raise

    def _count(self, store: Store | None, name: str) -> int:
        """Return which start of this name this is, where the store may remember earlier ones."""
        if store is None and not self._environ.get("LAUNCHER_STORE"):
            return 0  # served by a worker of the group, so it is as new as the group
        counter = _starts.setdefault(_Starter if store is None else store, collections.Counter())
        counter[name] += 1
        return counter[name]

    async def _reach_store(self, store: Store | None, rank: int, secret: bytes) -> StoreLink:
        if store is not None:
            return StoreLink(store, "")
        return await open_store(
            self._options.init_method,
            rank=rank,
            secret=secret,
            run_id=self._run_id,
            timeout=self._options.init_timeout,
            environ=self._environ,
        )

    async def _start(
        self,
        cls: type[RpcAgent],
        info: WorkerInfo,
        world_size: int,
        secret: bytes,
        link: StoreLink,
        group: Store,
    ) -> RpcAgent:
        key = run_key(secret, self._run_id)
        incarnation = new_incarnation()
        agent = self._make_agent(info, incarnation, key)
        liveness: LivenessThread | None = None
        try:
            address = await agent.listen(self._listen_address(info, incarnation, link))
            if self._is_real:
                host = address.host or "127.0.0.1"
                liveness = LivenessThread(host, self._liveness_handshake(agent, key))
            facade = agent.facade = cls(agent, link, group, liveness)
            record = Record(
                info, incarnation, (address,), agent.host, liveness.address if liveness else None
            )
            records = await join_static(group, record, world_size, self._options.init_timeout)
            agent.start(records)
        except BaseException:
            await agent.close("lost", "its start failed")
            await agent.executor.threads.close(0.0)
            if liveness is not None:
                liveness.close()
            raise
        return facade

    def _make_agent(self, info: WorkerInfo, incarnation: bytes, key: bytes) -> Agent:
        options = self._options
        allow_pickle = options.expose is None if options.allow_pickle is None else options.allow_pickle
        return Agent(
            info=info,
            incarnation=incarnation,
            host=_host_identity(),
            key=key,
            run_id=hashlib.sha256(self._run_id.encode()).digest(),
            options=options,
            network=self._network,
            clock=self._clock,
            codec=Codec(
                allow_pickle=allow_pickle,
                max_nesting=options.limits.max_nesting,
                max_object_bytes=options.limits.max_object_bytes,
            ),
            executor=Executor(ThreadPool(options.num_worker_threads, f"asyncrpc-{info.name}")),
            facade=None,
        )

    def _listen_address(self, info: WorkerInfo, incarnation: bytes, link: StoreLink) -> Address:
        if self._in_memory:
            return Address("memory", f"{info.name}-{incarnation.hex()}")
        scheme = "tls" if self._options.tls is not None else "tcp"
        if self._options.listen is not None:
            address = Address.parse(self._options.listen)
            if address.scheme == "unix" and Path(address.path).is_dir():
                return Address("unix", path=f"{address.path.rstrip('/')}/{info.name}.sock")
            if address.scheme == "tcp":
                return Address(scheme, address.host, address.port)
            return address
        where = Address.parse(link.where) if link.where else None
        if where is None or where.is_local or self._options.secret == b"":
            return Address(scheme, "127.0.0.1")
        return Address(scheme, route_to(where.host, where.port))

    def _liveness_handshake(self, agent: Agent, key: bytes) -> Callable[[], Handshake]:
        hello = Hello(
            purpose=Purpose.HEARTBEAT,
            run_id=hashlib.sha256(self._run_id.encode()).digest(),
            incarnation=agent.incarnation,
            host=agent.host,
            name=agent.info.name,
            worker_id=agent.info.id,
        )
        return lambda: Handshake(key=key, hello=hello, is_client=False)


class _Blocked:
    """A thread that waits for a call on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._call: RpcFuture[Any] | None = None

    def run(self, start: Callable[[], RpcFuture[Any]]) -> Any:
        """Start the call on the loop, in this thread's context, and wait for its outcome."""
        context = contextvars.copy_context()
        self._loop.call_soon_threadsafe(self._start, start, context=context)
        try:
            return self._done.result()
        except BaseException:
            if not self._done.done():  # this thread was interrupted, not the call
                self._loop.call_soon_threadsafe(self._stop)
            raise

    def _start(self, start: Callable[[], RpcFuture[Any]]) -> None:
        try:
            self._call = start()
        except BaseException as error:  # noqa: BLE001 -- raised in the waiting thread
            self._done.set_exception(error)
        else:
            self._call.add_done_callback(self._finish)

    def _finish(self, call: asyncio.Future[Any]) -> None:
        if call.cancelled():
            self._done.set_exception(
                RpcError("the call was cancelled: so was the one it served", code=StatusCode.CANCELLED)
            )
        elif (error := call.exception()) is not None:
            self._done.set_exception(error)
        else:
            self._done.set_result(call.result())

    def _stop(self) -> None:
        if self._call is not None:
            self._call.cancel()


def _variable(environ: Mapping[str, str], variable: str, field: str, value: int | None) -> int:
    """Return an int argument, or the variable that stands in for it."""
    if value is not None:
        if type(value) is not int:
            raise ValueError(f"{field} must be an int, got {value!r}")
        return value
    text = environ.get(variable)
    if text is None:
        raise ValueError(f"{field} missing: pass {field}=, or set ${variable} as a launcher does")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"${variable} must be an int, got {text!r}") from None


def _check_place(rank: int, world_size: int) -> None:
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, got {world_size}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to world_size - 1 = {world_size - 1}, got {rank}")


def _host_identity() -> bytes:
    """Return 16 bytes that are equal for processes which share memory: same boot, same /dev/shm."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        shm = os.stat("/dev/shm")  # noqa: S108 -- looked at, not written
        place = f"{shm.st_dev}:{shm.st_ino}".encode()
    except OSError:
        boot, place = b"", os.uname().nodename.encode() if hasattr(os, "uname") else b""
    return hashlib.sha256(boot + place).digest()[:16]
