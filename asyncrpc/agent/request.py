"""One request or control message that may have to wait, or to be sent again.

Made by the agent when a call cannot go straight to its connection: the peer is not connected, has
too many calls in flight, the message is large, or it may be sent again. Values only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from asyncrpc.wire import (
    BUFFERS,
    CHUNK_SIZE,
    HEADER,
    REFERENCES,
    Enclosure,
    HeaderMap,
    Transfer,
    encode_frame,
)

__all__ = ("Request",)


class Request:
    """A message before its connection is known.

    Attributes:
        kind: a `MessageType` as a plain int.
        call_id: id of the call, unique for the sender.
        function: the sender's id of the function, 0 for none.
        flags: frame flags.
        depth: how many served calls lie below the sender.
        deadline: when the call is over on the sender's clock, 0 for never.
        body: encoded body, `bytes` unless the message is large.
        buffers: out-of-band buffers, unchanged until sent.
        meta: encoded header map, empty for none.
        enclosed: what remote references became in it.
    """

    __slots__ = (
        "body",
        "buffers",
        "call_id",
        "deadline",
        "depth",
        "enclosed",
        "flags",
        "function",
        "kind",
        "meta",
    )

    def __init__(
        self,
        kind: int,
        call_id: int,
        body: bytes,
        buffers: Sequence[Any] = (),
        *,
        function: int = 0,
        flags: int = 0,
        depth: int = 0,
        deadline: float = 0.0,
        meta: bytes = b"",
    ) -> None:
        self.kind = kind
        self.call_id = call_id
        self.function = function
        self.flags = flags
        self.depth = depth
        self.deadline = deadline
        self.body = body
        self.enclosed: Sequence[Any] = ()
        if isinstance(buffers, Enclosure):
            self.enclosed = buffers.enclosed
            self.flags |= REFERENCES
            buffers = tuple(buffers)
        self.buffers = buffers
        self.meta = meta

    @classmethod
    def take_back(cls, message: bytes | Transfer) -> Request:
        """Make a request again of a message that never left completely."""
        if isinstance(message, Transfer):
            header = message.header
            sections: Sequence[bytes | memoryview] = message.sections
        else:
            at = HEADER.size + HEADER.unpack_from(message)[6]
            header, sections = message, (message[HEADER.size : at], message[at:])
        meta, *content = sections
        _, kind, flags, depth, call_id, function, _, _ = HEADER.unpack_from(header)
        is_whole = isinstance(message, Transfer) or not flags & BUFFERS
        return (cls if is_whole else _Raw)(
            kind, call_id, cast("bytes", content[0]), content[1:],
            function=function, flags=flags, depth=depth, meta=bytes(meta),
        )  # fmt: skip

    def replace(self, old: bytes, new: bytes) -> None:
        """Put one piece of content in the place of another, of the same length and unique."""
        self.body = self.body.replace(old, new)
        # what was pickled may be out of band, as bytes; arrays hold none of it
        self.buffers = [
            memoryview(given.replace(old, new)) if type(given) is bytes and old in given else buffer
            for buffer in self.buffers
            for given in (memoryview(buffer).obj,)
        ]

    def count_attempt(self, attempt: int) -> None:
        """Say in the header map how many sends before the next one may have reached the callee."""
        headers = HeaderMap.decode(memoryview(self.meta)) if self.meta else HeaderMap()
        self.meta = dataclasses.replace(headers, attempt=attempt).encode()

    @property
    def size(self) -> int:
        """Bytes of body and buffers."""
        return len(self.meta) + len(self.body) + sum([memoryview(b).nbytes for b in self.buffers])

    def frame(self, now: float) -> bytes | Transfer:
        """Return the frame, or the transfer if it is too large for one."""
        remaining = max(self.deadline - now, 1e-6) if self.deadline else 0.0
        if self.size < CHUNK_SIZE:
            return encode_frame(
                self.kind,
                self.call_id,
                self.body,
                flags=self.flags,
                depth=self.depth,
                function=self.function,
                remaining=remaining,
                meta=self.meta,
                buffers=self.buffers,
            )
        header = HEADER.pack(
            0, self.kind, self.flags, self.depth, self.call_id, self.function, 0, remaining
        )
        return Transfer(header, (self.meta, self.body, *self.buffers), call=self.call_id)


class _Raw(Request):
    """A small frame taken back whole: its buffers are still in its body."""

    __slots__ = ()

    def frame(self, now: float) -> bytes:
        remaining = max(self.deadline - now, 1e-6) if self.deadline else 0.0
        header = HEADER.pack(
            len(self.meta) + len(self.body), self.kind, self.flags, self.depth, self.call_id,
            self.function, len(self.meta), remaining,
        )  # fmt: skip
        return header + self.meta + self.body
