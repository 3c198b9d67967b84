"""Memory that two processes of one host see: large buffers are copied in once and read in place.

An `Arena` is the sender's side of one direction of one link, a `Window` the receiver's. Neither
knows of messages: where a buffer lies is told over the stream, and so is its release.

Theory of operation. The memory is an anonymous file (memfd), which has no name that could be left
behind: it is gone with the last process that has it, however that ended, and it does not count
against the size of /dev/shm. The receiver opens it through the sender's /proc/<pid>/fd, which the
system allows to the same user only; a token in its first page proves that it is the one that was
meant, so that a peer in another container or namespace is found out and served over the stream.
The file is sealed against shrinking, so that no peer can make an access to it fail. Each direction
of each link has memory of its own: what a receiver does to it is seen by nobody else, and only
buffers lie in it, never what is parsed.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import stat
import sys
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from struct import Struct

from asyncrpc.transport.ranges import Ranges

__all__ = ("IS_POSSIBLE", "Arena", "Pool", "Window")

IS_POSSIBLE = sys.platform == "linux" and hasattr(os, "memfd_create")
"""Whether this system has what it takes."""

_OFFER = Struct("<QQQ16s")  # process, descriptor there, bytes, token
_PAGE = mmap.PAGESIZE
_BLOCK = 1 << 20  # bytes asked of and given back to the system at one go: some 0.5 ms
_MOST = 1 << 40  # bytes of address space that an offer may ask for
if IS_POSSIBLE:
    import fcntl

    _SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Pool:
    """How much memory the arenas of one agent may take from the system together.

    Args:
        size: bytes.
    """

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size


class Arena:
    """The sender's side: takes buffers in as long as there is room.

    Args:
        size: bytes for buffers; pages are taken from the system as they are first used, and stay
            until `shrink`.
        least: bytes from which a buffer belongs here.
        pool: of which the pages are part.

    Raises:
        OSError: the system gives no such memory.
    """

    __slots__ = (
        "_committed",
        "_fd",
        "_least",
        "_memory",
        "_pool",
        "_ranges",
        "_seen",
        "_size",
        "_token",
        "_view",
        "uses",
    )

    def __init__(self, size: int, least: int, pool: Pool) -> None:
        self._least = least
        self._pool = pool
        self._size = _PAGE + -(-size // _PAGE) * _PAGE  # the token has a page of its own
        self._token = os.urandom(16)
        self._fd = os.memfd_create("asyncrpc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self._fd, self._size)
            os.posix_fallocate(self._fd, 0, _PAGE)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
            self._memory = mmap.mmap(self._fd, self._size)
        except BaseException:
            os.close(self._fd)
            raise
        self._view = memoryview(self._memory)
        self._view[: len(self._token)] = self._token
        self._committed = bytearray(-(-self._size // _BLOCK))  # true: its pages are there
        self._ranges = Ranges(_PAGE, self._size, _PAGE)
        self._seen: set[int] = set()  # places that are the receiver's
        self.uses = 0
        """How many buffers have had a place here."""

    @property
    def offer(self) -> bytes:
        """What a `Window` on this memory needs to know."""
        return _OFFER.pack(os.getpid(), self._fd, self._size, self._token)

    @property
    def taken(self) -> int:
        """How many buffers have a place here."""
        return len(self._ranges)

    def take(self, size: int) -> int | None:
        """Return where a buffer may be put, ``None`` if it is small or there is no room."""
        if size < self._least:
            return None
        place = self._ranges.take(size)
        self.uses += place is not None
        return place

    def put(self, place: int, data: memoryview) -> bool:
        """Copy bytes to a place that was taken; false if the system has no memory for them.

        Pages are asked for here, since there is no error but a signal once they are written to.
        """
        end = place + data.nbytes
        for block in range(place // _BLOCK, (end - 1) // _BLOCK + 1):
            if not self._committed[block] and not self._commit(block):
                return False
        self._view[place:end] = data
        return True

    def _commit(self, block: int) -> bool:
        """Have the system give the pages of a block; false if it has none or enough were taken."""
        start = block * _BLOCK
        if self._pool.left < _BLOCK:
            return False
        try:
            os.posix_fallocate(self._fd, start, min(_BLOCK, self._size - start))
        except OSError:
            return False
        self._committed[block] = True
        self._pool.left -= _BLOCK
        return True

    def shrink(self) -> bool:
        """Give the pages of one block back, if no buffer has a place; true if there are more."""
        block = self._committed.rfind(True)
        if block < 1 or len(self._ranges):  # the token is in the first block
            return False
        start = block * _BLOCK
        try:
            self._memory.madvise(mmap.MADV_REMOVE, start, min(_BLOCK, self._size - start))
        except OSError:
            return False
        self._committed[block] = False
        self._pool.left += _BLOCK
        return True

    def hand_over(self, place: int) -> None:
        """Leave the buffer at a place to the receiver."""
        self._seen.add(place)

    def acknowledge(self, place: int) -> None:
        """Take a place back, which the receiver does not see any more.

        Raises:
            KeyError: it has none there.
        """
        self._seen.remove(place)
        self._ranges.free(place)

    def free(self, place: int) -> None:
        """Take a place back whose buffer was not handed over."""
        self._ranges.free(place)

    def close(self) -> None:
        """Give the memory back; the receiver keeps what it sees. Idempotent."""
        if self._fd >= 0:
            self._drop_unseen()
            self._view.release()
            self._memory.close()
            os.close(self._fd)
            self._fd = -1
            self._pool.left += self._committed.count(True) * _BLOCK

    def _drop_unseen(self) -> None:
        """Leave nothing but the buffers to a receiver who keeps some of them."""
        if not self._seen:
            return  # all of it goes
        with contextlib.suppress(OSError):
            for start, end in self._ranges.gaps():
                self._memory.madvise(mmap.MADV_REMOVE, start, end - start)


class Window:
    """The receiver's side: shows buffers, and learns when nobody here sees them any more.

    Args:
        offer: `Arena.offer`, as it came from the peer.
        released: called when `take_released` has something, maybe from another thread and in the
            middle of anything; once until then.

    Raises:
        ValueError: the offer makes no sense.
        OSError: the memory cannot be had from here, or is not what was offered.
    """

    __slots__ = ("_block", "_gone", "_is_told", "_memory", "_shown", "_size", "_tell")

    def __init__(self, offer: bytes, released: Callable[[], None]) -> None:
        if len(offer) != _OFFER.size:
            raise ValueError(f"offer of shared memory has {len(offer)} bytes")
        pid, fd, self._size, token = _OFFER.unpack(offer)
        if not _PAGE < self._size <= _MOST or self._size % _PAGE:
            raise ValueError(f"offer of {self._size} bytes of shared memory")
        self._memory = _map(f"/proc/{pid}/fd/{fd}", self._size, token)
        # All of the memory as a ctypes array, which can be watched as neither a memoryview nor the
        # mapping can: each buffer is a slice of one of its own, which lives as long as anything
        # that was made of the slice without a copy. Types of the buffers' sizes would pile up.
        self._block = ctypes.c_ubyte * self._size
        self._shown: dict[int, weakref.ref[ctypes.Array[ctypes.c_ubyte]]] = {}
        self._gone: deque[int] = deque()
        self._is_told = False
        self._tell = released

    def show(self, place: int, length: int) -> memoryview:
        """Return the buffer at a place: bytes that this side may read and write.

        Raises:
            ValueError: there is no such place, or what is there is still in use.
        """
        if not _PAGE <= place <= self._size - length or length < 1:
            raise ValueError(f"{length} bytes at {place} do not lie in {self._size} bytes")
        if place in self._shown:
            raise ValueError(f"the buffer at {place} has not been released")
        block = self._block.from_buffer(self._memory)
        self._shown[place] = weakref.ref(block, partial(self._release, place))
        return memoryview(block).cast("B")[place : place + length]

    def close(self) -> None:
        """Show nothing more; what was shown stays as long as somebody has it."""
        self._shown.clear()
        del self._memory

    def _release(self, place: int, _: object) -> None:
        self._gone.append(place)
        if not self._is_told:
            self._is_told = True
            self._tell()

    def take_released(self) -> list[int]:
        """Return the places that may be used again."""
        self._is_told = False  # first, so that what comes from now on is told again
        places = []
        while self._gone:
            place = self._gone.popleft()
            del self._shown[place]
            places.append(place)
        return places


def _map(path: str, size: int, token: bytes) -> mmap.mmap:
    """Map an arena of another process, once it is certain that it is one and the right one."""
    # looked at first: to open some other kind of file could have effects
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{path} is no memory")
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(fd)
        is_arena = (
            stat.S_ISREG(found.st_mode)
            and found.st_size == size
            and os.fstatvfs(fd).f_bsize == _PAGE  # huge pages could run out under us
            and fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
            and os.pread(fd, len(token), 0) == token
        )
        if not is_arena:
            raise OSError(f"{path} is not the memory that was offered")
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)
