"""`all_gather` and `barrier` over a set of workers.

The worker whose name sorts first collects one object from each and answers all of them with the
whole. The n-th gather of a worker over one set of names meets the n-th of the others, so several
may be under way at once and never mix.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.errors import Delivery, PeerLostError, RpcTimeoutError
from asyncrpc.observe import time_limit
from asyncrpc.wire import MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("Collectives",)


@dataclasses.dataclass(slots=True, eq=False)
class _Gathering:
    """One gather at its leader."""

    names: tuple[str, ...]
    objects: dict[str, object]
    waiting: list[asyncio.Future[Any]]


class Collectives:
    """One agent's part in gathers.

    Args:
        agent: whose part.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._counts: dict[tuple[str, ...], int] = {}
        self._gatherings: dict[tuple[tuple[str, ...], int], _Gathering] = {}
        agent.handlers[MessageType.GATHER] = self._on_message
        agent.members.listeners.append(self._on_gone)

    async def all_gather(
        self, obj: object, worker_names: Iterable[str] | None, timeout: float
    ) -> dict[str, Any]:
        """Return every worker's object by name; see `asyncrpc.all_gather`."""
        names = self._names(worker_names)
        leader = self._agent.members.route(names[0])
        count = self._counts[names] = self._counts.get(names, 0) + 1
        key = (names, count)
        request = self._agent.caller.request(leader, MessageType.GATHER, (names, count, obj))
        try:
            async with time_limit(self._agent.clock, timeout):
                objects: dict[str, Any] = await request
        except TimeoutError as error:
            raise self._timed_out(key, leader, timeout) from error
        return objects

    def _names(self, worker_names: Iterable[str] | None) -> tuple[str, ...]:
        members = self._agent.members
        if worker_names is None:
            return tuple(sorted(peer.info.name for peer in members.present()))
        if isinstance(worker_names, str):
            raise TypeError(f"worker_names must be a collection of names, got {worker_names!r}")
        names = tuple(sorted({members.route(name).info.name for name in worker_names}))
        if self._agent.info.name not in names:
            raise ValueError(
                f"worker_names must contain the caller {self._agent.info.name}, got {list(names)}"
            )
        return names

    def _timed_out(
        self, key: tuple[tuple[str, ...], int], leader: Peer, timeout: float
    ) -> RpcTimeoutError:
        names = key[0]
        gathering = self._gatherings.get(key)
        if gathering is None:
            missing = f"the answer of {leader}"
        else:
            missing = ", ".join(sorted(set(names) - set(gathering.objects))) or "its answer"
        return RpcTimeoutError(
            f"all_gather over {len(names)} workers timed out after {timeout:.2f} seconds, "
            f"waiting for {missing}",
            phase="execute",
            delivery=Delivery.UNKNOWN,
        )

    # -- the leader

    def _on_message(self, peer: Peer, payload: Any) -> asyncio.Future[Any]:
        names, count, obj = payload
        if type(names) is not tuple or type(count) is not int or peer.info.name not in names:
            raise ValueError(f"gather over {names!r:.100}, number {count!r:.20}")
        done: asyncio.Future[Any] = self._agent.loop.create_future()
        gathering = self._gatherings.setdefault((names, count), _Gathering(names, {}, []))
        gathering.objects[peer.info.name] = obj
        gathering.waiting.append(done)
        gone = [p for p in self._agent.members.all() if p.state is not PeerState.PRESENT]
        for lost in gone:
            self._check_gone(lost)
        self._watch(gathering)
        if len(gathering.objects) == len(names):
            self._gatherings.pop((names, count), None)
            ordered = {name: gathering.objects[name] for name in names}
            for future in gathering.waiting:
                if not future.done():
                    future.set_result(ordered)
        return done

    def _watch(self, gathering: _Gathering) -> None:
        """Have a link to each worker that is waited for, so that its death is noticed."""
        for name in set(gathering.names).difference(gathering.objects):
            other = self._agent.members.known(name)
            if other is not None:
                other.connect()

    def _on_gone(self, peer: Peer) -> None:
        self._check_gone(peer)

    def _check_gone(self, peer: Peer) -> None:
        """Fail the gathers that a worker that is gone can no longer take part in."""
        for key, gathering in tuple(self._gatherings.items()):
            if peer.info.name in gathering.names and peer.info.name not in gathering.objects:
                del self._gatherings[key]
                for future in gathering.waiting:
                    if not future.done():
                        future.set_exception(
                            PeerLostError(
                                f"all_gather cannot complete: {peer} is gone: {peer.reason}"
                            )
                        )
                        future.exception()  # seen, should nobody be left to be told
