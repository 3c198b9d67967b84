"""What every kind of link does alike: tcp, unix, tls and memory, on both loops."""

from __future__ import annotations

import asyncio

import pytest

from asyncrpc.transport import Address, Network, Stream
from tests.transport.links import TIMEOUT, Recorder, Sender, Server, recorder, serving

pytestmark = pytest.mark.asyncio

MIB = 1 << 20


def content(size: int) -> bytes:
    """Return bytes in which a shift or a lost part shows."""
    period = bytes((index + index // 251) % 256 for index in range(4 * 251))
    return (period * (size // len(period) + 1))[:size]


async def finish(*streams: Stream) -> None:
    """Close streams and wait until they are gone."""
    for stream in streams:
        stream.abort()
        await stream.wait_closed()


async def test_bytes_go_both_ways(server: Server) -> None:
    """What one side writes the other gets."""
    near, far = await server.pair()
    near.write(b"ping")
    far.write(b"pong")

    assert await recorder(far).received(4) == b"ping"
    assert await recorder(near).received(4) == b"pong"
    await finish(near)


async def test_order_is_kept(server: Server) -> None:
    """Small writes and large parts arrive in the order they were written."""
    near, far = await server.pair()
    expected = bytearray()
    for number in range(300):
        small = f"<{number}>".encode()
        near.write(small)
        expected += small
        if number % 50 == 0:
            large = content(100_000 + number)
            near.write_parts([large, memoryview(b"|")])
            expected += large + b"|"
        if number % 7 == 0:
            await asyncio.sleep(0)

    assert await recorder(far).received(len(expected)) == expected
    await finish(near)


@pytest.mark.parametrize("room", [1, 100, 65_536])
async def test_any_room_will_do(server: Server, room: int) -> None:
    """A handler may take as little at a time as it likes."""
    near, far = await server.pair()
    far.handler = taking = Recorder(room)
    near.write(content(500))

    assert await taking.received(500) == content(500)
    await finish(near)


async def test_large_content_both_ways_at_once(server: Server) -> None:
    """Neither side waits for the other for ever, and all arrives."""
    near, far = await server.pair()
    size = 8 * MIB
    there, back = Sender(near, content(size)), Sender(far, content(size))
    there.pump()
    back.pump()

    assert await recorder(far).received(size) == content(size)
    assert await recorder(near).received(size) == content(size)
    await finish(near)


async def test_slow_reader_stops_the_writer(server: Server) -> None:
    """While the peer does not read, little is held here; when it does, all arrives."""
    near, far = await server.pair()
    far.pause_reading()
    sender = Sender(near, content(16 * MIB))
    sender.pump()
    await recorder(near).until(lambda: not near.is_writable)
    for _ in range(20):
        await asyncio.sleep(0)

    assert not sender.is_done
    assert sender.most_unsent <= 1.5 * MIB
    far.resume_reading()
    assert await recorder(far).received(16 * MIB) == content(16 * MIB)
    assert recorder(near).ready > 0
    await finish(near)


async def test_small_writes_wait_behind_a_slow_reader(server: Server) -> None:
    """What is written while the stream is not writable arrives in order and once."""
    near, far = await server.pair()
    far.pause_reading()
    sender = Sender(near, content(16 * MIB))
    sender.pump()
    await recorder(near).until(lambda: not near.is_writable)
    recorder(near).on_ready = lambda: None
    for number in range(1000):
        near.write(b"%04d" % number)
    rest = b"".join(b"%04d" % number for number in range(1000))
    for _ in range(5):
        await asyncio.sleep(0)

    far.resume_reading()
    await recorder(far).until(lambda: recorder(far).data.endswith(rest))
    assert bytes(recorder(far).data) == content(len(recorder(far).data) - 4000) + rest
    await finish(near)


async def test_paused_reader_hears_nothing(server: Server) -> None:
    """Between pause and resume no bytes come; afterwards all do."""
    near, far = await server.pair()
    far.pause_reading()
    near.write(b"later")
    far.write(b"now")
    await recorder(near).received(3)
    for _ in range(5):
        await asyncio.sleep(0)

    assert recorder(far).data == b""
    far.resume_reading()
    assert await recorder(far).received(5) == b"later"
    await finish(near)


async def test_reading_may_be_paused_within_a_read(server: Server) -> None:
    """A handler that pauses while it takes bytes gets no more until it resumes."""
    near, far = await server.pair()
    taking = Recorder(10)
    taking.on_data = far.pause_reading
    far.handler = taking
    near.write(content(100))
    await taking.received(1)
    for _ in range(10):
        await asyncio.sleep(0)

    assert len(taking.data) == 10
    taking.on_data = lambda: None
    far.resume_reading()
    assert await taking.received(100) == content(100)
    await finish(near)


async def test_attached_handler_goes_on(server: Server) -> None:
    """The next handler gets what the first left over, then what comes, and alone hears the end."""
    near, far = await server.pair()
    first = recorder(far)
    near.write(b"hello+left")
    await first.received(10)
    far.pause_reading()
    near.write(b"+more")
    second = Recorder(3)
    far.attach(second, b"+left")

    assert await second.received(10) == b"+left+more"
    near.close()
    await second.ended()
    assert (bytes(first.data), first.ends, len(second.ends)) == (b"hello+left", [], 1)


async def test_handler_attached_too_late_hears_the_end(server: Server) -> None:
    """A stream that ended before gives its bytes and its end to who comes."""
    near, far = await server.pair()
    near.close()
    await recorder(far).ended()
    late = Recorder()
    far.attach(late, b"left")

    assert (bytes(late.data), len(late.ends)) == (b"left", 1)


async def test_attached_handler_may_abort(server: Server) -> None:
    """A handler that aborts on the first of its bytes gets no more of them."""
    near, far = await server.pair()
    far.pause_reading()
    taking = Recorder(2)
    taking.on_data = far.abort
    far.attach(taking, b"abcdef")
    await taking.ended()

    assert taking.data == b"ab"
    await finish(near)


async def test_close_sends_what_was_written(server: Server) -> None:
    """Everything written before close arrives, then an orderly end, on both sides once."""
    near, far = await server.pair()
    near.write(b"small")
    near.write_parts([content(MIB)])
    near.write(b"last")
    near.close()
    near.close()

    assert near.is_closed
    assert await recorder(far).ended() is None
    assert recorder(far).data == b"small" + content(MIB) + b"last"
    assert await recorder(near).ended() is None
    await asyncio.gather(near.wait_closed(), far.wait_closed())
    assert (recorder(near).ends, recorder(far).ends) == ([None], [None])


async def test_close_sends_what_waits_for_a_slow_reader(server: Server) -> None:
    """Bytes kept back by back-pressure leave before the end."""
    near, far = await server.pair()
    far.pause_reading()
    sender = Sender(near, content(16 * MIB))
    sender.pump()
    await recorder(near).until(lambda: not near.is_writable)
    near.write(b"last")
    near.close()
    recorder(near).on_ready = lambda: None
    far.resume_reading()

    await recorder(far).ended()
    assert bytes(recorder(far).data) == content(len(recorder(far).data) - 4) + b"last"


async def test_bytes_in_flight_outlive_the_sender(server: Server) -> None:
    """A reader that was paused while the peer closed still gets everything."""
    near, far = await server.pair()
    far.pause_reading()
    near.write(content(1000))
    near.close()
    for _ in range(10):
        await asyncio.sleep(0)
    far.resume_reading()

    await recorder(far).ended()
    assert recorder(far).data == content(1000)


async def test_abort_ends_both_sides_once(server: Server) -> None:
    """However often and in whatever order it is asked for."""
    near, far = await server.pair()
    near.abort()
    near.close()
    near.abort()
    await recorder(near).ended()
    await recorder(far).ended()
    near.abort()
    far.close()
    await asyncio.sleep(0)

    assert (len(recorder(near).ends), len(recorder(far).ends)) == (1, 1)
    assert near.is_closed
    assert far.is_closed


@pytest.mark.parametrize("room", [16, MIB])
async def test_abort_within_a_read_is_the_last(server: Server, room: int) -> None:
    """A handler that gives its stream up hears no more of it, whatever has come already.

    Its room may be empty from then on: nobody may wait for it to take the rest.
    """
    near, far = await server.pair()
    handler = Recorder(room)

    def give_up() -> None:
        far.abort()
        handler._room = memoryview(bytearray())

    handler.on_data = give_up
    far.attach(handler)
    near.write(content(MIB // 2))
    await far.wait_closed()
    count = len(handler.data)
    await finish(near)

    assert 0 < count <= room
    assert len(handler.ends) == 1


async def test_abort_frees_a_stream_that_cannot_send(server: Server) -> None:
    """With a peer that does not read, close would wait; abort does not."""
    near, far = await server.pair()
    far.pause_reading()
    Sender(near, content(16 * MIB)).pump()
    await recorder(near).until(lambda: not near.is_writable)
    near.close()
    near.abort()

    await recorder(near).ended()
    assert len(recorder(near).ends) == 1


async def test_unsent_batch_is_there_at_the_end(server: Server) -> None:
    """The handler can see what was written and never left; then it is dropped."""
    near, far = await server.pair()
    seen: list[bytes] = []
    taking = Recorder()
    near.handler = taking
    near.write(b"never")
    near.abort()
    near.write(b"sent")
    closed = taking.stream_closed

    def look(error: Exception | None) -> None:
        seen.extend(near.batch)
        closed(error)

    taking.stream_closed = look  # type: ignore[method-assign]
    await taking.ended()

    assert seen == [b"never", b"sent"]
    assert near.batch == []
    await recorder(far).ended()
    assert recorder(far).data == b""


async def test_writes_after_the_end_are_dropped(server: Server) -> None:
    """Nothing piles up on a stream that is gone, and nothing is raised."""
    near, _ = await server.pair()
    await finish(near)
    for _ in range(10):
        near.write(b"x" * 1000)
        near.write_parts([b"y"])
        near.flush_soon()
        near.pause_reading()
        near.resume_reading()
        await asyncio.sleep(0)

    assert near.batch == []
    assert near.unsent == 0


async def test_wait_closed_may_be_cancelled(server: Server) -> None:
    """Who waits for the end and gives up takes nothing from who still waits."""
    near, _ = await server.pair()
    waiting = [asyncio.create_task(near.wait_closed()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    near.close()

    await waiting[1]
    assert waiting[0].cancelled()


async def test_handler_that_raises_ends_the_stream(server: Server) -> None:
    """An error of ours in a handler is told to the loop and closes that stream alone."""
    near, far = await server.pair()
    other, _ = await server.pair()
    reports: list[object] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reports.append(context.get("exception")))
    taking = Recorder()
    bug = ZeroDivisionError()

    def fail() -> None:
        raise bug

    taking.on_data = fail
    far.handler = taking
    near.write(b"x")
    await taking.ended()
    await recorder(near).ended()
    loop.set_exception_handler(before)

    assert reports == [bug]
    assert not other.is_closed
    await finish(other)


# --- listeners


async def test_connections_are_limited(place: tuple[Network, Address]) -> None:
    """The one too many is closed unread; when another leaves there is room again."""
    async with serving(*place, max_connections=2) as server:
        first, far = await server.pair()
        second, _ = await server.pair()
        refused = await server.connect()
        refused.write(b"unread")
        await recorder(refused).ended()

        assert len(server.streams) == 2
        first.close()
        await far.wait_closed()
        third, _ = await server.pair()
        again = await server.connect()
        await recorder(again).ended()
        assert len(server.streams) == 3
        await finish(second, third)


async def test_closed_listener_frees_its_address(place: tuple[Network, Address]) -> None:
    """Nobody connects any more, accepted streams live on, and the address can be used again."""
    async with serving(*place) as server:
        near, far = await server.pair()
        await server.listener.close()
        await server.listener.close()

        with pytest.raises(ConnectionError, match=str(server.address)) as caught:
            await server.connect()
        assert isinstance(caught.value.__cause__, ConnectionRefusedError | FileNotFoundError)
        near.write(b"still here")
        assert await recorder(far).received(10) == b"still here"
        async with serving(server.network, server.address) as again:
            other, _ = await again.pair()
            await finish(other)
        await finish(near)


async def test_address_in_use(server: Server) -> None:
    """A second listener on the same address is refused by name; the first is unharmed."""
    with pytest.raises(OSError, match=f"cannot listen on {server.address}: .*in use"):
        await server.network.listen(
            server.address, lambda _: Recorder(), max_connections=1
        )  # fmt: skip

    near, _ = await server.pair()
    await finish(near)


async def test_accepting_may_fail(place: tuple[Network, Address]) -> None:
    """An error of ours in make_handler closes that stream and leaves the listener."""
    network, address = place
    reports: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    made: list[Stream] = []

    def accept(stream: Stream) -> Recorder:
        made.append(stream)
        if len(made) == 1:
            raise ZeroDivisionError
        return Recorder()

    listener = await network.listen(address, accept, max_connections=1)
    taking = Recorder()
    try:
        await network.connect(listener.address, taking, timeout=TIMEOUT)
        await taking.ended()
    except (ConnectionError, ZeroDivisionError):
        pass  # within one process, or in the middle of a TLS handshake
    if made:
        await made[0].wait_closed()
    good = await network.connect(listener.address, Recorder(), timeout=TIMEOUT)
    good.write(b"x")
    async with asyncio.timeout(TIMEOUT):
        while len(made) < 2:
            await asyncio.sleep(0)
    await recorder(made[1]).received(1)

    await listener.close()
    await finish(good, made[1])


async def test_connect_may_be_cancelled(server: Server) -> None:
    """A caller that gives up leaves no stream behind."""
    # in debug mode the stock loop tells of TLS handshakes that were broken off
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    taking = Recorder()
    task = asyncio.create_task(server.connect(taking))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    for stream in server.streams:
        await recorder(stream).ended()
