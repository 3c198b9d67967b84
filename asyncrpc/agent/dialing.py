"""Opens the link to a peer: tries its addresses, backs off, and says when the peer is gone.

One `Dialer` per peer, started on first use and after every broken link. Simultaneous opens are
resolved by name: the worker whose name sorts first keeps its attempt, the other one's is refused
as a duplicate and waits for the link to come in.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Protocol

from asyncrpc.agent.connection import Connection
from asyncrpc.errors import AuthenticationError, PeerLostError, RemoteProtocolError
from asyncrpc.observe import time_limit
from asyncrpc.retry import full_jitter
from asyncrpc.transport import Greeter, Stream
from asyncrpc.wire import HandshakeRefused

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.agent.peers import Peer

__all__ = ("ALIVE", "CLOSING", "DUPLICATE", "FENCED", "PROBE", "REPLACE", "Dialer", "Opener")

REPLACE = 0x01
"""Hello flag: this side has no link, so one that the other still has is dead."""
PROBE = 0x02
"""Hello flag: this side only asks whether the worker lives, which the refusal `ALIVE` says."""
ALIVE = "alive "
"""Start of the reason to refuse a link that only asks; the incarnation follows."""
FENCED = "declared lost: "
"""Start of the reason to refuse a worker that the group holds for lost."""
DUPLICATE = "duplicate connection"
"""Reason to refuse a link whose other direction is being opened."""
CLOSING = "shutting down"
"""Reason to refuse a link to a worker that is about to say goodbye."""

_FIRST_DELAY = 0.02
_MAX_DELAY = 1.0
_FRUITLESS = 3  # links in a row that break at once before the next one is waited for
_INCOMING = 1.0  # seconds to wait for the link that the other side is opening


class Opener(Protocol):
    """What a peer asks for a link."""

    is_dialing: bool

    def start(self) -> None:
        """Start to open one, unless that is under way."""
        ...

    def stop(self) -> None:
        """Give up."""
        ...

    def opened(self) -> None:
        """Learn that there is one now."""
        ...

    def broke(self, *, was_used: bool) -> None:
        """Learn that it is gone, and open another.

        Args:
            was_used: whether anything came over it.
        """
        ...


class Dialer:
    """Opens links to one peer.

    Args:
        agent: whose links.
        peer: to whom.
    """

    __slots__ = ("_agent", "_arrived", "_fruitless", "_peer", "_task", "is_dialing")

    def __init__(self, agent: Agent, peer: Peer) -> None:
        self._agent = agent
        self._peer = peer
        self._task: asyncio.Task[None] | None = None
        self._arrived: asyncio.Event | None = None
        self._fruitless = 0  # links in a row over which nothing came
        self.is_dialing = False
        """Whether an attempt of this side is under way, which decides a simultaneous open."""

    def start(self) -> None:
        """Start opening a link unless that is under way."""
        if self._task is None and not self._agent.is_closed:
            self._arrived = asyncio.Event()
            self._task = self._agent.spawn(self._run(), f"connect to {self._peer}")

    def broke(self, *, was_used: bool) -> None:
        """Open another link; if they break again and again at once, only after a pause."""
        self._fruitless = 0 if was_used else self._fruitless + 1
        self.start()

    def stop(self) -> None:
        """Give up."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def opened(self) -> None:
        """Learn that the peer has a link now, from whichever side."""
        if self._arrived is not None:
            self._arrived.set()

    async def _run(self) -> None:
        try:
            await self._dial()
        except AuthenticationError as error:
            self._peer.fail_waiting(error)
        except Exception as error:  # noqa: BLE001 -- no call may be left without an answer
            reason = f"cannot open a link to {self._peer}: {error}"
            self._peer.fail_waiting(PeerLostError(reason))
        finally:
            self.is_dialing = False
            self._task = None

    async def _dial(self) -> None:
        """Try until there is a link, the peer is gone, or this side may not talk to it."""
        clock = self._agent.clock
        peer = self._peer
        if self._fruitless > _FRUITLESS:
            await self._pause(self._fruitless - _FRUITLESS)
        budget = self._agent.options.heartbeat_interval * self._agent.options.heartbeat_misses
        give_up = clock.time() + budget
        flags = attempt = 0
        while peer.connection is None:
            if peer.arriving and await self._arrives():
                return
            try:
                await self._attempt(flags)
                continue
            except HandshakeRefused as refusal:
                if refusal.reason == DUPLICATE:
                    flags = flags if await self._arrives() else REPLACE
                    continue
                error: Exception = refusal
            except AuthenticationError:
                raise
            except (ConnectionError, TimeoutError) as failure:
                error = failure
            if isinstance(error, HandshakeRefused) and error.reason.startswith(FENCED):
                self._agent.members.fence(error.reason.removeprefix(FENCED))
                return
            is_late = clock.time() >= give_up
            if is_late and self._is_alive_with_tls(error):
                raise AuthenticationError(f"{error}; it may not trust this worker's certificate")
            if is_late or self._is_final(error):
                self._agent.members.lose(peer, str(error))
                return
            await self._pause(attempt)
            attempt += 1

    async def _pause(self, attempt: int) -> None:
        # by the names: it differs from pair to pair, and is the same in every run of a test
        draw = random.Random(f"{self._agent.info} {self._peer} {attempt}").random  # noqa: S311 -- hides nothing
        delay = full_jitter(attempt, _FIRST_DELAY, 2.0, _MAX_DELAY, draw)
        await self._agent.clock.sleep(delay)

    async def _attempt(self, flags: int) -> None:
        """Open one link over the first address that answers."""
        peer, agent = self._peer, self._agent
        if agent.is_cut_off(peer.info.name):
            raise ConnectionError(f"no route to {peer}: partitioned")
        self.is_dialing = True
        try:
            greeter, stream = await self._connect(flags)
            timeout = agent.options.limits.handshake_timeout
            hello = await greeter.greet(stream, timeout, agent.clock)
        finally:
            self.is_dialing = False
        if hello.incarnation != peer.record.incarnation:
            stream.abort()
            raise HandshakeRefused("another worker answers at its address", reason="other run")
        if peer.connection is not None:
            stream.abort()  # the other side's link came in meanwhile
            return
        connection = Connection(agent, peer, stream, hello)
        stream.attach(connection, greeter.handshake.leftover)
        if stream.is_closed:
            raise ConnectionResetError(f"{stream.peer} closed the link as soon as it was open")
        peer.opened(connection)

    async def _connect(self, flags: int) -> tuple[Greeter, Stream]:
        errors: list[Exception] = []
        for address in self._peer.record.addresses:
            if address.scheme == "tcp" and self._agent.options.tls is not None:
                reason = f"{self._peer} listens without TLS at {address}; this worker has tls="
                errors.append(AuthenticationError(reason))
                continue
            greeter = Greeter(self._agent.make_handshake(is_client=True, flags=flags))
            try:
                stream = await self._agent.network.connect(
                    address, greeter, timeout=self._agent.options.limits.handshake_timeout
                )
            except (ConnectionError, TimeoutError) as error:
                errors.append(error)
            else:
                return greeter, stream
        raise errors[0]

    async def _arrives(self) -> bool:
        """Wait for the link that the other side is opening; true if it came."""
        assert self._arrived is not None  # set by start()
        if self._peer.connection is not None:
            return True
        self._arrived.clear()  # what came before is gone again
        try:
            async with time_limit(self._agent.clock, _INCOMING):
                await self._arrived.wait()
        except TimeoutError:
            return False
        return True

    def _is_alive_with_tls(self, error: Exception) -> bool:
        """Whether a worker that closes new links does so because of TLS: a dead one opens none."""
        is_refused = isinstance(error, HandshakeRefused)
        is_closed = isinstance(error, RemoteProtocolError) and not is_refused
        return is_closed and self._agent.options.tls is not None

    def _is_final(self, error: Exception) -> bool:
        """Whether an error proves that the worker is gone, or that it took this one for gone."""
        if isinstance(error, HandshakeRefused):
            return error.reason != CLOSING
        # its own host refuses the address: the process that listened there has ended
        return (
            isinstance(error.__cause__, (ConnectionRefusedError, FileNotFoundError))
            and self._peer.record.host == self._agent.host
        )
