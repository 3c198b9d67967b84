"""`RpcAgent`: what `init_rpc` gives, the parts put together.

The end of a worker is here: drain, links, threads, store. Its start is `agent.starting`; calls go
straight to the agent underneath. Several agents can live in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from asyncrpc.agent import (
    Blocked,
    Collectives,
    Drain,
    PeerState,
    RpcFuture,
    Started,
    Starter,
    WaitAll,
)
from asyncrpc.discovery import record_key
from asyncrpc.errors import RpcError, ShutdownTimeoutError, StatusCode
from asyncrpc.identity import WorkerInfo
from asyncrpc.observe import Clock, LoopClock
from asyncrpc.options import UNSET, RpcOptions, Unset, check_timeout
from asyncrpc.store import Store, StoreError
from asyncrpc.transport import Network

__all__ = ("RpcAgent",)

_WITHDRAW = 1.0  # seconds for the last word to the store
_LINGER = 1.0  # seconds a served store waits for workers that are about to close theirs
_PATIENCE = 5.0  # seconds for functions in threads that nobody waits for any more


class RpcAgent:
    """One worker of a group; made by `start` or `init_rpc`, never directly."""

    def __init__(self, started: Started) -> None:
        agent = self._agent = started.agent
        self._started = started
        self._drain = Drain(agent, self._forget_group)
        self._collectives = Collectives(agent)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._ending: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._is_hurried = False
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
        starter = Starter(
            options if options is not None else RpcOptions(),
            os.environ if environ is None else environ,
            network,
            clock if clock is not None else LoopClock(),
        )
        made: list[Self] = []  # one for each store that was tried; the last one is in use

        def make(started: Started) -> object:
            made.append(cls(started))
            return made[-1]

        await starter.start(make, name, rank, world_size, store)
        return made[-1]

    async def shutdown(self, graceful: bool = True, timeout: float | None = None) -> None:
        """Leave the group; see `asyncrpc.shutdown`.

        Cancelling it, or calling it again with ``graceful=False``, ends the wait for the others;
        everything is closed all the same.
        """
        seconds = check_timeout("timeout", timeout)
        is_first = self._ending is None
        if self._ending is None:
            self._ending = asyncio.create_task(
                self._shut_down(graceful, seconds), name=f"asyncrpc {self.info.name}: shutdown"
            )
        elif not graceful:
            self._stop_draining()
        try:
            await asyncio.wait([self._ending])
        except asyncio.CancelledError:
            self._stop_draining()
            await asyncio.wait([self._ending])
            if not self._ending.cancelled():
                self._ending.exception()  # seen
            raise
        if is_first:
            self._ending.result()

    def _stop_draining(self) -> None:
        self._is_hurried = True
        if self._draining is not None:
            self._draining.cancel()

    async def _shut_down(self, graceful: bool, timeout: float) -> None:
        """Drain, then close everything, whatever happens to the first."""
        if not graceful:
            await self._withdraw_record()
            await self._close("lost", "it shut down without waiting", 0.0)
            return
        now = self._agent.clock.time
        give_up = now() + timeout if timeout else None
        try:
            await self._drained(timeout)
        except ShutdownTimeoutError:
            await self._close("lost", "its graceful shutdown timed out", 0.0)
            raise
        except BaseException:
            await self._close("lost", "its shutdown was interrupted", 0.0)
            raise
        left = _PATIENCE if give_up is None else max(0.0, give_up - now())
        await self._close("left", "it shut down", min(left, _PATIENCE))

    async def _drained(self, timeout: float) -> None:
        """Wait for the end of the group, unless `_stop_draining` ends the wait."""
        self._draining = asyncio.create_task(
            self._drain.run(timeout), name=f"asyncrpc {self.info.name}: drain"
        )
        try:
            if self._is_hurried:  # before the first step of this task
                self._draining.cancel()
            await asyncio.wait([self._draining])
            if self._draining.cancelled():
                raise RpcError("the graceful shutdown was cut short", code=StatusCode.CANCELLED)
            self._draining.result()
        finally:
            self._draining.cancel()
            self._draining = None

    async def _forget_group(self) -> None:
        """Empty the group's part of the store before anybody leaves, for the next group."""
        await self._delete([peer.info.id for peer in self._agent.members.all()])
        await self._started.link.retire()

    async def _withdraw_record(self) -> None:
        """Take this worker out of the store."""
        await self._delete([self.info.id])

    async def _delete(self, ids: Sequence[int]) -> None:
        group = self._started.group
        with contextlib.suppress(StoreError, TimeoutError):  # the store may be gone already
            async with asyncio.timeout(_WITHDRAW):
                await asyncio.gather(*[group.delete_key(record_key(ident)) for ident in ids])

    async def _close(self, goodbye: str, reason: str, patience: float) -> None:
        running = []
        self._started.note_end()
        try:
            await self._agent.close(goodbye, reason)
            running = await self._agent.executor.threads.close(patience)
        finally:
            if self._started.liveness is not None:
                self._started.liveness.close()
            await self._started.link.close(min(patience, _LINGER))
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
        return self.call(to, func, args, kwargs, timeout, idempotent, sys._getframe(1))

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
        return Blocked(self._loop).run(lambda: self.rpc_async(to, func, args, kwargs, timeout))

    def rpc_notify(
        self,
        to: str | int | WorkerInfo,
        func: Callable[..., Any] | str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
    ) -> None:
        """Call a function without waiting for anything; see `asyncrpc.rpc_notify`."""
        self._agent.caller.notify(to, func, args, kwargs)

    def wait_all(self) -> WaitAll:
        """Return a scope that waits for the calls started inside; see `asyncrpc.wait_all`."""
        return WaitAll()

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

    # -- faults

    def partition(self, peers: Iterable[str | int | WorkerInfo]) -> None:
        """Lose all that goes to and comes from these workers until `heal`, as a network would.

        Nobody is told: calls run out of time, and heartbeats find the workers lost.

        Args:
            peers: other workers of the group.

        Raises:
            ValueError: one of them is this worker itself, or no destination.
            UnknownWorkerError: the group has no such worker.
        """
        names = [peers] if isinstance(peers, (str, int, WorkerInfo)) else peers
        found = [self._agent.members.route(name) for name in names]
        if any(peer.info == self.info for peer in found):
            raise ValueError(f"peers must be other workers, got {self.info.name} itself")
        self._agent.partition(found)

    def heal(self) -> None:
        """End all partitions of this worker; what was lost stays lost."""
        self._agent.heal()

    # -- what is known

    @property
    def info(self) -> WorkerInfo:
        """This worker's name and id."""
        return self._agent.info

    @property
    def options(self) -> RpcOptions:
        """The settings it was started with."""
        return self._agent.options

    @property
    def is_orphaned(self) -> bool:
        """Whether its loop was closed without a shutdown, so that nothing of it works any more."""
        return self._loop.is_closed()

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
            "num_owner_rrefs": 0,
            "num_pending_users": 0,
            "num_forks": 0,
            "agent.thread_pool_size": agent.options.num_worker_threads,
            "agent.num_idle_threads": agent.options.num_worker_threads
            - threads.size
            + threads.idle,
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
