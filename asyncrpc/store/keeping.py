"""`LeaseKeeper`: renews a lease from a thread while the loop that should do so is blocked.

Driven by a thread that has a selector of its own (the agent's liveness thread). It connects to the
server only when renewals are overdue, and never blocks but for the name of the host. While the loop
does its part there is no connection.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from asyncrpc.errors import RpcError
from asyncrpc.observe import LoopClock
from asyncrpc.store.base import Store
from asyncrpc.store.client import TCPStore
from asyncrpc.store.codec import Packer
from asyncrpc.store.commands import RenewLease
from asyncrpc.store.lease import Lease
from asyncrpc.store.prefix import PrefixStore
from asyncrpc.transport import Address
from asyncrpc.wire import Handshake

__all__ = ("Keeper", "LeaseKeeper", "keeper_of")

_OVERDUE = 0.5  # of the lease's span without renewal; the loop renews after a third of it
_RENEWALS = 6  # in one span, once it is overdue
_ROOM = 4096


class Keeper(Protocol):
    """What renews one lease when its own loop does not; see `LeaseKeeper`."""

    def turn(self, selector: selectors.BaseSelector, now: float) -> float:
        """Do what is due, and say in how many seconds there may be more."""
        ...

    def ready(self, selector: selectors.BaseSelector) -> None:
        """Go on with a socket that is ready."""
        ...

    def close(self, selector: selectors.BaseSelector) -> None:
        """Let go of everything."""
        ...


@runtime_checkable
class _HasKeepers(Protocol):
    """A store that has keepers of its own."""

    def make_keeper(self, lease: Lease) -> Keeper: ...


def keeper_of(store: Store, lease: Lease) -> Keeper | None:
    """Return a keeper for a lease of ``store``, ``None`` unless that lies in another process."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if isinstance(store, TCPStore) and isinstance(store.clock, LoopClock):
        return LeaseKeeper(store.address, store.make_handshake, lease)
    return store.make_keeper(lease) if isinstance(store, _HasKeepers) else None


class LeaseKeeper:
    """Renews one lease when its own loop does not.

    Args:
        address: of the store's server.
        make_handshake: gives the client's machine for a new connection.
        lease: which.

    Used by one thread only; ``lease.renewed``, which the loop's thread sets, is merely read.
    """

    def __init__(
        self, address: Address, make_handshake: Callable[[], Handshake], lease: Lease
    ) -> None:
        self._address = address
        self._make_handshake = make_handshake
        self._lease = lease
        self._pause = lease.ttl / _RENEWALS
        self._socket: socket.socket | None = None
        self._handshake: Handshake | None = None
        self._packer = Packer()
        self._numbers = 0
        self._next = 0.0  # when to renew or connect again

    def turn(self, selector: selectors.BaseSelector, now: float) -> float:
        """Do what is due; call it after each `select`.

        Args:
            selector: of the thread; gets this object as data of its socket.
            now: of the monotonic clock.

        Returns:
            Seconds until it is to be called again at the latest.
        """
        overdue = self._lease.renewed + self._lease.ttl * _OVERDUE
        if now < overdue or self._lease.lost.is_set():
            self.close(selector)
            return max(overdue - now, self._pause)
        if now >= self._next:
            self._next = now + self._pause
            try:
                if self._socket is None:
                    self._connect(selector)
                elif self._handshake is not None and self._handshake.is_done:
                    self._renew()
            except OSError:
                self.close(selector)
        return max(0.0, self._next - now)

    def ready(self, selector: selectors.BaseSelector) -> None:
        """Go on with a socket that can be read, or that has just been connected."""
        sock, handshake = self._socket, self._handshake
        try:
            if sock is not None and handshake is None:
                selector.modify(sock, selectors.EVENT_READ, self)
                self._handshake = self._make_handshake()
                sock.sendall(self._handshake.start())
            elif sock is not None and handshake is not None:
                self._read(sock, handshake)
        except (RpcError, OSError):
            self.close(selector)

    def close(self, selector: selectors.BaseSelector) -> None:
        """Drop the connection. Idempotent."""
        sock, self._socket, self._handshake = self._socket, None, None
        if sock is not None:
            with contextlib.suppress(KeyError):
                selector.unregister(sock)
            sock.close()

    def _connect(self, selector: selectors.BaseSelector) -> None:
        family, kind, protocol, _, target = socket.getaddrinfo(
            self._address.host, self._address.port, type=socket.SOCK_STREAM
        )[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            self._socket.connect(target)
        selector.register(self._socket, selectors.EVENT_WRITE, self)

    def _read(self, sock: socket.socket, handshake: Handshake) -> None:
        data = sock.recv(_ROOM)
        if not data:
            raise ConnectionResetError
        if not handshake.is_done:
            sock.sendall(handshake.feed(data))
            if handshake.is_done:
                self._renew()
        # replies say nothing that the loop will not hear for itself

    def _renew(self) -> None:
        assert self._socket is not None  # there is a handshake
        self._numbers += 1
        renewal = RenewLease(self._lease.id)
        self._socket.sendall(self._packer.requests([(self._numbers, renewal)]))
