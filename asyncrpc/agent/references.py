"""Remote references as the agent sees them: what travels in messages, and has to be confirmed.

The agent knows nothing of the protocol behind them. It says where a message goes that encloses
references, what became of it, and what arrived in one; it keeps calls and results from user code
until it is told that all references in them are confirmed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from asyncrpc.agent.pending import RpcFuture
from asyncrpc.errors import Delivery, RpcError
from asyncrpc.execution import ServedCall, Target
from asyncrpc.wire import Frame, Hook

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.connection import Connection
    from asyncrpc.agent.peers import Peer
    from asyncrpc.agent.request import Request
    from asyncrpc.agent.serving import Server
    from asyncrpc.agent.settling import Settling

__all__ = (
    "HeldCall",
    "HeldMessage",
    "HeldReply",
    "References",
    "Waiting",
    "entrust",
    "look_back",
)


class Waiting(Protocol):
    """What waits until references are confirmed; known by its identity."""

    def __hash__(self) -> int:
        """Return its hash: it is hashable."""
        ...

    def run(self) -> None:
        """Go on: they all are."""
        ...

    def fail(self, error: RpcError) -> None:
        """Fail: one of them cannot be used."""
        ...


class References(Protocol):
    """The remote references of one agent."""

    hook: Hook
    """How they travel."""
    arrived: list[Any]
    """Those decoded since somebody looked last."""
    leaks: tuple[str, ...]
    """What was held when `note_leaks` was called last, a line for each reference."""
    handled: int
    """Messages about references that were handled since the start."""

    def attach(self, agent: Agent) -> None:
        """Take the agent into use, before any message comes."""
        ...

    def hold(self, waiting: Waiting) -> None:
        """Have ``waiting`` run or fail, now or later, by what becomes of those that arrived."""
        ...

    def withdraw(self, waiting: Waiting) -> None:
        """Forget what was held, and nobody waits for any more."""
        ...

    def take_back(self, enclosed: Sequence[Any], peer: Peer) -> None:
        """Learn that a message, and what it enclosed, certainly does not come to ``peer``."""
        ...

    def doubt(self, enclosed: Sequence[Any], peer: Peer) -> None:
        """Learn that nobody knows whether it came."""
        ...

    def keep(self, enclosed: Sequence[Any]) -> Sequence[Any]:
        """Hold what a message encloses, so that another one can; `let_go` ends that."""
        ...

    def let_go(self, kept: Sequence[Any]) -> None:
        """Hold no longer what `keep` held."""
        ...

    def enclose_again(self, request: Request, kept: Sequence[Any], peer: Peer) -> None:
        """Have a request that was made before enclose the same for another run, or another worker.

        Raises:
            RpcError: one of the references cannot be used any more; the request is unchanged.
        """
        ...

    def found(self, stand_in: Peer, peer: Peer) -> None:
        """Learn who a worker is that was being looked up, before anything goes to it."""
        ...

    def unfound(self, stand_in: Peer, error: RpcError) -> None:
        """Learn that there is no worker that was being looked up; all calls to it have failed."""
        ...

    def hold_back(self, message: Request, waiting: Waiting) -> bool:
        """Have ``waiting`` run or fail once it is known who owns what a message encloses.

        Returns:
            Whether there is anything to wait for.
        """
        ...

    def is_held_back(self, message: Request) -> bool:
        """Whether it is unknown yet who owns what a message encloses."""
        ...

    def notified(self, call_id: int, enclosed: Sequence[Any], peer: Peer) -> None:
        """Learn that a one-way call went out, of which `taken` tells the end."""
        ...

    def taken(self, call_id: int, peer: Peer) -> None:
        """Learn that a one-way call has come."""
        ...

    def method(self, name: str) -> Target:
        """Return what calls the method ``name`` of the value that a call refers to."""
        ...

    def serve(self, server: Server, frame: Frame) -> None:
        """Serve a request to create a value, or to give one."""
        ...

    def link_opened(self, peer: Peer, *, is_first: bool) -> None:
        """Learn that there is a link to a worker, the first one ever or again."""
        ...

    def link_lost(self, peer: Peer) -> None:
        """Learn that the link to a worker broke."""
        ...

    @property
    def is_quiet(self) -> bool:
        """Whether no message about references is out or about to be."""
        ...

    def note_leaks(self) -> None:
        """Write down which references are held now, for the error of a shutdown that checks."""
        ...

    async def release_all(self, *, is_group_over: bool) -> None:
        """Release everything, and wait until the owners know.

        Args:
            is_group_over: wait, too, until nobody holds anything that is kept here.
        """
        ...

    def close(self) -> None:
        """Drop everything; each use of a reference says so then."""
        ...


def entrust(
    references: References, enclosed: Sequence[Any], peer: Peer, future: RpcFuture[Any]
) -> None:
    """Have what a request encloses taken back, or doubted, if the request fails."""
    future.add_done_callback(partial(look_back, references, enclosed, peer))


def look_back(
    references: References, enclosed: Sequence[Any], peer: Peer, done: asyncio.Future[Any]
) -> None:
    """Have what a request encloses taken back, or doubted, if the request has failed."""
    assert isinstance(done, RpcFuture)
    if done.cancelled():
        delivery = Delivery.UNKNOWN if done.is_sent else Delivery.NOT_SENT
    else:
        # not exception(): that would count as somebody's look at the failure
        delivery = getattr(done._exception, "delivery", Delivery.EXECUTED)
    if delivery is Delivery.NOT_SENT:
        references.take_back(enclosed, peer)
    elif delivery is Delivery.UNKNOWN:
        references.doubt(enclosed, peer)


class HeldReply:
    """A result whose references are not confirmed yet: its call goes on, under its own deadline.

    Args:
        caller: whose call.
        future: the call, which is pending no more.
        value: its result.
        references: hold it.
    """

    connection = None

    def __init__(
        self, caller: Settling, future: RpcFuture[Any], value: object, references: References
    ) -> None:
        self._caller = caller
        self._future = future
        self._value = value
        self._references = references
        self._owner = future.owner

    def __repr__(self) -> str:
        return repr(self._owner)

    def hold(self) -> None:
        """Give the result to its call as soon as may be."""
        future = self._future
        future.replied()
        future.owner = self
        future.counts = False
        future.call_id = self._caller.other_id()  # a copy of the reply must not find it
        self._caller.put_back(future)
        self._references.hold(self)

    def run(self) -> None:
        """See `Waiting.run`."""
        self._let_go().succeed(self._value)

    def fail(self, error: RpcError) -> None:
        """See `Waiting.fail`."""
        error.delivery = Delivery.EXECUTED
        self._let_go().fail(error)

    def withdraw(self, _: RpcFuture[Any]) -> None:
        """Forget the call: cancelled, or its time is over."""
        self._let_go()
        self._references.withdraw(self)

    def count(self, error: BaseException | None) -> None:
        """Count a failure: see `Peer.count`."""
        self._owner.count(error)

    def _let_go(self) -> RpcFuture[Any]:
        future = self._future
        self._caller.pending.pop(future.call_id, None)
        future.owner = self._owner  # no cycle: nobody would know when the references in it go
        return future


class Dropper(Protocol):
    """Ends a call that did not come to user code."""

    def drop(self, call: ServedCall, error: RpcError) -> None:
        """Give an error of the agent's own as the outcome."""
        ...


class HeldCall:
    """A call that waits for the references in its arguments, under its own deadline.

    Args:
        dropper: told if they cannot be had.
        call: what waits.
        start: takes it to user code.
        references: hold it.
    """

    def __init__(
        self, dropper: Dropper, call: ServedCall, start: partial[None], references: References
    ) -> None:
        self._dropper = dropper
        self._call = call
        self._start = start
        self._references = references

    def hold(self) -> None:
        """Have the call start as soon as may be."""
        self._call.held = self
        self._references.hold(self)

    def run(self) -> None:
        """See `Waiting.run`."""
        self._call.held = None
        self._start()

    def fail(self, error: RpcError) -> None:
        """See `Waiting.fail`."""
        self._call.held = None
        error.delivery = Delivery.NOT_SENT
        self._dropper.drop(self._call, error)

    def withdraw(self) -> None:
        """Forget the call: cancelled, or its time is over."""
        self._call.held = None
        self._references.withdraw(self)
        self._call.replier.fail(self._call, asyncio.CancelledError())


class HeldMessage:
    """A control message that waits for the references in its payload.

    Args:
        agent: handles it then.
        connection: on which it came.
        kind: its type.
        call_id: its call, for the answer.
        payload: its payload.
    """

    def __init__(
        self, agent: Agent, connection: Connection, kind: int, call_id: int, payload: object
    ) -> None:
        self._agent = agent
        self._connection = connection
        self._kind = kind
        self._call_id = call_id
        self._payload = payload

    def run(self) -> None:
        """See `Waiting.run`."""
        try:
            self._agent.take_control(self._connection, self._kind, self._call_id, self._payload)
        except RpcError as error:
            self._connection.fail(error)

    def fail(self, error: RpcError) -> None:
        """See `Waiting.fail`."""
        error.delivery = Delivery.NOT_SENT
        self._connection.server.refuse(self._kind, self._call_id, error)
