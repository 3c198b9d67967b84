"""`NoticeServer`: tells workers that their node has to go, and waits until they are ready.

One for each agent. A worker that wants to know connects; it is ready when it says so, or ends.
Called by the agent.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a worker that imports `on_preempt` needs no event loop
    import asyncio

__all__ = ("NoticeServer",)

_MAX_WORKERS = 10_000  # connections at once; beyond that, processes connect in a loop


class NoticeServer:
    """Serves the workers of one node, from its making until `close`.

    Args:
        path: where the socket is made; only this user is served.
        loop: the running event loop.

    Raises:
        OSError: the socket cannot be made; names it.
    """

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.path = path
        self._loop = loop
        self._deadline: float | None = None  # loop time; None until the notice
        self._peers: set[socket.socket] = set()
        self._busy: set[socket.socket] = set()  # of the peers, those that are not ready
        self._waiter: asyncio.Future[None] | None = None  # until nobody is busy
        self._listening = _listen(path)
        loop.add_reader(self._listening, self._accept)

    @property
    def count(self) -> int:
        """How many processes want to know."""
        return len(self._peers)

    async def give(self, seconds: float) -> int:
        """Give the notice, once, and wait until all are ready, or the time is up.

        Args:
            seconds: that they have, from 0.

        Returns:
            How many are not ready.
        """
        self._deadline = self._loop.time() + seconds
        for peer in tuple(self._peers):
            self._tell(peer)
        if self._busy:
            self._waiter = self._loop.create_future()
            timer = self._loop.call_at(self._deadline, self._stop_waiting)
            try:
                await self._waiter
            finally:
                timer.cancel()
        return len(self._busy)

    def close(self) -> None:
        """Stop serving and remove the socket; harmless when repeated."""
        if self._listening.fileno() < 0:
            return
        self._loop.remove_reader(self._listening)
        self._listening.close()
        for peer in tuple(self._peers):
            self._drop(peer)
        with suppress(FileNotFoundError):
            os.unlink(self.path)

    def _accept(self) -> None:
        try:
            peer, _ = self._listening.accept()
        except OSError:
            return  # it gave up
        if not _is_ours(peer) or len(self._peers) >= _MAX_WORKERS:
            peer.close()
            return
        peer.setblocking(False)
        self._peers.add(peer)
        self._busy.add(peer)
        self._loop.add_reader(peer, self._read, peer)
        if self._deadline is not None:
            self._tell(peer)

    def _tell(self, peer: socket.socket) -> None:
        assert self._deadline is not None
        left = max(0.0, self._deadline - self._loop.time())
        try:
            peer.send(f"{left:.3f}\n".encode())  # the only thing ever sent: there is room for it
        except OSError:
            self._drop(peer)

    def _read(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(1 << 12)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
        elif self._deadline is not None:
            self._ready(peer)

    def _drop(self, peer: socket.socket) -> None:
        self._loop.remove_reader(peer)
        peer.close()
        self._peers.discard(peer)
        self._ready(peer)

    def _ready(self, peer: socket.socket) -> None:
        self._busy.discard(peer)
        if not self._busy:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _listen(path: str) -> socket.socket:
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX)
    try:
        # Through the folder: the whole path may be longer than an address of a socket.
        listening.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        listening.listen(socket.SOMAXCONN)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(folder)
    listening.setblocking(False)
    return listening


def _is_ours(peer: socket.socket) -> bool:
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.geteuid())
