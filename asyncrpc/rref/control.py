"""Control messages on their way: each is sent until it is answered or its worker is gone.

The shell's side of `Send`. There is no task for a message that is out: its future calls back.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from asyncrpc.agent import Agent, Peer
from asyncrpc.errors import RpcError

from .values import Send

if TYPE_CHECKING:
    from .context import RRefContext

__all__ = ("ControlMessages",)

_log = logging.getLogger("asyncrpc.rref")

_ANSWER = 10.0  # seconds for an answer: handlers give it at once, so it is lost by then
_FIRST, _LONGEST = 0.05, 5.0  # seconds between attempts that fail, twice as many each time


class ControlMessages:
    """The control messages of one agent.

    Args:
        agent: sends them.
        context: is told of the answers.
    """

    def __init__(self, agent: Agent, context: RRefContext) -> None:
        self._agent = agent
        self._context = context

    def send(self, message: Send) -> None:
        """Send a message until it is answered."""
        self._attempt(message, 0)

    def _attempt(self, message: Send, failures: int) -> None:
        peer = self._context.peer(message.to)
        if self._agent.is_closed or peer is None or not peer.is_present:
            return  # the machine hears, or has heard, of the end of either side
        try:
            future = self._agent.caller.request(
                peer, message.kind, message.payload, _ANSWER, is_lasting=True, is_plain=True
            )
        except RpcError as error:  # no place in the queue
            self._try_again(message, failures, peer, error)
        else:
            future.add_done_callback(partial(self._done, message, failures, peer))

    def _done(
        self, message: Send, failures: int, peer: Peer, future: asyncio.Future[object]
    ) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._context.answered(message.ticket, future.result())
        else:
            self._try_again(message, failures, peer, error)

    def _try_again(self, message: Send, failures: int, peer: Peer, error: BaseException) -> None:
        if self._agent.is_closed or not peer.is_present:
            return
        _log.debug("%s to %s failed, attempt %d: %s", message.kind.name, peer, failures, error)
        pause = min(_LONGEST, _FIRST * 2 ** min(failures, 16))
        now = self._agent.clock.time()
        self._agent.clock.call_at(now + pause, self._attempt, message, failures + 1)
