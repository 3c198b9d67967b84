"""torch's dialect of a store: requests of its TCPStore from bytes, replies to bytes.

Sans-IO. Used by `torch_server`; knows neither sockets nor the table.

All numbers are little-endian. A request is one byte, the opcode, and arguments of fixed kinds: a
text is a u64 length and that many bytes, a list a u64 count and its items. Nothing says how long a
request is as a whole and nothing numbers it: replies come in the order of the requests, but for
those to waits. A connection begins with VALIDATE, which has no reply.

Source: the libuv backend of torch 2.13, by observation of its behaviour on the wire.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

from asyncrpc.errors import RemoteProtocolError
from asyncrpc.store.commands import (
    NO_LEASE,
    Add,
    Append,
    Barrier,
    Check,
    Command,
    CompareSet,
    DeleteKey,
    Get,
    ListKeys,
    MultiGet,
    MultiSet,
    NumKeys,
    QueueLen,
    QueuePop,
    QueuePush,
    Set,
    Wait,
)

__all__ = (
    "MAX_KEYS",
    "MAX_KEY_SIZE",
    "MAX_VALUE_SIZE",
    "CancelWait",
    "Echo",
    "Request",
    "RequestReader",
    "encode_reply",
)

MAX_KEY_SIZE = 8192  # bytes; this and the next two are the limits of torch's own server
MAX_VALUE_SIZE = 8 << 20  # bytes
MAX_KEYS = 1 << 17  # of one request

_MAGIC = 0x3C85F7CE
_VALIDATE = 0
_BYTE = struct.Struct("<B")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")
_NO_TOKEN = b""


class CancelWait(NamedTuple):
    """Withdraw what this connection waits for."""


class Echo(NamedTuple):
    """PING: give the nonce back."""

    nonce: bytes


Request = Command | CancelWait | Echo
"""What a connection can ask for. The time-outs in it are 0 (GET and the like answer with nothing
for a key that is not there) or infinity (the client keeps the deadline of a wait, and cancels)."""

_Fields = Generator[int, bytes, Any]
"""A parser that yields how many bytes it wants next, is sent them, and returns what they mean."""


class RequestReader:
    """Cuts a stream of bytes into requests.

    A length is believed only as far as its bytes have arrived, and refused as soon as it is read.
    """

    __slots__ = ("_buffer", "_complete", "_parser", "_wanted", "is_validated")

    def __init__(self) -> None:
        self.is_validated = False
        """Whether the connection has begun as it must."""
        self._buffer = bytearray()
        self._complete: Request | None = None  # not handed out yet
        self._parser = self._parse()
        self._wanted = next(self._parser)

    def feed(self, data: bytes | memoryview) -> Iterator[Request]:
        """Take in bytes; yield the requests now complete.

        Raises:
            RemoteProtocolError: what follows them is not of this dialect; use the reader no more.
        """
        self._buffer += data
        start = 0
        with memoryview(self._buffer) as view:
            while len(view) - start >= self._wanted:
                piece = bytes(view[start : start + self._wanted])
                start += self._wanted
                self._wanted = self._parser.send(piece)
                if self._complete is not None:
                    yield self._complete
                    self._complete = None
        del self._buffer[:start]

    def _parse(self) -> Generator[int, bytes, None]:
        if (yield 1)[0] != _VALIDATE or _U32.unpack((yield 4))[0] != _MAGIC:
            raise RemoteProtocolError("a store connection began with something else than torch's")
        self.is_validated = True
        while True:
            opcode = (yield 1)[0]
            if opcode not in _REQUESTS:
                raise RemoteProtocolError(f"store request with the unknown opcode {opcode}")
            make, fields = _REQUESTS[opcode]
            arguments = []
            for read in fields:
                arguments.append((yield from read()))  # noqa: PERF401 -- a comprehension cannot
            self._complete = make(*arguments)


def encode_reply(request: Request, result: Any) -> bytes:
    """Return the bytes that answer a request; none for what is not answered.

    Args:
        request: what was asked for.
        result: of `Table.apply`; for a `QueuePop` the number of values before it, and the value.
    """
    return _REPLIES[type(request)](result)


def _text(limit: int) -> _Fields:
    size = _U64.unpack((yield 8))[0]
    if size > limit:
        raise RemoteProtocolError(f"store request holds a text of {size} bytes, at most {limit}")
    return (yield size) if size else b""


def _key() -> _Fields:
    # Keys are bytes to torch; what is no UTF-8 comes back as it was.
    return (yield from _text(MAX_KEY_SIZE)).decode(errors="surrogateescape")


def _value() -> _Fields:
    return (yield from _text(MAX_VALUE_SIZE))


def _integer() -> _Fields:
    return _I64.unpack((yield 8))[0]


def _count() -> _Fields:
    count = _U64.unpack((yield 8))[0]
    if count > MAX_KEYS:
        raise RemoteProtocolError(f"store request names {count} keys, at most {MAX_KEYS}")
    return count


def _keys() -> _Fields:
    keys = []
    for _ in range((yield from _count())):
        keys.append((yield from _key()))  # noqa: PERF401 -- a comprehension cannot yield
    return keys


def _pairs() -> _Fields:
    keys, values = [], []
    for _ in range((yield from _count())):
        keys.append((yield from _key()))
        values.append((yield from _value()))
    return keys, values


def _nonce() -> _Fields:
    return (yield 4)


# By opcode: what a request becomes, and what its arguments are.
_REQUESTS: dict[int, tuple[Callable[..., Request], tuple[Callable[[], _Fields], ...]]] = {
    1: (lambda key, value: Set(key, value, NO_LEASE), (_key, _value)),
    2: (lambda key, old, new: CompareSet(key, old, new, NO_LEASE), (_key, _value, _value)),
    3: (lambda key: Get(key, 0.0), (_key,)),
    4: (lambda key, amount: Add(key, amount, NO_LEASE), (_key, _integer)),
    5: (Check, (_keys,)),
    6: (lambda keys: Wait(keys, math.inf), (_keys,)),
    7: (NumKeys, ()),
    8: (DeleteKey, (_key,)),
    9: (Append, (_key, _value)),
    10: (lambda keys: MultiGet(keys, 0.0), (_keys,)),
    11: (lambda pairs: MultiSet(*pairs), (_pairs,)),
    12: (CancelWait, ()),
    13: (Echo, (_nonce,)),
    14: (QueuePush, (_key, _value)),
    15: (lambda key: QueuePop(key, block=False, timeout=0.0), (_key,)),
    16: (QueueLen, (_key,)),
    17: (lambda: ListKeys(""), ()),
    18: (lambda key, size: Barrier(key, size, math.inf, _NO_TOKEN), (_key, _integer)),
}


def _nothing(_result: object) -> bytes:
    return b""


def _sized(text: bytes) -> bytes:
    return _U64.pack(len(text)) + text


def _all_sized(texts: list[bytes]) -> bytes:
    return b"".join(map(_sized, texts))


def _keys_sized(keys: list[str]) -> bytes:
    names = [key.encode(errors="surrogateescape") for key in keys]
    return _I64.pack(len(names)) + _all_sized(names)


def _popped(result: tuple[int, bytes]) -> bytes:
    size, value = result
    return _I64.pack(size) + (_sized(value) if size else b"")


_REPLIES: dict[type[Request], Callable[[Any], bytes]] = {
    Set: _nothing,
    CompareSet: _sized,
    Get: _sized,
    Add: _I64.pack,
    Check: lambda is_there: _BYTE.pack(not is_there),
    Wait: lambda _: b"\0",
    NumKeys: _I64.pack,
    DeleteKey: _I64.pack,
    Append: _nothing,
    MultiGet: _all_sized,
    MultiSet: _nothing,
    CancelWait: lambda _: b"\1",
    Echo: bytes,
    QueuePush: _nothing,
    QueuePop: _popped,
    QueueLen: _I64.pack,
    ListKeys: _keys_sized,
    Barrier: lambda _: b"\0",
}
