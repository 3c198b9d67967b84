"""`all_gather` and `barrier` over a set of workers.

The worker whose name sorts first, the leader, collects one object from each and answers all of them
with the whole. A member that waits no longer tells the leader, so that nobody waits for a gather
that cannot complete. `GatherBook` says what that means for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.gathering import GatherBook, Round, Settled
from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.agent.pending import RpcFuture
from asyncrpc.errors import EncodingError, RpcError, RpcTimeoutError
from asyncrpc.observe import time_limit
from asyncrpc.wire import MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("Collectives",)

_JOIN = "join"
_OBJECT = "GATHER[2]"  # what errors of the codec call the object in such a message
_GIVE_UP = "give up"
_KINDS = frozenset(("all_gather", "barrier"))
_ASKING = 0.5  # seconds to hear from the leader who is missing, for the text of an error


class Collectives:
    """One agent's part in gathers.

    Args:
        agent: whose part.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._counts: dict[Round, int] = {}  # by series: how many were begun
        self._book: GatherBook[asyncio.Future[Any]] = GatherBook()
        agent.handlers[MessageType.GATHER] = self._on_message
        agent.members.listeners.append(self._on_gone)

    async def all_gather(
        self, obj: object, worker_names: Iterable[str] | None, timeout: float
    ) -> dict[str, Any]:
        """Return every worker's object by name; see `asyncrpc.all_gather`."""
        return await self._take_part("all_gather", obj, worker_names, timeout)

    async def barrier(self, worker_names: Iterable[str] | None, timeout: float) -> None:
        """Wait until all workers are here; see `asyncrpc.barrier`."""
        await self._take_part("barrier", None, worker_names, timeout)

    async def _take_part(
        self, kind: str, obj: object, worker_names: Iterable[str] | None, timeout: float
    ) -> dict[str, Any]:
        leader, round_ = self._next(kind, self._members(worker_names))
        answer: RpcFuture[Any] | None = None
        try:
            message = (_JOIN, tuple(round_), obj)
            answer = self._agent.caller.request(leader, MessageType.GATHER, message)
            async with time_limit(self._agent.clock, timeout):
                return await answer  # type: ignore[no-any-return]  # the leader's dict
        except TimeoutError:
            if answer is not None and answer.done() and not answer.cancelled():
                return answer.result()  # type: ignore[no-any-return]  # it came at the last moment
            missing = await self._ask_who_is_missing(
                self._give_up(leader, round_, timeout, "timeout")
            )
            raise RpcTimeoutError(
                f"{round_} timed out after {timeout:.2f} seconds, waiting for "
                f"{missing or f'the answer of {leader}'}",
                phase="execute",
            ) from None
        except EncodingError as error:
            text, path = (str(each).replace(_OBJECT, "obj") for each in (error, error.path))
            self._give_up(leader, round_, 0.0, text)
            raise EncodingError(text, path=path) from error.__cause__
        except BaseException as error:
            reason = str(error) or type(error).__name__
            self._give_up(leader, round_, 0.0, reason)
            raise
        finally:
            del answer  # its error's traceback has this frame, which has the object: no cycle

    def _members(self, worker_names: Iterable[str] | None) -> list[Peer]:
        """Return the workers of a set, by name."""
        members = self._agent.members
        if worker_names is None:
            peers = members.present()
        elif isinstance(worker_names, str) or not isinstance(worker_names, Iterable):
            raise TypeError(f"worker_names must be a collection of names, got {worker_names!r}")
        else:
            peers = [*{members.route(name) for name in worker_names}]
        peers.sort(key=lambda peer: peer.info.name)
        if not any(peer.info == self._agent.info for peer in peers):
            names = [peer.info.name for peer in peers]
            raise ValueError(
                f"worker_names must contain the caller {self._agent.info.name}, got {names}"
            )
        return peers

    def _next(self, kind: str, peers: list[Peer]) -> tuple[Peer, Round]:
        """Return the leader of a new gather, and the gather's name."""
        names = tuple(peer.info.name for peer in peers)
        incarnations = sha256(b"".join(peer.record.incarnation for peer in peers))
        series = Round(kind, names, incarnations.digest()[:16], 0)
        number = self._counts[series] = self._counts.get(series, 0) + 1
        return peers[0], series._replace(number=number)

    def _give_up(
        self, leader: Peer, round_: Round, timeout: float, reason: str
    ) -> RpcFuture[str] | None:
        """Tell the leader that this worker waits no longer; it answers who has not come."""
        if self._agent.is_closed or leader.state is not PeerState.PRESENT:
            return None
        message = (_GIVE_UP, tuple(round_), (timeout, reason))
        try:
            told = self._agent.caller.request(leader, MessageType.GATHER, message, is_lasting=True)
        except RpcError:
            return None  # too many messages wait for the leader
        told.add_done_callback(_seen)
        return told

    async def _ask_who_is_missing(self, told: RpcFuture[str] | None) -> str:
        if told is None:
            return ""
        try:
            async with time_limit(self._agent.clock, _ASKING):
                return await asyncio.shield(told)
        except (TimeoutError, RpcError):
            return ""

    # -- the leader

    def _on_message(self, peer: Peer, payload: Any) -> object:
        verb, key, value = payload
        round_ = _checked(Round(*key))
        name = peer.info.name
        if name not in round_.names:
            raise ValueError(f"{round_} without its sender")
        if verb == _JOIN:
            return self._join(round_, name, value)
        if verb == _GIVE_UP:
            missing, settled = self._book.give_up(round_, name, float(value[0]), str(value[1]))
            _tell(settled)
            return missing
        raise ValueError(f"unknown gather message {verb!r:.100}")

    def _join(self, round_: Round, name: str, obj: object) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = self._agent.loop.create_future()
        is_new = not self._book.is_open(round_)
        _tell(self._book.join(round_, name, obj, done))
        if is_new and not done.done():
            self._look_after(round_)
        return done

    def _look_after(self, round_: Round) -> None:
        """Have a link to each member, so that its death is noticed; end it for one gone already."""
        for name in round_.names:
            member = self._agent.members.known(name)
            if member is None:
                continue  # it knows this worker before this worker knows it
            if member.state is not PeerState.PRESENT:
                _tell(self._book.lost(round_, name, member.reason))
                return
            member.connect()

    def _on_gone(self, peer: Peer) -> None:
        for settled in self._book.gone(peer.info.name, peer.reason):
            _tell(settled)


def _checked(round_: Round) -> Round:
    """Refuse what no member would send."""
    kind, names, group, number = round_
    fits = type(names) is tuple and type(group) is bytes and type(number) is int
    if kind not in _KINDS or not fits:
        raise ValueError(f"{kind!r:.20} over {names!r:.100}, number {number!r:.20}")
    return round_


def _tell(settled: Settled[asyncio.Future[Any]] | None) -> None:
    """Answer those who wait for a gather that is over."""
    if settled is None:
        return
    for future in settled.waiting:
        if future.done():
            continue
        if isinstance(settled.outcome, RpcError):
            future.set_exception(settled.outcome)
            future.exception()  # seen, should nobody be left to be told
        else:
            future.set_result(settled.outcome)


def _seen(told: asyncio.Future[str]) -> None:
    """Let it fail unheard: then the leader is gone, which ends the gather too."""
    if not told.cancelled():
        told.exception()
