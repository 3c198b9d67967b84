"""What a callee remembers of the calls that one caller may send again.

Pure: takes call ids, replies and ``now``. A caller numbers its calls in the order in which it makes
them, so ids that are remembered no longer are told apart from new ones by a watermark.

Theory of operation. A call that has ended is *kept* with its reply, until the caller acknowledges
that, or until there are too many, they are too large, or it is too old. Its id is *past* then: a
copy of its request is dropped, and a request that its caller sends again because an earlier send
may have come through is *forgotten*: it may have run, so it must not run now. Past ids are bounded
too: those below the watermark are no longer known one by one. A first send below it is new all the
same, since its caller says that nothing was sent before; a repeated one is forgotten. A repeated
send above it that is neither kept nor past has never been here, so it runs.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ("Memory", "ReplyWindow")

T = TypeVar("T")


class Memory(enum.Enum):
    """What is known of a call whose reply is not kept."""

    NEW = "new"
    """It has not run."""
    ENDED = "ended"
    """It has ended, and nobody waits for its reply."""
    FORGOTTEN = "forgotten"
    """It may have run, and what it replied is not known any more."""


class ReplyWindow(Generic[T]):
    """The ended calls of one caller.

    Args:
        max_replies: replies kept at once.
        max_size: bytes of them; the newest one is kept whatever its size.
        max_age: seconds that one is kept.
        max_past: ids remembered of those whose reply is not kept.
    """

    __slots__ = (
        "_kept",
        "_max_age",
        "_max_past",
        "_max_replies",
        "_max_size",
        "_past",
        "_size",
        "_watermark",
    )

    def __init__(
        self,
        *,
        max_replies: int = 4096,
        max_size: int = 64 << 20,
        max_age: float = 300.0,
        max_past: int = 16_384,
    ) -> None:
        self._max_replies = max_replies
        self._max_size = max_size
        self._max_age = max_age
        self._max_past = max_past
        self._kept: OrderedDict[int, _Kept[T]] = OrderedDict()  # in the order in which they ended
        self._past: OrderedDict[int, None] = OrderedDict()  # in the order in which they got there
        self._size = 0  # sum over _kept
        self._watermark = 0  # ids above it that are neither kept nor past have never been here

    def __len__(self) -> int:
        return len(self._kept)

    def look(self, ident: int, *, is_repeated: bool, now: float) -> T | Memory:
        """Return the reply to a request, or what to think of it.

        Args:
            ident: id of the call.
            is_repeated: whether its caller says that an earlier send may have come through.
            now: the time in seconds.
        """
        self._expire(now)
        kept = self._kept.get(ident)
        if kept is not None:
            return Memory.ENDED if kept.reply is None else kept.reply
        if ident in self._past or (is_repeated and ident <= self._watermark):
            return Memory.FORGOTTEN if is_repeated else Memory.ENDED
        return Memory.NEW

    def end(self, ident: int, now: float) -> None:
        """Note that a call has ended; there is no reply yet, and may be none."""
        self._kept[ident] = _Kept(now)
        self._expire(now)

    def keep(self, ident: int, reply: T, size: int) -> None:
        """Keep the reply of a call that has ended, unless that is forgotten already.

        Args:
            ident: id of the call.
            reply: what `look` is to return.
            size: bytes that it takes.
        """
        kept = self._kept.get(ident)
        if kept is not None:
            self._size += size - kept.size
            kept.reply, kept.size = reply, size
            while self._size > self._max_size and len(self._kept) > 1:
                self.acknowledge(next(iter(self._kept)))

    def acknowledge(self, ident: int) -> bool:
        """Drop a reply; false if there is none."""
        kept = self._kept.pop(ident, None)
        if kept is None:
            return False
        self._size -= kept.size
        self._past[ident] = None
        if len(self._past) > self._max_past:
            oldest, _ = self._past.popitem(last=False)
            self._watermark = max(self._watermark, oldest)
        return True

    def _expire(self, now: float) -> None:
        while self._kept:
            ident, oldest = next(iter(self._kept.items()))
            if len(self._kept) <= self._max_replies and now < oldest.since + self._max_age:
                return
            self.acknowledge(ident)


class _Kept(Generic[T]):
    __slots__ = ("reply", "since", "size")

    def __init__(self, since: float) -> None:
        self.since = since  # when it ended
        self.reply: T | None = None  # None: there is none yet, or nobody waits for it
        self.size = 0
