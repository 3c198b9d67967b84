"""A thread that answers "are you alive" while the loop is blocked, and the question to it.

One small authenticated listener per agent, made only with real sockets and the real clock. The
thread shares nothing with the loop: a stopped process does not answer, a busy one does. It also
renews the worker's lease in the store, should the loop be late with that, and says what the loop is
busy with if that takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncrpc.agent.dialing import ALIVE, PROBE
from asyncrpc.errors import RpcError
from asyncrpc.observe import LoopWatch, time_limit
from asyncrpc.store import Keeper, Lease, LeaseKeeper, Store, keeper_of
from asyncrpc.transport import Address, Greeter
from asyncrpc.wire import Handshake, HandshakeRefused, Purpose

if TYPE_CHECKING:
    from asyncrpc.agent.agent import Agent
    from asyncrpc.discovery import Record

__all__ = ("LivenessThread", "ask_alive")

_MAX_GUESTS = 64
_PATIENCE = 5.0  # seconds a connection may take for its handshake and its question
_NO_ROOM = 0.05  # seconds to wait for a free file descriptor
_ASK = b"?"
_ALIVE = b"!"


class LivenessThread:
    """Answers questions on a socket of its own.

    Args:
        host: address to listen at, the same as the agent's.
        make_handshake: gives the server's machine for a new connection; called in the thread.
        watch: of the agent's loop; the thread looks at it from time to time.
    """

    def __init__(
        self, host: str, make_handshake: Callable[[], Handshake], watch: LoopWatch
    ) -> None:
        self._make_handshake = make_handshake
        self._watch = watch
        self._next_look = 0.0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.bind((host, 0))
            self._listener.listen(_MAX_GUESTS)
            self._listener.setblocking(False)
        except OSError:
            self._listener.close()
            raise
        self.address = Address("tcp", host, self._listener.getsockname()[1])
        self._wake_out, self._wake_in = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._guests: dict[socket.socket, _Guest] = {}
        self._keeper: Keeper | None = None  # set by the loop's thread, used in this one
        self._kept: Keeper | None = None  # the one of the last turn
        self._pause = 0.0  # seconds until the next turn at the latest
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="asyncrpc-liveness", daemon=True)
        self._thread.start()

    def keep(self, store: Store, lease: Lease) -> None:
        """Renew a lease from here on whenever the loop does not, in place of an earlier one.

        Does nothing for a store in this process.
        """
        self._keeper = keeper_of(store, lease)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_out.send(b"w")

    def close(self) -> None:
        """Stop answering and free the socket. Idempotent."""
        if self._thread.is_alive():
            self._is_closing = True
            self._wake()
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            if self._kept is not None:
                self._kept.close(self._selector)
            for sock in (*self._guests, self._listener, self._wake_in, self._wake_out):
                sock.close()
            self._selector.close()

    def _turn(self) -> bool:
        """Handle what is ready and what is due; false when told to stop."""
        for key, _ in self._selector.select(timeout=self._pause):
            if key.fileobj is self._wake_in:
                self._wake_in.recv(_MAX_GUESTS)
            elif key.fileobj is self._listener:
                self._welcome()
            elif isinstance(key.data, LeaseKeeper):
                key.data.ready(self._selector)
            else:
                self._answer(key.fileobj)  # type: ignore[arg-type]  # all others are guests' sockets
        now = time.monotonic()
        for sock in [s for s, guest in self._guests.items() if guest.give_up < now]:
            self._dismiss(sock)
        if now >= self._next_look:
            self._next_look = now + self._watch.interval
            self._watch.look()
        self._pause = max(0.0, self._next_look - now)
        self._turn_keeper(now)
        return not self._is_closing

    def _turn_keeper(self, now: float) -> None:
        """Have the lease renewed, if the loop is late with that."""
        keeper = self._keeper
        if self._kept is not keeper and self._kept is not None:
            self._kept.close(self._selector)
        self._kept = keeper
        if keeper is not None:
            pause = keeper.turn(self._selector, now)
            self._pause = min(pause, self._pause)

    def _welcome(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(_NO_ROOM)  # the listener stays readable: do not spin
            return
        sock.setblocking(False)
        if len(self._guests) >= _MAX_GUESTS:
            sock.close()
            return
        self._guests[sock] = _Guest(self._make_handshake(), time.monotonic() + _PATIENCE)
        self._selector.register(sock, selectors.EVENT_READ)

    def _answer(self, sock: socket.socket) -> None:
        guest = self._guests[sock]
        try:
            data = sock.recv(1024)
            if not data:
                raise ConnectionResetError
            sock.sendall(guest.reply(data))
        except (RpcError, OSError):
            self._dismiss(sock)

    def _dismiss(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        del self._guests[sock]
        sock.close()


class _Guest:
    """One connection to the thread."""

    __slots__ = ("give_up", "handshake")

    def __init__(self, handshake: Handshake, give_up: float) -> None:
        self.handshake = handshake
        self.give_up = give_up

    def reply(self, data: bytes) -> bytes:
        """Return what to send for received bytes: the handshake, then a byte per question."""
        if self.handshake.is_done:
            return _ALIVE * data.count(_ASK)
        out = self.handshake.feed(data)
        if self.handshake.is_done:
            out += _ALIVE * self.handshake.leftover.count(_ASK)
        return out


async def ask_alive(agent: Agent, record: Record, timeout: float) -> None:
    """Return if the worker behind a record answers: its liveness thread, or else its loop.

    Args:
        agent: who asks.
        record: of the worker.
        timeout: seconds for connecting, authenticating and the answer.

    Raises:
        ConnectionError, RpcError, TimeoutError: it did not.
    """
    if agent.is_cut_off(record.info.name):
        raise ConnectionError(f"no route to {record.info.name}: partitioned")
    async with time_limit(agent.clock, timeout):
        if record.liveness is None:
            await _ask_loop(agent, record, timeout)
        else:
            await _ask_thread(agent, record, record.liveness, timeout)


async def _ask_loop(agent: Agent, record: Record, timeout: float) -> None:
    greeter = Greeter(agent.make_handshake(is_client=True, flags=PROBE))
    stream = await agent.network.connect(record.addresses[0], greeter, timeout=timeout)
    try:
        await greeter.greet(stream, timeout, agent.clock)
    except HandshakeRefused as refusal:
        if refusal.reason == ALIVE + record.incarnation.hex():
            return
        raise
    finally:
        stream.abort()
    raise ConnectionError(f"what answers for {record.info.name} is no worker")


async def _ask_thread(agent: Agent, record: Record, address: Address, timeout: float) -> None:
    greeter = Greeter(agent.make_handshake(is_client=True, purpose=Purpose.HEARTBEAT))
    stream = await agent.network.connect(address, greeter, timeout=timeout)
    try:
        hello = await greeter.greet(stream, timeout, agent.clock)
        if hello.incarnation != record.incarnation:
            raise ConnectionError(f"another worker answers for {record.info.name}")
        answer = _Answer()
        stream.attach(answer)
        stream.write(_ASK)
        await answer.came
    finally:
        stream.abort()


class _Answer:
    """The handler of a stream on which one byte is awaited."""

    def __init__(self) -> None:
        self._room = bytearray(16)
        self.came: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def get_buffer(self, size_hint: int) -> bytearray:  # noqa: ARG002 -- StreamHandler
        return self._room

    def buffer_updated(self, count: int) -> None:  # noqa: ARG002 -- StreamHandler
        if not self.came.done():
            self.came.set_result(None)

    def stream_closed(self, error: Exception | None) -> None:
        if not self.came.done():
            self.came.set_exception(ConnectionResetError(f"no answer: {error}"))

    def write_ready(self) -> None:
        """Have nothing large to write."""
