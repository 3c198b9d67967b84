"""`ChaosProxy`: a bad network between a client and a server, on one machine and repeatable.

For tests over real sockets, where netem is missing or needs root. It sees bytes, not messages;
message-level faults are `asyncrpc.FaultPlan`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from typing import Literal, Self, Unpack

from asyncrpc.observe import Clock, LoopClock
from asyncrpc.testing.link import Direction, Lane, Link, Toxics, ToxicsChange

__all__ = ("ChaosProxy",)

_BACKLOG = 128
_ACCEPT_PAUSE = 0.01
_DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "up": ("up",),
    "down": ("down",),
    "both": ("up", "down"),
}

Lanes = Literal["up", "down", "both"]
"""Which way: ``up`` from client to target, ``down`` back."""


class ChaosProxy:
    """A TCP or unix-socket proxy that delays, garbles, swallows and cuts.

    Use it as an async context manager; inside, connect to `host` and `port` (or `path`). Settings
    act at once on all connections, those already open included.

    Args:
        target_host: where to connect on; an IP address or a name with an IPv4 one.
        target_port: its port.
        target_path: connect to this unix socket instead.
        host: loopback address to listen on.
        port: port to listen on; 0 takes a free one.
        path: listen on this unix socket instead; removed at the end.
        seed: with the order of connections it determines jitter and corruption.
        clock: measures delays; ``None`` takes the real one.

    Raises:
        ValueError: not exactly one target is given, or ``target_port`` is no port.

    Example:
        ```python
        async def main():
            async with TCPStoreServer() as server, ChaosProxy(server.host, server.port) as proxy:
                async with await TCPStore.connect(proxy.host, proxy.port) as store:
                    proxy.set(latency=0.01, slice_size=3)
                    await store.set("colour", "green")
                    proxy.disconnect_all(reset=True)
                    assert await store.get("colour") == b"green"
        ```
    """

    def __init__(
        self,
        target_host: str | None = None,
        target_port: int | None = None,
        *,
        target_path: str | os.PathLike[str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | os.PathLike[str] | None = None,
        seed: int = 0,
        clock: Clock | None = None,
    ) -> None:
        has_address = target_host is not None and target_port is not None
        if has_address == (target_path is not None):
            raise ValueError("target must be either a host and a port or a target_path")
        if has_address and (type(target_port) is not int or not 0 < target_port < 1 << 16):
            raise ValueError(f"target_port must be an int from 1 to 65535, got {target_port!r}")
        self.host = host
        self.port = port
        self.path = None if path is None else os.fspath(path)
        self._target: tuple[str, int] | str = (
            os.fspath(target_path)
            if target_path is not None
            else (str(target_host), int(target_port or 0))
        )
        self._seed = seed
        self._clock: Clock = LoopClock() if clock is None else clock
        self._lanes: dict[Direction, Lane] = {"up": Lane(), "down": Lane()}
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._listener: socket.socket | None = None
        self._is_accepting = False
        self._retry: asyncio.TimerHandle | None = None
        self.accepted = 0
        """Connections accepted so far."""

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._links)

    def forwarded(self, direction: Direction) -> int:
        """Return how many bytes have been passed on in that direction.

        Args:
            direction: ``"up"`` from client to target, ``"down"`` back.
        """
        return self._lanes[direction].forwarded

    def corrupted(self, direction: Direction) -> int:
        """Return how many of them were changed.

        Args:
            direction: ``"up"`` from client to target, ``"down"`` back.
        """
        return self._lanes[direction].corrupted

    async def __aenter__(self) -> Self:
        if self._listener is not None:
            raise RuntimeError("the proxy is already running")
        self._listener = self._bind()
        if self.path is None:
            self.port = self._listener.getsockname()[1]
        self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop_accepting()
        self.disconnect_all()
        await asyncio.gather(*self._links.values(), return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    # -- what to do to the bytes ----------------------------------------------------------------

    def set(self, *, direction: Lanes = "both", **change: Unpack[ToxicsChange]) -> None:
        """Change some settings and keep the others.

        Args:
            direction: which way they apply.
            change: fields of `Toxics`: ``latency``, ``jitter``, ``bandwidth``, ``slice_size``,
                ``corrupt``, ``cut_after`` (counts from now), ``reset``, ``blackhole``.

        Raises:
            ValueError: a value is out of its range; nothing has changed.
        """
        changed = {
            name: dataclasses.replace(self._lanes[name].toxics, **change)
            for name in _lanes_of(direction)
        }
        for name, toxics in changed.items():
            self._apply(name, toxics, is_cut_new="cut_after" in change)

    def heal(self) -> None:
        """Take all settings back and resume; refused connections need `accept`."""
        for name in self._lanes:
            self._apply(name, Toxics(), is_cut_new=True)
        self.resume()

    def pause(self, direction: Lanes = "both") -> None:
        """Hold bytes back until `resume`; senders soon feel it, nothing is lost.

        Args:
            direction: ``"up"``, ``"down"`` or ``"both"``.
        """
        for name in _lanes_of(direction):
            self._lanes[name].gate.clear()

    def resume(self, direction: Lanes = "both") -> None:
        """Pass on what was held back, and all that follows.

        Args:
            direction: ``"up"``, ``"down"`` or ``"both"``.
        """
        for name in _lanes_of(direction):
            self._lanes[name].gate.set()

    def half_close(self, direction: Lanes) -> None:
        """End that direction of the open connections; the other one goes on.

        The receiver sees the end of the stream; what the sender still sends is swallowed.

        Args:
            direction: ``"up"``, ``"down"`` or ``"both"``.
        """
        for link in self._links:
            for name in _lanes_of(direction):
                link.half_close(name)

    def disconnect_all(self, *, reset: bool = False) -> None:
        """End all open connections in the next turns of the loop.

        Args:
            reset: whether both sides get a reset (RST) and not an orderly close.
        """
        for link in self._links:
            link.disconnect(reset=reset)

    def refuse(self) -> None:
        """Refuse new connections, as a dead server does; the port stays ours."""
        if self._listener is None:
            raise RuntimeError("the proxy is not running")
        if not self._is_accepting:
            return
        self._stop_accepting()
        # A socket that is bound but does not listen keeps the port and refuses. A unix socket's
        # file refuses by itself once nobody listens on it.
        listener = self._listener
        if self.path is None:
            self._listener = self._bind()
        listener.close()

    def accept(self) -> None:
        """Accept new connections, again after `refuse`."""
        if self._listener is None:
            raise RuntimeError("the proxy is not running")
        if self._is_accepting:
            return
        if self.path is not None and self._listener.fileno() < 0:
            os.unlink(self.path)
            self._listener = self._bind()
        self._listener.listen(_BACKLOG)
        self._is_accepting = True
        self._watch()

    # -- connections ----------------------------------------------------------------------------

    def _apply(self, name: Direction, toxics: Toxics, *, is_cut_new: bool) -> None:
        self._lanes[name].toxics = toxics
        if is_cut_new:
            for link in self._links:
                link.allow(name, toxics.cut_after)

    def _bind(self) -> socket.socket:
        if self.path is not None:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            return _bound(listener, self.path)
        listener = socket.socket(_family(self.host), socket.SOCK_STREAM)
        # Lets `refuse` bind the port before it gives up the listening socket.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return _bound(listener, (self.host, self.port))

    def _watch(self) -> None:
        assert self._listener is not None
        asyncio.get_running_loop().add_reader(self._listener, self._take_client)

    def _take_client(self) -> None:
        """Accept by callback: a task could be cancelled with a socket in its hands."""
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has left again
        except OSError:  # out of descriptors: the listener stays readable, so look away
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            self._retry = loop.call_later(_ACCEPT_PAUSE, self._watch)
            return
        _tune(client)
        seed = f"{self._seed}/{self.accepted}"
        link = Link(client, self._connect, self._lanes, seed, self._clock)
        self.accepted += 1
        self._links[link] = link.start(self._forget)

    def _forget(self, link: Link) -> None:
        self._links.pop(link, None)

    async def _connect(self) -> socket.socket:
        is_unix = isinstance(self._target, str)
        family = socket.AF_UNIX if is_unix else _family(self._target[0])
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, self._target)
        except BaseException:
            sock.close()
            raise
        _tune(sock)
        return sock

    def _stop_accepting(self) -> None:
        if self._is_accepting and self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._is_accepting = False


def _lanes_of(direction: str) -> tuple[Direction, ...]:
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be 'up', 'down' or 'both', got {direction!r}")
    return _DIRECTIONS[direction]


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bound(listener: socket.socket, address: str | tuple[str, int]) -> socket.socket:
    try:
        listener.setblocking(False)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def _tune(sock: socket.socket) -> None:
    """Pass small pieces on at once."""
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
