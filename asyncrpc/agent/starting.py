"""The start of one worker: who it is, where the store is, who the others are.

Used by `runtime.RpcAgent.start`. Whatever fails, all that was opened is closed again.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path

from asyncrpc.agent.agent import Agent
from asyncrpc.agent.liveness import LivenessThread
from asyncrpc.agent.place import Place
from asyncrpc.agent.references import References
from asyncrpc.agent.roster import Roster
from asyncrpc.discovery import Record, StoreLink, StorePlace, free_id, route_to, scoped
from asyncrpc.errors import DuplicateNameError, StoreConnectionError
from asyncrpc.execution import Executor, ThreadPool
from asyncrpc.faults import FaultPlan, parse_plan
from asyncrpc.identity import MAX_WORKER_ID, WorkerInfo, new_incarnation
from asyncrpc.observe import Clock, LoopClock, LoopWatch
from asyncrpc.options import RpcOptions
from asyncrpc.secret import load_secret, run_key
from asyncrpc.store import Store
from asyncrpc.transport import Address, MemoryNetwork, Network, SocketNetwork
from asyncrpc.wire import Codec, Handshake, Hello, Purpose, user_types

__all__ = ("Started", "Starter")

_LATE = 0.5  # seconds in which a store of ours is still found by who comes late
_LINGER = 2.0  # seconds in which others may still learn from our store why the start failed
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 -- looked for, since nobody can connect to them

_ATTEMPTS = 32  # ids that are tried: each was free when it was looked for

_ends: collections.Counter[str] = collections.Counter()
"""How often a worker of each name and rank has ended, by launched run and round: in a store that
outlives groups, a worker of the n-th group meets the n-th of others."""


@dataclasses.dataclass(slots=True)
class Started:
    """A worker that may be put into use once it knows the others.

    Args:
        agent: listens already.
        link: the store, to be closed with the worker.
        roster: its place in the group's part of the store.
        liveness: answers while the loop is blocked, if there is such a thread.
        note_end: to be called once the worker has ended.
    """

    agent: Agent
    link: StoreLink
    roster: Roster
    liveness: LivenessThread | None
    note_end: Callable[[], None]


class Starter:
    """The start of one agent.

    Args:
        options: settings.
        environ: environment variables.
        network: opens links; ``None`` takes sockets.
        clock: the time; `LoopClock` is the real one.
        make_references: gives the remote references of a new agent.
    """

    def __init__(
        self,
        options: RpcOptions,
        environ: Mapping[str, str],
        network: Network | None,
        clock: Clock,
        make_references: Callable[[], References],
    ) -> None:
        self._options = options
        self._environ = environ
        self._clock = clock
        self._make_references = make_references
        self._network = SocketNetwork(options.tls, clock=clock) if network is None else network
        self._in_memory = isinstance(network, MemoryNetwork)
        run_id = options.run_id
        self._run_id = environ.get("TORCHELASTIC_RUN_ID", "") if run_id is None else run_id

    async def start(
        self,
        make_facade: Callable[[Started], object],
        name: str | None,
        rank: int | None,
        world_size: int | None,
        store: Store | None,
    ) -> None:
        """Join the group.

        A store that goes away meanwhile is looked for again until ``init_timeout`` is over: it may
        have been the one of the group before, whose server outlives it for a moment.

        Args:
            make_facade: gives what `current_agent` is to be, once there is an agent.
            name: as for `RpcAgent.start`, and so on.
            rank: likewise.
            world_size: likewise.
            store: likewise.
        """
        rank = _variable(self._environ, "RANK", "rank", rank)
        world_size = _variable(self._environ, "WORLD_SIZE", "world_size", world_size)
        _check_place(rank, world_size)
        if name is None:
            name = self._environ.get("ASYNCRPC_NAME") or None
        if name is not None:
            WorkerInfo(name, rank or 0)  # a bad name is refused before anything is opened
        secret = load_secret(self._options.secret, self._environ)
        count, note_end = self._past(store, name, rank, world_size)
        scope = partial(scoped, run_id=self._run_id, environ=self._environ, count=count)
        give_up = time.monotonic() + self._options.init_timeout
        while True:
            # in a dynamic group no rank is special: whoever can serves the store
            server = None if world_size is None else rank
            link = await self._reach_store(store, server, secret, give_up - time.monotonic())
            plan = _Plan(make_facade, name, rank, world_size or 0, secret, link, scope, note_end)
            try:
                await self._place(plan)
            except StoreConnectionError:
                await link.close()
                if store is not None or link.server is not None or time.monotonic() >= give_up:
                    raise
            except BaseException as error:
                is_failed = isinstance(error, Exception)
                try:
                    await link.stay_open(_LATE if is_failed else 0.0)
                finally:
                    await link.close(_LINGER if is_failed else 0.0)
                raise
            else:
                return

    async def _place(self, plan: _Plan) -> None:
        """Join with the rank that was given, or with the next one that is free."""
        if plan.rank is not None:
            await self._join(plan, plan.rank)
            return
        for attempt in itertools.count(1):
            rank = await free_id(plan.scope(plan.link.store))
            try:
                await self._join(plan, rank)
            except _Taken as taken:  # by a worker that was given this rank
                if attempt == _ATTEMPTS:
                    raise taken.error from None
            else:
                return

    def _past(
        self, store: Store | None, name: str | None, rank: int | None, world_size: int | None
    ) -> tuple[int, Callable[[], None]]:
        """Return how many groups of this worker's the store may remember, and how to count one.

        Only the launcher's store outlives a group whose workers may all end at once; its workers
        begin and end their groups in step. Elsewhere a worker takes the place of its last run.
        """
        launched = self._environ.get("LAUNCHER_STORE", "")
        if store is not None or not launched or world_size is None:
            return 0, lambda: None
        key = f"{launched} {self._run_id} {self._environ.get('LAUNCHER_ROUND', '')} {name} {rank}"
        return _ends[key], lambda: _ends.update([key])

    async def _reach_store(
        self, store: Store | None, rank: int | None, secret: bytes, timeout: float
    ) -> StoreLink:
        if store is not None:
            return StoreLink(store, "")
        place = StorePlace(
            init_method=self._options.init_method,
            rank=rank,
            secret=secret,
            run_id=self._run_id,
            environ=self._environ,
            clock=self._clock,
        )
        return await place.open(max(timeout, 0.1))

    async def _join(self, plan: _Plan, rank: int) -> None:
        """Listen, publish that, and take the group into use once everybody has."""
        info = WorkerInfo(plan.name or f"worker{rank}", rank)
        key = run_key(plan.secret, self._run_id)
        agent = self._make_agent(info, key)
        place = Place(agent, plan.link, plan.scope, plan.world_size)
        roster = Roster(agent, place, plan.world_size)
        started = Started(agent, plan.link, roster, None, plan.note_end)
        try:
            address = await agent.listen(self._listen_address(agent, plan.link))
            if not self._in_memory and isinstance(self._clock, LoopClock):
                host = address.host or "127.0.0.1"
                handshake = self._liveness_handshake(agent, key)
                started.liveness = LivenessThread(host, handshake, LoopWatch(info.name))
                place.keep_lease = started.liveness.keep
            agent.facade = plan.make_facade(started)
            record = self._record(started, address, plan.world_size)
            agent.start(await roster.join(record, self._options.init_timeout))
            roster.start()
        except BaseException as error:
            await agent.close("lost", "its start failed")
            await roster.close()
            await agent.executor.threads.close(0.0)
            if started.liveness is not None:
                started.liveness.close()
            if isinstance(error, DuplicateNameError) and plan.is_free(place.claimed):
                raise _Taken(error) from None
            raise

    def _make_agent(self, info: WorkerInfo, key: bytes) -> Agent:
        options = self._options
        references = self._make_references()
        allow_pickle = (
            options.expose is None if options.allow_pickle is None else options.allow_pickle
        )
        return Agent(
            info=info,
            incarnation=new_incarnation(),
            host=_host_identity(),
            key=key,
            run_id=sha256(self._run_id.encode()).digest(),
            options=options,
            network=self._network,
            clock=self._clock,
            codec=Codec(
                allow_pickle=allow_pickle,
                registry=user_types,
                max_nesting=options.limits.max_nesting,
                max_object_bytes=options.limits.max_object_bytes,
                hooks=(references.hook,),
                place=_placing(options.device_maps),
            ),
            executor=Executor(ThreadPool(options.num_worker_threads, f"asyncrpc-{info.name}")),
            facade=None,
            references=references,
            faults=self._fault_plans(),
        )

    def _fault_plans(self) -> list[FaultPlan]:
        """Return the plans of the options and, where it is allowed, of the environment."""
        plans = list(self._options.fault_plans())
        text = self._environ.get("ASYNCRPC_FAULTS", "")
        if self._options.allow_faults and text:
            plans.append(parse_plan(text))
        return plans

    # -- addresses

    def _listen_address(self, agent: Agent, link: StoreLink) -> Address:
        name = agent.info.name
        if self._in_memory:
            return Address("memory", f"{name}-{agent.incarnation.hex()}")
        scheme = "tls" if self._options.tls is not None else "tcp"
        if self._options.listen is not None:
            address = Address.parse(self._options.listen)
            if address.scheme == "unix" and Path(address.path).is_dir():
                return Address("unix", path=f"{address.path.rstrip('/')}/{name}.sock")
            if address.scheme == "tcp":
                return Address(scheme, address.host, address.port)
            return address
        return Address(scheme, self._reachable(link))

    def _reachable(self, link: StoreLink) -> str:
        """Return the host at which others that know the store can reach this worker."""
        where = link.address
        if where is None or where.is_local or self._options.secret == b"":
            return "127.0.0.1"
        return route_to(where.host, where.port)

    def _record(self, started: Started, address: Address, world_size: int) -> Record:
        agent, liveness = started.agent, started.liveness
        places = [address] if liveness is None else [address, liveness.address]
        if address.host in _WILDCARDS:
            host = self._reachable(started.link)
            places = [dataclasses.replace(place, host=host) for place in places]
        alive = None if liveness is None else places[1]
        return Record(agent.info, agent.incarnation, (places[0],), agent.host, alive, world_size)

    def _liveness_handshake(self, agent: Agent, key: bytes) -> Callable[[], Handshake]:
        hello = Hello(
            purpose=Purpose.HEARTBEAT,
            run_id=sha256(self._run_id.encode()).digest(),
            incarnation=agent.incarnation,
            host=agent.host,
            name=agent.info.name,
            worker_id=agent.info.id,
        )
        return lambda: Handshake(key=key, hello=hello, is_client=False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """What a start needs to know to join, whichever id it gets."""

    make_facade: Callable[[Started], object]
    name: str | None
    rank: int | None
    world_size: int
    secret: bytes
    link: StoreLink
    scope: Callable[[Store], Store]
    note_end: Callable[[], None]

    def is_free(self, claimed: Sequence[str]) -> bool:
        """Whether a worker whose claim failed may try another id: nobody asked for this one."""
        return self.rank is None and (self.name is None or len(claimed) > 0)  # it has its name


class _Taken(Exception):  # noqa: N818 -- no error: another id will do
    """The id that was free has been taken meanwhile."""

    def __init__(self, error: DuplicateNameError) -> None:
        super().__init__()
        self.error = error


def _variable(
    environ: Mapping[str, str], variable: str, field: str, value: int | None
) -> int | None:
    """Return an int argument, or the variable that stands in for it, ``None`` without either."""
    if value is not None:
        if type(value) is not int:
            raise ValueError(f"{field} must be an int, got {value!r}")
        return value
    text = environ.get(variable)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"${variable} must be an int, got {text!r}") from None


def _placing(
    maps: Mapping[str, Mapping[str, str]] | None,
) -> Callable[[object, str], str | None] | None:
    """Return what looks a device of this worker up in the map for a peer."""
    if not maps:
        return None
    return lambda to, device: maps.get(str(to), {}).get(device)


def _check_place(rank: int | None, world_size: int | None) -> None:
    if world_size is None:
        if rank is not None and rank < 0:
            raise ValueError(f"rank must be at least 0, got {rank}")
        return
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, got {world_size}")
    if world_size > MAX_WORKER_ID + 1:
        raise ValueError(f"world_size must be at most {MAX_WORKER_ID + 1}, got {world_size}")
    if rank is None:
        raise ValueError("rank missing: pass rank=, or set $RANK as a launcher does")
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
    return sha256(boot + place).digest()[:16]
