"""The stream over a scripted transport: when it writes, what it keeps, whom it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from asyncrpc.transport import Stream
from tests.transport.links import Recorder

pytestmark = pytest.mark.asyncio


class Script(asyncio.Transport):
    """A transport that notes what it is asked for and takes as much as it is told to."""

    def __init__(self, **extra: object) -> None:
        super().__init__(extra)
        self.calls: list[object] = []
        self.limit: int | None = None

    def write(self, data: object) -> None:
        self.calls.append(bytes(data))  # type: ignore[call-overload]

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.calls.append([bytes(data) for data in list_of_data])

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limit = high

    def get_write_buffer_size(self) -> int:
        return 1000

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


class UvloopScript(Script):
    """A transport that looks like uvloop's."""

    __module__ = "uvloop.loop"


def make(transport: Script | None = None) -> tuple[Stream, Script, Recorder]:
    """Return a connected stream, its transport and its handler."""
    transport = transport or Script()
    taking = Recorder()
    stream = Stream(taking)
    stream.connection_made(transport)
    return stream, transport, taking


async def turn() -> None:
    """Let the loop turn."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_one_write_per_turn() -> None:
    """What is written within a turn leaves in one call, in order."""
    stream, transport, _ = make()
    for number in range(15):
        stream.write(b"%02d" % number)
    asyncio.get_running_loop().call_soon(stream.write, b"after the flush")
    assert transport.calls == []
    await turn()
    stream.write(b"next")
    await turn()

    numbers = b"".join(b"%02d" % number for number in range(15))
    assert transport.calls == [numbers, b"after the flush", b"next"]


async def test_full_batches_leave_before() -> None:
    """Thirty-two writes leave at once, for the peer to work on; the rest with the turn."""
    stream, transport, _ = make()
    for number in range(80):
        stream.write(b"%02d" % number)
    before = len(transport.calls)
    await turn()

    assert before == 2
    numbers = b"".join(b"%02d" % number for number in range(80))
    assert transport.calls == [numbers[:64], numbers[64:128], numbers[128:]]


async def test_callbacks_of_one_turn_share_a_write() -> None:
    """After flush_soon, what callbacks that are ready write leaves together."""
    stream, transport, _ = make()
    loop = asyncio.get_running_loop()
    loop.call_soon(stream.write, b"one,")
    loop.call_soon(stream.write, b"two")
    stream.flush_soon()
    await turn()

    assert transport.calls == [b"one,two"]


async def test_single_write_is_not_joined() -> None:
    """One write alone goes out as it is, and nothing is written for nothing."""
    stream, transport, _ = make()
    stream.flush_soon()
    stream.flush()
    await turn()
    stream.write(b"alone")
    stream.flush()
    await turn()

    assert transport.calls == [b"alone"]


async def test_pause_keeps_the_batch() -> None:
    """While the transport is full nothing is handed over; then all of it is, then the handler."""
    stream, transport, taking = make()
    stream.write(b"before")
    await turn()
    stream.pause_writing()
    for number in range(5):
        stream.write(b"%d" % number)
        await turn()
    assert transport.calls == [b"before"]
    assert stream.unsent == 1005
    taking.on_ready = lambda: transport.calls.append("ready")
    stream.resume_writing()

    assert transport.calls == [b"before", b"01234", "ready"]
    assert stream.batch == []


async def test_handler_is_ready_only_while_there_is_room() -> None:
    """If the batch alone fills the transport again, the handler hears nothing yet."""
    stream, transport, taking = make()
    stream.pause_writing()
    stream.write(b"much")
    transport.write = lambda _: stream.pause_writing()  # type: ignore[assignment]
    stream.resume_writing()

    assert (taking.ready, stream.is_writable) == (0, False)
    stream.resume_writing()
    assert (taking.ready, stream.is_writable) == (1, True)


@pytest.mark.parametrize(
    ("transport", "parts"), [(Script, [b"a", b"b"]), (UvloopScript, [[b"a", b"b"]])]
)
async def test_parts_are_not_joined(transport: type[Script], parts: list[object]) -> None:
    """Large parts go as a vector on uvloop and one by one elsewhere, after what was written."""
    stream, script, _ = make(transport())
    stream.write(b"1")
    stream.write(b"2")
    stream.write_parts([b"a", memoryview(b"b")])

    assert script.calls == [b"12", *parts]


async def test_parts_do_not_overtake() -> None:
    """Parts written against the rule, while the stream is not writable, keep their place."""
    stream, transport, _ = make()
    stream.pause_writing()
    stream.write(b"1")
    stream.write_parts([b"2", memoryview(b"3")])
    stream.write(b"4")
    stream.resume_writing()

    assert transport.calls == [b"1234"]


async def test_what_is_written_now_does_not_wait_for_the_turn() -> None:
    """It leaves at once, behind what was written before; without room it keeps its place."""
    stream, transport, _ = make()
    stream.write_now(b"1")
    stream.write(b"2")
    stream.write_now(b"3")
    assert transport.calls == [b"1", b"23"]
    stream.pause_writing()
    stream.write_now(b"4")
    stream.write(b"5")
    assert transport.calls == [b"1", b"23"]
    stream.resume_writing()
    assert transport.calls == [b"1", b"23", b"45"]
    assert stream.sent == 5

    stream.connection_lost(None)
    stream.write_now(b"6")
    assert (stream.sent, stream.batch) == (5, [])


async def test_bytes_sent_are_counted() -> None:
    """What was handed to the transport is counted, by batch and by part, but not what waits."""
    stream, _, _ = make()
    stream.write(b"12")
    stream.write(b"345")
    stream.flush()
    stream.write(b"67")
    stream.write_parts([b"8", memoryview(bytearray(16))])
    stream.pause_writing()
    stream.write(b"waits")
    stream.flush()

    assert 5 + 2 + 1 + 16 == stream.sent


@pytest.mark.parametrize(
    ("transport", "limit"),
    [
        (Script(), 0),
        (Script(sslcontext=object()), 65_536),
        (UvloopScript(), 1024),
        (UvloopScript(sslcontext=object()), 65_536),
    ],
)
async def test_buffer_limits(transport: Script, limit: int) -> None:
    """The stock loop copies, so it keeps nothing; its TLS would never resume from nothing."""
    make(transport)

    assert transport.limit == limit


async def test_close_flushes() -> None:
    """Close hands over what is left, even while the transport is full, and asks once."""
    stream, transport, _ = make()
    stream.pause_writing()
    stream.write(b"left")
    stream.close()
    stream.close()
    stream.write(b"after")
    await turn()

    assert transport.calls == [b"left", "close"]
    assert stream.batch == [b"after"]


async def test_abort_does_not_flush() -> None:
    """Abort leaves the batch for the handler to see, also after close."""
    stream, transport, taking = make()
    stream.write(b"left")
    stream.abort()
    await turn()

    assert transport.calls == ["abort"]
    assert stream.batch == [b"left"]
    stream.connection_lost(None)
    assert (stream.batch, taking.ends) == ([], [None])


async def test_abort_after_close() -> None:
    """A close that takes too long can be cut short."""
    stream, transport, _ = make()
    stream.close()
    stream.abort()

    assert transport.calls == ["close", "abort"]


async def test_end_of_the_peers_bytes_is_the_end() -> None:
    """Nothing is handed to a transport that saw the end; the batch is kept for the handler."""
    stream, transport, taking = make()
    stream.write(b"late")

    assert not stream.eof_received()
    await turn()
    assert stream.is_closed
    assert (transport.calls, stream.batch, taking.ends) == ([], [b"late"], [])
    stream.resume_writing()
    assert taking.ready == 0


async def test_nothing_is_asked_of_a_transport_that_is_gone() -> None:
    """After the end only what reads the past works."""
    stream, transport, taking = make()
    error = ConnectionResetError()
    stream.connection_lost(error)
    for _ in range(3):
        stream.write(b"x")
        stream.write_parts([b"y"])
        stream.pause_reading()
        stream.resume_reading()
        stream.close()
        await turn()

    assert transport.calls == []
    assert (stream.batch, stream.unsent, taking.ends) == ([], 0, [error])
    late = Recorder()
    stream.attach(late)
    assert late.ends == [error]


async def test_handshake_that_failed_below_is_told_to_nobody() -> None:
    """A stream lost before it was made was never accepted and never had a reader."""
    taking = Recorder()
    forgotten: list[Stream] = []
    stream = Stream(taking, closed=forgotten.append)
    stream.connection_lost(ConnectionResetError())

    assert (taking.ends, forgotten) == ([], [])
    await stream.wait_closed()


async def test_refused_stream_is_aborted() -> None:
    """Without a handler nothing is read, and its end is told to the listener alone."""
    forgotten: list[Stream] = []
    stream = Stream(accepted=lambda _: None, closed=forgotten.append)
    transport = Script()
    stream.connection_made(transport)
    stream.connection_lost(None)

    assert transport.calls == ["abort"]
    assert forgotten == [stream]


async def test_names() -> None:
    """Peers are named as people write addresses."""
    for name, text in (
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (b"\0abstract", "\0abstract"),
        ("/run/socket", "/run/socket"),
        ("", ""),
        (None, ""),
    ):
        stream, _, _ = make(Script(peername=name, sockname=name))

        assert (stream.peer, stream.local) == (text, text)
