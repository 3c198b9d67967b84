"""What `ChaosProxy` does to bytes: one proxied connection, a pipe for each direction.

Theory of operation: a pipe is two tasks and a bounded queue. The reader stamps each chunk with the
time it is due, so that latency delays bytes without slowing them down; the writer waits for that
time and for the gate, then sends in pieces no larger than the settings allow. A full queue stops
the reader, and with it, through the socket, whoever sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Literal, TypedDict

from asyncrpc.observe import Clock

__all__ = ("Direction", "Lane", "Link", "Toxics", "ToxicsChange")

Direction = Literal["up", "down"]
"""``up`` runs from the client to the target, ``down`` back."""

_CHUNK = 1 << 16
_QUEUED_CHUNKS = 16  # 1 MiB a direction at most; a constant memory bound per connection
_CONNECT_TIMEOUT = 5.0
_PACING = 0.01  # seconds of bandwidth sent at once: fine enough to look even, few timers
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for 0 s: close sends RST


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Toxics:
    """What happens to the bytes of one direction.

    Args:
        latency: seconds that every byte is delayed, >= 0.
        jitter: up to so many seconds more, drawn anew for every chunk; order is kept.
        bandwidth: bytes per second, > 0; ``None`` is unlimited.
        slice_size: largest piece passed on at once, in bytes, >= 1; ``None`` is unlimited.
        corrupt: probability of each byte to have one bit flipped, 0 to 1.
        cut_after: pass on that many more bytes of each connection, then end it; ``None`` is never.
        reset: whether such an end is a reset (RST) and not an orderly close.
        blackhole: whether bytes, and the end of the stream, are swallowed. In one direction
            alone it makes a half-open link.

    Raises:
        ValueError: a value is out of its range.
    """

    latency: float = 0.0
    jitter: float = 0.0
    bandwidth: float | None = None
    slice_size: int | None = None
    corrupt: float = 0.0
    cut_after: int | None = None
    reset: bool = False
    blackhole: bool = False

    def __post_init__(self) -> None:
        for field, is_right, rule in (
            ("latency", 0 <= self.latency < math.inf, "finite and >= 0"),
            ("jitter", 0 <= self.jitter < math.inf, "finite and >= 0"),
            ("bandwidth", self.bandwidth is None or self.bandwidth > 0, "> 0 or None"),
            ("slice_size", self.slice_size is None or self.slice_size >= 1, ">= 1 or None"),
            ("corrupt", 0 <= self.corrupt <= 1, "from 0 to 1"),
            ("cut_after", self.cut_after is None or self.cut_after >= 0, ">= 0 or None"),
        ):
            if not is_right:
                raise ValueError(f"{field} must be {rule}, got {getattr(self, field)!r}")


class ToxicsChange(TypedDict, total=False):
    """Some fields of `Toxics`."""

    latency: float
    jitter: float
    bandwidth: float | None
    slice_size: int | None
    corrupt: float
    cut_after: int | None
    reset: bool
    blackhole: bool


class Lane:
    """One direction of a proxy: the settings its pipes share, and what went through."""

    def __init__(self) -> None:
        self.toxics = Toxics()
        self.gate = asyncio.Event()  # clear while paused
        self.gate.set()
        self.forwarded = 0
        self.corrupted = 0


class _CutError(Exception):
    """A pipe has passed on all it may."""


class _Pipe:
    """One direction of one connection."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        lane: Lane,
        seed: str,
        clock: Clock,
    ) -> None:
        self._source = source
        self._sink = sink
        self._lane = lane
        # Apart, so that the damage does not depend on how many chunks drew their jitter.
        self._jitter_rng = random.Random(f"{seed}/jitter")  # noqa: S311 -- repeatable on purpose
        self._corrupt_rng = random.Random(f"{seed}/corrupt")  # noqa: S311 -- repeatable on purpose
        self._clock = clock
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_CHUNKS)
        self._is_closed = False  # half_close was called: the sink has seen the end
        self._free_at = 0.0  # when the bandwidth has room for the next piece
        self._corrupt = 0.0  # the probability that _gap was drawn for
        self._gap = 0  # bytes until the next one to corrupt, so that chunking does not matter
        self.allowance = lane.toxics.cut_after
        """Bytes that may still pass; ``None`` is any number."""

    async def read(self) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        data = b"-"
        while data:
            try:
                data = await loop.sock_recv(self._source, _CHUNK)
            except OSError:
                if not self._lane.toxics.blackhole:
                    raise
                data = b""  # swallowed like an orderly end
            toxics = self._lane.toxics
            delay = toxics.latency + self._jitter_rng.uniform(0, toxics.jitter)
            due = max(due, self._clock.time() + delay)
            await self._queue.put((due, data))

    async def write(self) -> None:
        while True:
            due, data = await self._queue.get()
            await self._wait_until(due)
            await self._lane.gate.wait()
            if self._is_closed or self._lane.toxics.blackhole:
                if data:
                    continue
                return
            if not data:
                self.half_close()
                return
            await self._send(memoryview(self._corrupted(data)))

    def half_close(self) -> None:
        """End the stream for the sink; what the source still sends is swallowed."""
        self._is_closed = True
        with contextlib.suppress(OSError):  # it may be gone altogether
            self._sink.shutdown(socket.SHUT_WR)

    async def _send(self, data: memoryview) -> None:
        loop = asyncio.get_running_loop()
        while data:
            await self._lane.gate.wait()
            if self._is_closed or self._lane.toxics.blackhole:
                return
            size = self._piece(len(data))
            if size:
                try:
                    await loop.sock_sendall(self._sink, data[:size])
                except OSError:
                    if self._is_closed:
                        return
                    raise
                data = data[size:]
                self._lane.forwarded += size
            if self._spend(size):
                raise _CutError
            await self._pace(size)

    def _piece(self, size: int) -> int:
        toxics = self._lane.toxics
        if toxics.slice_size is not None:
            size = min(size, toxics.slice_size)
        if toxics.bandwidth is not None:
            size = min(size, max(1, int(toxics.bandwidth * _PACING)))
        if self.allowance is not None:
            size = min(size, self.allowance)
        return size

    def _spend(self, size: int) -> bool:
        """Take ``size`` from the allowance; return whether it is used up."""
        if self.allowance is None:
            return False
        self.allowance = max(0, self.allowance - size)
        return self.allowance == 0

    async def _pace(self, size: int) -> None:
        bandwidth = self._lane.toxics.bandwidth
        if bandwidth is not None:
            self._free_at = max(self._free_at, self._clock.time()) + size / bandwidth
            await self._wait_until(self._free_at)
        elif self._lane.toxics.slice_size is not None:
            await asyncio.sleep(0)  # gives the receiver a chance to see the piece by itself

    async def _wait_until(self, when: float) -> None:
        wait = when - self._clock.time()
        if wait > 0:
            await self._clock.sleep(wait)

    def _corrupted(self, data: bytes) -> bytes | bytearray:
        probability = self._lane.toxics.corrupt
        if probability != self._corrupt:
            self._corrupt = probability
            self._gap = self._draw_gap()
        if not probability:
            return data
        changed = bytearray(data)
        while self._gap < len(changed):
            changed[self._gap] ^= 1 << self._corrupt_rng.randrange(8)
            self._lane.corrupted += 1
            self._gap += 1 + self._draw_gap()
        self._gap -= len(changed)
        return changed

    def _draw_gap(self) -> int:
        """Return how many bytes stay whole before the next corrupt one (geometric)."""
        if not 0 < self._corrupt < 1:
            return 0
        return int(math.log(1 - self._corrupt_rng.random()) / math.log1p(-self._corrupt))


class Link:
    """One proxied connection, from its accepted socket to its end.

    Args:
        client: the accepted socket, non-blocking; owned and closed by the link.
        connect: opens the socket to the target.
        lanes: the proxy's directions.
        seed: makes the randomness of this connection its own.
        clock: measures delays.
    """

    def __init__(
        self,
        client: socket.socket,
        connect: Callable[[], Awaitable[socket.socket]],
        lanes: dict[Direction, Lane],
        seed: str,
        clock: Clock,
    ) -> None:
        self._sockets = [client]
        self._connect = connect
        self._lanes = lanes
        self._seed = seed
        self._clock = clock
        self._ends_with_reset = False
        self._task: asyncio.Task[None] | None = None
        self._pipes: dict[Direction, _Pipe] = {}

    def start(self, forget: Callable[[Link], None]) -> asyncio.Task[None]:
        """Run in a task of its own; ``forget`` is called with the link when it has ended."""

        def end(_: asyncio.Task[None]) -> None:
            self._close()
            forget(self)

        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(end)  # also when it was cancelled before its first step
        return self._task

    def disconnect(self, *, reset: bool) -> None:
        """End both sides from the next turn of the loop on."""
        self._ends_with_reset = reset
        if self._task is not None:
            self._task.cancel()

    def half_close(self, direction: Direction) -> None:
        """End one direction, if the connection is established."""
        if direction in self._pipes:
            self._pipes[direction].half_close()

    def allow(self, direction: Direction, count: int | None) -> None:
        """Let that many more bytes pass."""
        if direction in self._pipes:
            self._pipes[direction].allowance = count

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                self._sockets.append(await self._connect())
            async with asyncio.TaskGroup() as group:
                for direction in self._lanes:
                    pipe = self._pipes[direction] = self._make_pipe(direction)
                    group.create_task(pipe.read())
                    group.create_task(pipe.write())
        except* _CutError:
            self._ends_with_reset = any(lane.toxics.reset for lane in self._lanes.values())
        except* OSError:  # a side was reset, or the target does not answer: so is the other
            self._ends_with_reset = True

    def _make_pipe(self, direction: Direction) -> _Pipe:
        client, target = self._sockets
        source, sink = (client, target) if direction == "up" else (target, client)
        return _Pipe(source, sink, self._lanes[direction], f"{self._seed}/{direction}", self._clock)

    def _close(self) -> None:
        for sock in self._sockets:
            if self._ends_with_reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            sock.close()
