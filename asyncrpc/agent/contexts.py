"""Call contexts: state on every worker that the calls of one context reach, and its clean-up.

A context is known by its id, which rides in the header map of every call made in it, nested ones
included. A worker makes its own `CallContext` when code there asks for it, and notes to whom it
passed the id on. At the end each worker tells those it had passed it on to, once: who is told drops
the state, tells its own, and answers when they have. A worker that is told again answers at once,
so circles end. Late calls of a context that has ended carry its id no more.

Source: the clean-up of distributed autograd contexts in torch.distributed, whose message types it
uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from types import TracebackType
from typing import TYPE_CHECKING, Any

from asyncrpc.agent.ambient import Surrounding, ambient
from asyncrpc.agent.peers import Peer, PeerState
from asyncrpc.errors import RpcError
from asyncrpc.execution import current_call
from asyncrpc.observe import time_limit
from asyncrpc.retry import RetryPolicy
from asyncrpc.wire import MessageType

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent

__all__ = ("CallContext", "ContextScope", "Contexts")

_log = logging.getLogger("asyncrpc.contexts")

_CLEANUP = MessageType.CLEANUP_AUTOGRAD_CONTEXT_REQ
# The number is the reference's. Who passes the end on answers once all others have; who does not in
# this time is told again, which is harmless: the message may be lost.
_POLICY = RetryPolicy(max_retries=20, per_attempt_timeout=10.0)
_ENDED = 1 << 14  # ids remembered: calls that come later than that many contexts have a new state


class CallContext:
    """One context as one worker has it.

    Attributes:
        id: the same on all workers.
        state: this worker's own, empty at first; dropped when the context ends.
    """

    __slots__ = ("__weakref__", "id", "state")

    def __init__(self, id: str) -> None:  # noqa: A002 -- what it is
        self.id = id
        self.state: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<CallContext {self.id}>"


class ContextScope:
    """What `asyncrpc.context` returns: an async context manager that gives a `CallContext`."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
        self._surrounding = Surrounding()
        self._context: CallContext | None = None

    async def __aenter__(self) -> CallContext:
        self._context = context = self._contexts.open()
        self._surrounding.enter(context=context)
        return context

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._surrounding.leave()
        if self._context is not None:
            await self._contexts.end(self._context.id)


class Contexts:
    """The contexts that one agent knows.

    Args:
        agent: whose contexts.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._count = 0
        self._states: dict[str, CallContext] = {}
        self._reached: dict[str, set[Peer]] = {}  # context -> to whom its id was passed on
        self._ended: OrderedDict[str, None] = OrderedDict()
        agent.handlers[_CLEANUP] = self._on_message
        agent.members.listeners.append(self._on_gone)

    def __len__(self) -> int:
        return len(self._states.keys() | self._reached.keys())

    def open(self) -> CallContext:
        """Begin a context."""
        self._count += 1
        context = CallContext(f"{self._agent.incarnation.hex()}-{self._count}")
        self._states[context.id] = context
        return context

    def current(self) -> CallContext | None:
        """Return the context that surrounds the calls made here, ``None`` for none."""
        around = ambient.get()
        if around is not None and around.context is not None:
            return around.context
        served = current_call.get()
        if served is None or served.headers is None or not served.headers.context:
            return None
        return self._known(served.headers.context)

    def _known(self, ident: str) -> CallContext:
        context = self._states.get(ident)
        if context is None:
            context = CallContext(ident)
            if ident not in self._ended:
                self._states[ident] = context
        return context

    def is_reached(self, ident: str, peer: Peer) -> bool:
        """Note that a call of a context goes to ``peer``; false if the context has ended."""
        if ident in self._ended:
            return False
        if peer.info != self._agent.info:
            self._reached.setdefault(ident, set()).add(peer)
        return True

    async def end(self, ident: str) -> None:
        """Drop a context everywhere; returns when all workers have, or cannot be reached in time.

        What is not answered within the default timeout of calls goes on behind.
        """
        task = self._agent.spawn(self._drop(ident), f"end context {ident}")
        with contextlib.suppress(TimeoutError):
            async with time_limit(self._agent.clock, self._agent.caller.timeout):
                await asyncio.wait([task])

    async def _drop(self, ident: str) -> None:
        """Drop a context here, and have those dropped that got it from here."""
        self._clear(ident)
        reached = self._reached.pop(ident, set())
        self._ended[ident] = None
        if len(self._ended) > _ENDED:
            self._ended.popitem(last=False)
        in_order = sorted(reached, key=lambda peer: peer.info.id)  # the same in every run
        tasks = [self._tell(peer, ident) for peer in in_order]
        await asyncio.gather(*tasks, return_exceptions=True)

    def _clear(self, ident: str) -> None:
        """Drop this worker's state, for whoever still has the context too."""
        context = self._states.pop(ident, None)
        if context is not None:
            context.state.clear()

    async def _tell(self, peer: Peer, ident: str) -> None:
        try:
            await self._agent.caller.request(peer, _CLEANUP, ident, policy=_POLICY)
        except RpcError as error:  # with a worker that is gone its state is gone, too
            if peer.state is PeerState.PRESENT:
                _log.warning("the end of context %s did not reach %s: %s", ident, peer, error)

    def _on_message(self, _: Peer, payload: object) -> asyncio.Future[None] | None:
        if not isinstance(payload, str):
            raise ValueError(f"a context has a str for an id, got {payload!r:.100}")
        if payload in self._ended:
            return None
        return self._agent.spawn(self._drop(payload), f"end context {payload}")

    def _on_gone(self, peer: Peer) -> None:
        """Drop the contexts that a worker that is gone had begun: nobody else will."""
        begun = f"{peer.record.incarnation.hex()}-"
        for ident in [*self._states, *self._reached]:
            if ident.startswith(begun):
                self._clear(ident)
                self._reached.pop(ident, None)
                self._ended[ident] = None
        for reached in self._reached.values():
            reached.discard(peer)
