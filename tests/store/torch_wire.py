"""torch's dialect as the tests of it speak it: requests packed by hand, from its description."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from types import TracebackType
from typing import Self

VALIDATE = b"\0" + struct.pack("<I", 0x3C85F7CE)
CANCEL_WAIT = b"\x0c"
NUM_KEYS = b"\x07"
LIST_KEYS = b"\x11"

GO_ON = b"\0"  # STOP_WAITING, and READY
CANCELED = b"\1"  # and NOT_READY


def text(data: bytes) -> bytes:
    """Return a text: its length and itself."""
    return struct.pack("<Q", len(data)) + data


def number(value: int) -> bytes:
    """Return a number as replies hold it."""
    return struct.pack("<q", value)


def texts(*items: bytes) -> bytes:
    """Return a list of texts."""
    return struct.pack("<Q", len(items)) + b"".join(map(text, items))


def set_(key: bytes, value: bytes) -> bytes:
    """SET."""
    return b"\x01" + text(key) + text(value)


def compare_set(key: bytes, expected: bytes, desired: bytes) -> bytes:
    """COMPARE_SET."""
    return b"\x02" + text(key) + text(expected) + text(desired)


def get(key: bytes) -> bytes:
    """GET."""
    return b"\x03" + text(key)


def add(key: bytes, amount: int) -> bytes:
    """ADD."""
    return b"\x04" + text(key) + number(amount)


def check(*keys: bytes) -> bytes:
    """CHECK."""
    return b"\x05" + texts(*keys)


def wait(*keys: bytes) -> bytes:
    """WAIT."""
    return b"\x06" + texts(*keys)


def delete_key(key: bytes) -> bytes:
    """DELETE_KEY."""
    return b"\x08" + text(key)


def append(key: bytes, value: bytes) -> bytes:
    """APPEND."""
    return b"\x09" + text(key) + text(value)


def multi_get(*keys: bytes) -> bytes:
    """MULTI_GET."""
    return b"\x0a" + texts(*keys)


def multi_set(*pairs: tuple[bytes, bytes]) -> bytes:
    """MULTI_SET."""
    packed = b"".join(text(key) + text(value) for key, value in pairs)
    return b"\x0b" + struct.pack("<Q", len(pairs)) + packed


def ping(nonce: int) -> bytes:
    """PING; its reply is `pong`."""
    return b"\x0d" + pong(nonce)


def pong(nonce: int) -> bytes:
    """Return what a PING is answered with."""
    return struct.pack("<I", nonce)


def queue_push(key: bytes, value: bytes) -> bytes:
    """QUEUE_PUSH."""
    return b"\x0e" + text(key) + text(value)


def queue_pop(key: bytes) -> bytes:
    """QUEUE_POP."""
    return b"\x0f" + text(key)


def queue_len(key: bytes) -> bytes:
    """QUEUE_LEN."""
    return b"\x10" + text(key)


def barrier(key: bytes, world_size: int) -> bytes:
    """BARRIER."""
    return b"\x12" + text(key) + number(world_size)


EXCHANGES: dict[str, tuple[bytes, bytes]] = {
    "set, get": (set_(b"/a", b"1") + get(b"/a"), text(b"1")),
    "an empty value": (set_(b"/a", b"") + get(b"/a"), text(b"")),
    "a key that is no text": (set_(b"\xff\0", b"1") + get(b"\xff\0"), text(b"1")),
    "the empty key": (set_(b"", b"1") + get(b""), text(b"1")),
    "get of nothing": (get(b"/a"), text(b"")),
    "compare_set creates": (compare_set(b"/a", b"", b"x") + get(b"/a"), text(b"x") * 2),
    "compare_set of nothing": (
        compare_set(b"/a", b"x", b"y") + check(b"/a"),
        text(b"x") + b"\1",
    ),
    "compare_set swaps": (
        set_(b"/a", b"x") + compare_set(b"/a", b"x", b"y") + get(b"/a"),
        text(b"y") * 2,
    ),
    "compare_set of another": (
        set_(b"/a", b"z") + compare_set(b"/a", b"x", b"y") + get(b"/a"),
        text(b"z") * 2,
    ),
    "add": (add(b"/n", 5) + add(b"/n", -7) + get(b"/n"), number(5) + number(-2) + text(b"-2")),
    "add to text": (set_(b"/n", b"41") + add(b"/n", 1), number(42)),
    "check": (check() + check(b"/a") + set_(b"/a", b"") + check(b"/a"), b"\0\1\0"),
    "check of several": (set_(b"/a", b"") + check(b"/a", b"/b"), b"\1"),
    "wait for what is there": (set_(b"/a", b"") + wait(b"/a", b"/a") + wait(), GO_ON * 2),
    "wait for one's own": (wait(b"/a", b"/a") + ping(1) + set_(b"/a", b""), pong(1) + GO_ON),
    "wait, cancel": (wait(b"/a") + CANCEL_WAIT + set_(b"/a", b"") + ping(1), CANCELED + pong(1)),
    "two waits, cancel": (wait(b"/a") + wait(b"/b") + CANCEL_WAIT * 2, CANCELED * 2),
    "cancel of nothing": (CANCEL_WAIT, CANCELED),
    "num_keys": (
        NUM_KEYS + add(b"init/", 1) + queue_push(b"/q", b"x") + NUM_KEYS,
        number(0) + number(1) + number(1),
    ),
    "delete_key": (set_(b"/a", b"") + delete_key(b"/a") * 2, number(1) + number(0)),
    "append": (append(b"/a", b"x") + append(b"/a", b"y") + get(b"/a"), text(b"xy")),
    "multi_get": (
        set_(b"/a", b"1") + multi_get(b"/a", b"/b", b"/a") + multi_get(),
        text(b"1") + text(b"") + text(b"1"),
    ),
    "multi_set": (
        multi_set((b"/a", b"1"), (b"/b", b"2"), (b"/a", b"3")) + multi_get(b"/a", b"/b"),
        text(b"3") + text(b"2"),
    ),
    "ping": (ping(0xDEADBEEF), pong(0xDEADBEEF)),
    "a queue": (
        queue_push(b"/q", b"1") + queue_push(b"/q", b"") + queue_len(b"/q") + queue_pop(b"/q") * 3,
        number(2) + number(2) + text(b"1") + number(1) + text(b"") + number(0),
    ),
    "a queue exists": (
        check(b"/q") + queue_push(b"/q", b"1") + check(b"/q") + wait(b"/q") + get(b"/q"),
        b"\1\0" + GO_ON + text(b""),
    ),
    "list_keys": (
        set_(b"/b\xff", b"") + set_(b"/a", b"") + LIST_KEYS,
        number(2) + text(b"/a") + text(b"/b\xff"),
    ),
    "a barrier of one": (barrier(b"/x", 1) + get(b"/x"), GO_ON + text(b"1")),
    "a barrier counts on": (
        barrier(b"/x", 3) + get(b"/x") + barrier(b"/x", 2) + barrier(b"/x", 3),
        text(b"1") + GO_ON + GO_ON + GO_ON,
    ),
    "a barrier, cancel": (
        barrier(b"/x", 2) + CANCEL_WAIT + get(b"/x") + barrier(b"/x", 2),
        CANCELED + text(b"1") + GO_ON,
    ),
}
"""What a connection of its own asks a fresh store, and all that it is answered.

Each was seen with torch 2.13's own server too, but that keeps no order among keys."""

FORGET = b"".join(map(delete_key, (b"", b"init/", b"\xff\0", b"/b\xff"))) + b"".join(
    delete_key(b"/" + name) + queue_pop(b"/" + name) * 2 for name in (b"a", b"b", b"n", b"q", b"x")
)
"""What undoes any of these, so that the store is as good as fresh."""

REFUSED: dict[str, bytes] = {
    "nothing known": b"\x13",
    "the last opcode": b"\xff",
    "a second beginning": VALIDATE,
    "a long key": get(b"k" * 8193),
    "a longer key": b"\x03" + struct.pack("<Q", 1 << 63),
    "a long value": b"\x01" + text(b"/a") + struct.pack("<Q", (8 << 20) + 1),
    "many keys": b"\x06" + struct.pack("<Q", (1 << 17) + 1),
    "more keys": b"\x0a" + struct.pack("<Q", (1 << 64) - 1),
    "many pairs": b"\x0b" + struct.pack("<Q", (1 << 17) + 1),
    "a long key among others": b"\x05" + struct.pack("<Q", 2) + text(b"a") + b"\xff" * 8,
}
"""What ends the connection as soon as it has been read."""


class RawClient:
    """A connection on which tests write and read bytes themselves."""

    def __init__(self, port: int, *, beginning: bytes = VALIDATE) -> None:
        self._port = port
        self._beginning = beginning

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(self._beginning)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def send(self, data: bytes) -> None:
        """Write what leaves at once, if the system takes it."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the server has taken most of what was written."""
        await self._writer.drain()

    async def receive(self, count: int) -> bytes:
        """Return the next bytes, exactly that many."""
        return await self._reader.readexactly(count)

    async def skip_to(self, data: bytes) -> None:
        """Wait until these bytes have come, whatever comes before them."""
        await self._reader.readuntil(data)

    async def rest(self) -> bytes:
        """Return what comes before the server ends the connection."""
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := await self._reader.read(1 << 16):
                received += piece
        return bytes(received)
