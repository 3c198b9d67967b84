"""A destination that this worker does not know: it is looked up in the store, once.

Calls wait in a peer that stands for it; then they go on to the real one, or fail.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.discovery import Record
from asyncrpc.errors import Delivery, RpcError, StoreError
from asyncrpc.identity import MAX_WORKER_ID, WorkerInfo, new_incarnation
from asyncrpc.wire import CALLS

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("Seeker",)


class Seeker:
    """Finds out who an unknown destination is; a peer's dialer until that is known.

    Args:
        agent: who looks for it.
        to: name, id or `WorkerInfo`.

    Raises:
        UnknownWorkerError: nobody can have such a name or id.
    """

    __slots__ = ("_agent", "_found", "_task", "peer", "to")

    is_dialing = False

    def __init__(self, agent: Agent, to: str | int | WorkerInfo) -> None:
        try:
            info = to if isinstance(to, WorkerInfo) else _stand_in(to)
        except ValueError:
            raise agent.members.unknown_error(to) from None
        self._agent = agent
        self._task: asyncio.Task[None] | None = None
        self._found: Peer | None = None
        self.to = to
        self.peer = Peer(agent, Record(info, new_incarnation(), (), b""))
        """Stands for the destination: calls wait in it. The incarnation is made up, so that
        references can be counted for it; once found it has that of the worker."""
        self.peer.dialer = self

    def start(self) -> None:
        """Give what waits to the worker, if it was found already; else look it up."""
        if self._found is not None:
            self.found(self._found)
        elif self._task is None and not self._agent.is_closed:
            self._task = self._agent.spawn(self._run(), f"look up {self.to}")

    def stop(self) -> None:
        """Have nothing to give up: a peer that stands for another never ends."""

    def opened(self) -> None:
        """Have no link to hear of."""

    def broke(self, *, was_used: bool) -> None:
        """Have no link that could break."""

    async def _run(self) -> None:
        members = self._agent.members
        try:
            record = await members.look_up(self.to)
        except StoreError as error:
            self._fail(members.unknown_error(self.to, f": the store did not answer: {error}"))
        else:
            peer = None if record is None else members.join(record)
            if peer is None or (isinstance(self.to, WorkerInfo) and peer.info != self.to):
                self._fail(members.unknown_error(self.to))
            elif peer.state is not PeerState.PRESENT:
                self._fail(peer.gone_error(Delivery.NOT_SENT))
            else:
                self.found(peer)
        finally:
            self._task = None
            if members.sought.get(self.to) is self:
                del members.sought[self.to]

    def _fail(self, error: RpcError) -> None:
        self.peer.fail_waiting(error)
        self._agent.references.unfound(self.peer, error)

    def found(self, peer: Peer) -> None:
        """Give what waits, now and later, to the worker that was found, in its order."""
        if self._found is None:
            self._found = peer
            self._agent.references.found(self.peer, peer)
            self.peer.record, self.peer.info = peer.record, peer.info
        for request, future in self.peer.take_waiting():
            if future is None:
                peer.is_fenced = False
            elif future.done():
                continue
            else:
                future.owner = peer
            if peer.state is PeerState.PRESENT:
                peer.submit(request, future, counts=request.kind in CALLS)
            elif future is not None:
                peer.refuse(future)
        self._agent.became_idle()


def _stand_in(to: str | int) -> WorkerInfo:
    """Return what messages call a worker of which the name or the id is all that is known."""
    if isinstance(to, str):
        return WorkerInfo(to, MAX_WORKER_ID)
    return WorkerInfo(f"id:{to}", to)
