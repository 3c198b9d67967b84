"""The store's own dialect: commands and replies to and from bytes.

Sans-IO. Used by `server` and `client`; knows neither sockets nor the table.

A frame is a big-endian u32 length and a body of that many bytes: one msgpack array with everything
that was ready at one time, so that a burst costs one call of the packer, not one each.

* Client to server: ``[request, opcode, [arguments…]]``; the opcode and its arguments are those of
  `asyncrpc.store.commands`.
* Server to client: ``[request, result]``, a failure ``[request, kind, message, [keys…]]``, or an
  event of a watch ``[request, kind, key, value, version]``. Request 0 is the connection itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from asyncrpc.errors import (
    QueueEmptyError,
    RemoteProtocolError,
    StoreConnectionError,
    StoreError,
    StoreTimeoutError,
)
from asyncrpc.store.commands import (
    COMMANDS,
    OPCODES,
    Add,
    Append,
    Barrier,
    Cancel,
    Check,
    Command,
    CompareSet,
    DeleteKey,
    Get,
    GrantLease,
    ListKeys,
    MultiGet,
    MultiSet,
    NumKeys,
    Ping,
    QueueLen,
    QueuePop,
    QueuePush,
    QueueReturn,
    RenewLease,
    RevokeLease,
    Set,
    Snapshot,
    StoreEvent,
    Wait,
    Watch,
    make,
)

__all__ = (
    "CONNECTION",
    "FrameReader",
    "Packer",
    "Reply",
    "decode_reply",
    "decode_requests",
    "failure",
)

CONNECTION = 0
"""The request number of what concerns the connection as a whole."""

Reply = tuple[Any, ...]
"""``(request, result)``, ``(request, kind, message, keys)`` or ``(request, *StoreEvent)``."""

_LENGTH = struct.Struct(">I")
_pack_length, _unpack_length = _LENGTH.pack, _LENGTH.unpack_from
_FIRST_ROOM = 1 << 16
_KEPT_ROOM = 1 << 20  # a larger buffer is given back when the frame it was for is done
_MAX_ITEMS = 1 << 20  # of one array; what an empty nest of arrays can make us allocate

# What `unpackb` raises. It is a fresh unpacker each time: one that failed has been seen to crash
# when it was used again.
_NO_MSGPACK = (ValueError, TypeError, RecursionError, msgpack.UnpackException)

# The types of each command's fields; for those that are lists `_ITEMS` has more.
_SHAPES: dict[type[Command], tuple[type, ...]] = {
    Set: (str, bytes, int),
    Get: (str, float),
    Add: (str, int, int),
    CompareSet: (str, bytes, bytes, int),
    Wait: (list, float),
    Check: (list,),
    DeleteKey: (str,),
    NumKeys: (),
    Append: (str, bytes),
    MultiGet: (list, float),
    MultiSet: (list, list),
    ListKeys: (str,),
    QueuePush: (str, bytes),
    QueueReturn: (str, bytes),
    QueuePop: (str, bool, float),
    QueueLen: (str,),
    Barrier: (str, int, float, bytes),
    Snapshot: (str,),
    Watch: (str, int),
    Cancel: (int,),
    GrantLease: (int, float),
    RenewLease: (int,),
    RevokeLease: (int,),
    Ping: (),
}
# For each list, whether it holds nothing else; asked of the types of its items.
_ARE_STR = frozenset({str}).issuperset
_ARE_BYTES = frozenset({bytes}).issuperset
_ITEMS: dict[type[Command], tuple[Callable[[Iterable[type]], bool], ...]] = {
    Wait: (_ARE_STR,),
    Check: (_ARE_STR,),
    MultiGet: (_ARE_STR,),
    MultiSet: (_ARE_STR, _ARE_BYTES),
}
# By opcode and types of the arguments: one look-up, since it is done for every request.
_KNOWN = {
    (number, *_SHAPES[command]): (command, _ITEMS.get(command, ()))
    for number, command in enumerate(COMMANDS)
}

_FAILURES: tuple[type[StoreError], ...] = (
    StoreError,
    StoreTimeoutError,
    QueueEmptyError,
    StoreConnectionError,
)


class Packer:
    """Makes frames; one for each connection or loop, since it owns a buffer."""

    __slots__ = ("_pack",)

    def __init__(self) -> None:
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def request(self, number: int, command: Command) -> bytes:
        """Return the frame of one numbered command."""
        pack = self._pack
        body = pack(((number, OPCODES[type(command)], command),))
        return _pack_length(len(body)) + body

    def requests(self, batch: list[tuple[int, Command]]) -> bytes:
        """Return the frame of some numbered commands."""
        body = self._pack([(number, OPCODES[type(item)], item) for number, item in batch])
        return _pack_length(len(body)) + body

    def reply(self, reply: Reply) -> bytes:
        """Return the frame of one reply."""
        pack = self._pack
        body = pack((reply,))
        return _pack_length(len(body)) + body

    def replies(self, batch: list[Reply]) -> bytes:
        """Return the frame of some replies."""
        body = self._pack(batch)
        return _pack_length(len(body)) + body


class FrameReader:
    """Cuts a stream of bytes into frames and decodes them: to requests, or to replies.

    Args:
        max_frame: longest body, in bytes; not less than the room at first.

    A frame's length is believed only as far as its bytes have arrived: the buffer doubles.
    """

    __slots__ = ("_buffer", "_end", "_max_frame", "_start", "_view")

    def __init__(self, max_frame: int) -> None:
        assert max_frame >= _FIRST_ROOM
        self._max_frame = max_frame
        self._buffer = bytearray(_FIRST_ROOM)
        self._view = memoryview(self._buffer)
        self._start = 0  # of what is not decoded yet
        self._end = 0  # of what has arrived; both are 0 when nothing is left

    def get_buffer(self, size_hint: int = -1) -> memoryview:  # noqa: ARG002 -- loops give it
        """Return room for the next bytes, never empty."""
        if not self._end:
            return self._view
        if self._end == len(self._buffer) or self._start > _FIRST_ROOM // 2:
            self._make_room()
        return self._view[self._end :]

    def advance(self, count: int) -> list[Any]:
        """Take in ``count`` bytes at the front of that room.

        Returns:
            What the frames hold that are now complete: requests or replies, not checked yet.

        Raises:
            RemoteProtocolError: a length or a body is not of this dialect; use it no more.
        """
        if self._end or count <= 4 or _unpack_length(self._buffer)[0] != count - 4:
            return self._advance(count)
        # One whole frame: the rule, so it is decoded here, without a call.
        limit = count if count < _MAX_ITEMS else _MAX_ITEMS  # noqa: FURB136 -- min() is a call
        try:
            items = msgpack.unpackb(
                self._view[4:count], max_array_len=limit, max_map_len=0, max_ext_len=0
            )
        except _NO_MSGPACK as error:
            raise _no_array(repr(error)) from None
        if type(items) is not list:
            raise _no_array(type(items).__name__)
        return items

    def _advance(self, count: int) -> list[Any]:
        items: list[Any] = []
        start, end, view = self._start, self._end + count, self._view
        while end - start >= 4:
            length = _unpack_length(view, start)[0]
            if not 0 < length <= self._max_frame:
                raise RemoteProtocolError(
                    f"store frame of {length} bytes, expected 1 to {self._max_frame}"
                )
            stop = start + 4 + length
            if stop > end:
                break
            items += _unpack(view[start + 4 : stop])
            start = stop
        if start < end:
            self._start, self._end = start, end
        else:
            self._start = self._end = 0
            if len(self._buffer) > _KEPT_ROOM:
                self._make_room()
        return items

    def feed(self, data: bytes) -> list[Any]:
        """Take in bytes wherever they came from; see `advance`."""
        items = []
        rest = memoryview(data)
        while rest:
            room = self.get_buffer()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            items += self.advance(count)
            rest = rest[count:]
        return items

    def _make_room(self) -> None:
        kept = self._end - self._start
        size = _FIRST_ROOM
        while size < 2 * kept:
            size *= 2
        fresh = bytearray(size)
        fresh[:kept] = self._view[self._start : self._end]
        self._buffer, self._view = fresh, memoryview(fresh)
        self._start, self._end = 0, kept


def decode_requests(items: list[Any]) -> list[tuple[int, Command]]:
    """Return numbered commands; they are checked here.

    Raises:
        RemoteProtocolError: an item is no command of ours.
    """
    commands = []
    try:
        for number, opcode, arguments in items:
            command, inner = _KNOWN[opcode, *map(type, arguments)]
            if type(number) is not int or number <= CONNECTION:
                raise _wrong(number, opcode)
            if inner:
                for holds, values in zip(inner, arguments, strict=False):
                    if not holds(map(type, values)):
                        raise _wrong(number, opcode)
            commands.append((number, make(command, arguments)))
    except KeyError:
        raise _wrong(number, opcode) from None
    except (TypeError, ValueError) as error:
        raise RemoteProtocolError(f"store request is malformed: {error!r:.200}") from None
    return commands


def decode_reply(item: Any) -> StoreEvent | StoreError:
    """Return what a reply tells that is no ``[request, result]``.

    Raises:
        RemoteProtocolError: the item is no reply.
    """
    if type(item) is not list or type(item[0] if item else None) is not int:
        raise RemoteProtocolError("store reply is malformed: no request number")
    if len(item) == 4 and type(item[1]) is int and 0 <= item[1] < len(_FAILURES):
        if type(item[2]) is str and type(item[3]) is list:
            return _failure_error(*item[1:])
    elif len(item) == 5 and tuple(map(type, item)) == (int, str, str, bytes, int):
        return StoreEvent._make(item[1:])
    raise RemoteProtocolError(f"store reply to request {item[0]} is malformed")


def failure(request: int, error: StoreError) -> Reply:
    """Return the reply that tells a failure."""
    keys = list(error.keys) if isinstance(error, StoreTimeoutError) else []
    return (request, _FAILURES.index(type(error)), str(error), keys)


def _failure_error(kind: int, message: str, keys: list[Any]) -> StoreError:
    error_type = _FAILURES[kind]
    if error_type is StoreTimeoutError:
        return StoreTimeoutError(message, keys=tuple(keys))
    return error_type(message)


def _unpack(body: memoryview) -> list[Any]:
    limit = min(len(body), _MAX_ITEMS)
    try:
        items = msgpack.unpackb(body, max_array_len=limit, max_map_len=0, max_ext_len=0)
    except _NO_MSGPACK as error:
        raise _no_array(repr(error)) from None
    if type(items) is not list:
        raise _no_array(type(items).__name__)
    return items


def _no_array(found: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"store frame holds no msgpack array, but {found}"[:300])


def _wrong(number: object, opcode: object) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"store request {number!r:.40} has a wrong number, opcode {opcode!r:.40} or arguments"
    )
