"""Requests that wait until their sender has read what waits for it.

Made by a `Connection` when a peer does not read as fast as it calls. Its requests are then kept
here instead of served, so that they cannot make still more replies, while its replies and control
messages are handled as ever: two workers that flood each other both go on reading, and neither
waits for the other. Who keeps to the limit of calls in flight never has more than that many
waiting here; who goes on beyond it breaks the protocol and loses the link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from asyncrpc.errors import RemoteProtocolError
from asyncrpc.wire import CALLS, CHUNK_SIZE, Frame, MessageType

if TYPE_CHECKING:
    from asyncrpc.options import Limits
    from asyncrpc.transport import Stream

__all__ = ("SLICE", "Backlog", "is_unread")

MAX_UNREAD = 16 << 20
"""Bytes of small frames that may wait for a peer before no more of its requests are served: what a
fast link takes within 20 ms, so that nobody who reads ever waits for it. What the calls that run
by then return comes on top."""
SLICE = 64
"""Frames handled, or waiting, before it is worth a look: even the largest are `MAX_UNREAD`."""

_MAX_ANSWERS = 65_536  # to control messages; honest peers send a few per call and second
_PING = int(MessageType.PING)
_LEAST = 1e-6  # seconds; 0 would mean no deadline


def is_unread(stream: Stream, transfers: int, limits: Limits) -> bool:
    """Whether so much waits for the peer that it should get no more for now.

    Args:
        stream: where small frames wait.
        transfers: how many large messages wait; calls and replies within the limit may.
        limits: of the agent.
    """
    if stream.is_writable:
        return False
    batch = stream.batch
    is_long = len(batch) > SLICE and sum(map(len, batch)) > MAX_UNREAD
    return is_long or transfers > 2 * limits.max_inflight + SLICE


class Backlog:
    """What one peer asked for while it did not read.

    Args:
        name: of the peer, for the error.
        limits: of the agent.
        now: the agent's clock, in seconds.
    """

    def __init__(self, name: str, limits: Limits, now: Callable[[], float]) -> None:
        self._name = name
        self._limits = limits
        self._now = now
        self._frames: dict[tuple[bool, int], tuple[Frame, float]] = {}  # with when they came
        self._plain = 0  # how many of them are calls that hold a place in flight
        self._answers = 0

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: Frame) -> None:
        """Keep a request, or a PING whose answer says that all before it has arrived.

        Raises:
            RemoteProtocolError: the peer does not read and keeps to no limit either.
        """
        key = (frame[0] == _PING, frame[3])
        if key in self._frames:
            return  # a copy
        self._plain += _is_plain(frame)
        most = self._limits.max_inflight
        if self._plain > most:
            raise self._unread(f"more than max_inflight, {most}, calls")
        if len(self._frames) >= most + self._limits.max_queued:
            raise self._unread(f"{len(self._frames)} requests")
        self._frames[key] = (_kept(frame), self._now())

    def cancel(self, ident: int) -> None:
        """Drop a call that was cancelled; it holds no place any more."""
        dropped = self._frames.pop((False, ident), None)
        if dropped is not None:
            self._plain -= _is_plain(dropped[0])

    def count_answer(self) -> None:
        """Note an answer to a control message.

        Raises:
            RemoteProtocolError: there are more than a peer can have a use for.
        """
        self._answers += 1
        if self._answers > _MAX_ANSWERS + self._limits.max_inflight:
            raise self._unread(f"{self._answers} control messages")

    def slices(self) -> Iterator[list[Frame]]:
        """Give what waits, in order, the time it waited taken off its deadlines."""
        now = self._now()
        frames = [_aged(frame, now - since) for frame, since in self._frames.values()]
        for at in range(0, len(frames), SLICE):
            yield frames[at : at + SLICE]

    def _unread(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"{self._name} sent {what} while it did not read {MAX_UNREAD} bytes that wait for it"
        )


def _is_plain(frame: Frame) -> bool:
    return frame[0] in CALLS and not frame[2]


def _kept(frame: Frame) -> Frame:
    """Return a frame that does not use the memory of the read it came in."""
    meta, body = frame[6], frame[7]
    if meta is not None:
        meta = memoryview(bytearray(meta))
    if len(body) < CHUNK_SIZE:
        body = memoryview(bytearray(body))
    return (*frame[:6], meta, body, frame[8])


def _aged(frame: Frame, seconds: float) -> Frame:
    left = max(frame[5] - seconds, _LEAST) if frame[5] else 0.0
    return (*frame[:5], left, *frame[6:])
