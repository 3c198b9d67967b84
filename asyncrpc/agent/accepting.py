"""Takes in the links that other workers open: authenticates them and gives each to its peer.

One `Acceptor` per agent. What comes from a stranger ends here: it costs a handshake's memory, a
place among ``limits.max_connections`` for ``limits.handshake_timeout``, and a line in the log.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from asyncrpc.agent.connection import Connection
from asyncrpc.errors import RpcError
from asyncrpc.transport import Address, Greeter, Listener, Stream
from asyncrpc.wire import HandshakeRefused, Hello

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer

__all__ = ("Acceptor",)

_log = logging.getLogger("asyncrpc.agent")
_BURST = 20  # refusals logged in one span; more would only tell that there are more
_SPAN = 1.0  # seconds


class Acceptor:
    """The listening side of one agent.

    Args:
        agent: whose links.
    """

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._listener: Listener | None = None
        self._guests: set[Stream] = set()  # not authenticated yet
        self._span_end = 0.0
        self._logged = 0  # refusals in the current span

    async def listen(self, address: Address) -> Address:
        """Accept links at ``address``; return where that really is."""
        self._listener = await self._agent.network.listen(
            address, self._accept, max_connections=self._agent.options.limits.max_connections
        )
        return self._listener.address

    async def close(self) -> None:
        """Accept nobody any more, and cut off who is not authenticated yet. Idempotent."""
        if self._listener is not None:
            await self._listener.close()
        for stream in tuple(self._guests):
            stream.abort()

    def _accept(self, stream: Stream) -> Greeter:
        let_in: list[Peer] = []  # the known worker that was told to come in, until it is

        def authorize(hello: Hello) -> str | None:
            reason = self._agent.members.authorize(hello)
            peer = self._agent.members.of(hello.incarnation)
            if reason is None and peer is not None:
                peer.arriving += 1  # so that no link is opened to it meanwhile
                let_in.append(peer)
            return reason

        greeter = Greeter(self._agent.make_handshake(is_client=False, authorize=authorize), stream)
        self._guests.add(stream)
        task = self._agent.spawn(self._greet(greeter, stream), f"greet {stream.peer}")

        def end(_: object) -> None:
            self._guests.discard(stream)
            for peer in let_in:
                peer.arriving -= 1

        task.add_done_callback(end)
        return greeter

    async def _greet(self, greeter: Greeter, stream: Stream) -> None:
        """Authenticate who connected, and give the link to that peer."""
        agent = self._agent
        try:
            timeout = agent.options.limits.handshake_timeout
            hello = await greeter.greet(stream, timeout, agent.clock)
            peer = await agent.members.find(hello)
        except HandshakeRefused as refusal:  # mostly the second of two links opened at once
            _log.debug("refused a connection from %s: %s", stream.peer, refusal)
            stream.close()
            return
        except (RpcError, TimeoutError) as error:
            self._log_refusal(stream.peer, error)
            stream.close()
            return
        except BaseException:
            stream.abort()
            raise
        if stream.is_closed or agent.is_closed:
            stream.abort()
            return
        connection = Connection(agent, peer, stream, hello)
        peer.opened(connection)
        stream.attach(connection, greeter.handshake.leftover)

    def _log_refusal(self, who: str, error: Exception) -> None:
        """Log one line, or none when a flood of strangers would fill the log."""
        now = self._agent.clock.time()
        if now >= self._span_end:
            self._span_end = now + _SPAN
            self._logged = 0
        self._logged += 1
        if self._logged <= _BURST:
            _log.warning("refused a connection from %s: %s", who, error)
        elif self._logged == _BURST + 1:
            _log.warning("refused more than %d connections in %g s", _BURST, _SPAN)
