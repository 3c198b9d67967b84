"""`ChaosProxy`: each toxic does what it says, repeatably, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

import asyncrpc.testing
from asyncrpc.testing import ChaosProxy, VirtualClock
from asyncrpc.testing.link import Toxics

pytestmark = pytest.mark.asyncio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, and the end too."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


class Target:
    """A server on a free port whose handlers end with it."""

    def __init__(self, handler: Handler, path: Path | None) -> None:
        self._handler = handler
        self._path = path
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        if self._path is None:
            self._server = await asyncio.start_server(self._start, "127.0.0.1", 0)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            self._server = await asyncio.start_unix_server(self._start, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                await self._handler(reader, writer)
        finally:
            await hang_up(writer)


@asynccontextmanager
async def proxied(handler: Handler = echo, **options: object) -> AsyncIterator[ChaosProxy]:
    """Give a proxy in front of a server with that handler."""
    async with Target(handler, None) as target:
        async with ChaosProxy("127.0.0.1", target.port, **options) as proxy:  # type: ignore[arg-type]
            yield proxy


@asynccontextmanager
async def connected(proxy: ChaosProxy) -> AsyncIterator[Connection]:
    """Give a client's streams through the proxy."""
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


def abort(writer: asyncio.StreamWriter) -> None:
    """End a stream by a reset."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a stream, whatever state it is in."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def ask(connection: Connection, data: bytes) -> bytes:
    """Send data and read as much."""
    reader, writer = connection
    writer.write(data)
    return await reader.readexactly(len(data))


async def until(claim: Callable[[], bool]) -> None:
    """Let the loop turn until the claim holds; the test's time limit is the bound."""
    while not claim():
        await asyncio.sleep(0.001)


# --- without toxics


@pytest.mark.parametrize("size", [1, 65536, 1_000_000])
async def test_bytes_pass_unchanged(size: int) -> None:
    """A proxy without settings is invisible, in both directions."""
    data = os.urandom(size)
    async with proxied() as proxy, connected(proxy) as connection:
        writing = asyncio.ensure_future(ask(connection, data))

        assert await writing == data
        assert (proxy.forwarded("up"), proxy.forwarded("down")) == (size, size)
        assert (proxy.accepted, proxy.connections) == (1, 1)


async def test_end_of_stream_passes() -> None:
    """A client that has sent all still gets the answer and then the end."""
    async with proxied() as proxy, connected(proxy) as (reader, writer):
        writer.write(b"all")
        writer.write_eof()

        assert await reader.read() == b"all"
        await until(lambda: proxy.connections == 0)


async def test_reset_passes() -> None:
    """A server that resets its side resets the client's."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        abort(writer)

    async with proxied(reset) as proxy, connected(proxy) as (reader, writer):
        writer.write(b"x")

        with pytest.raises(ConnectionError):
            await reader.readexactly(1)


async def test_receiver_that_is_gone_ends_the_sender() -> None:
    """A client that vanishes while the server sends breaks the server's connection."""
    broken = asyncio.Event()

    async def send_for_ever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        except ConnectionError:
            broken.set()

    async with proxied(send_for_ever) as proxy:
        async with connected(proxy) as (reader, writer):
            await reader.readexactly(1)
            abort(writer)
            await broken.wait()
        await until(lambda: proxy.connections == 0)


async def test_dead_target_resets_the_client() -> None:
    """Where nobody listens, the client's connection is reset."""
    async with Target(echo, None) as target:
        port = target.port
    async with ChaosProxy("127.0.0.1", port) as proxy, connected(proxy) as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)


async def test_unix_sockets(tmp_path: Path) -> None:
    """Both sides may be unix sockets; the proxy removes its own."""
    path = tmp_path / "proxy"
    async with Target(echo, tmp_path / "target"):
        async with ChaosProxy(target_path=tmp_path / "target", path=path) as proxy:
            reader, writer = await asyncio.open_unix_connection(proxy.path)

            assert await ask((reader, writer), b"hello") == b"hello"
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_unix_connection(proxy.path)
            proxy.accept()
            again = await asyncio.open_unix_connection(proxy.path)
            assert await ask(again, b"again") == b"again"
            await hang_up(writer)
            await hang_up(again[1])
    assert not path.exists()


# --- time


async def test_latency_delays_both_ways() -> None:
    """Each direction's latency is waited for on the given clock, and no longer."""
    clock = VirtualClock()
    async with proxied(clock=clock) as proxy, connected(proxy) as connection:
        proxy.set(latency=2.0)
        answer = asyncio.ensure_future(ask(connection, b"ping"))
        await until(lambda: len(clock._timers) == 1)
        await clock.advance(1.99)
        up_before = proxy.forwarded("up")
        await clock.advance(0.02)
        await until(lambda: len(clock._timers) == 1)
        await clock.advance(1.97)
        down_before = proxy.forwarded("down")
        await clock.advance(0.03)

        assert await answer == b"ping"
        assert (up_before, down_before) == (0, 0)


async def test_latency_of_one_direction() -> None:
    """The other direction is not delayed."""
    clock = VirtualClock()
    async with proxied(clock=clock) as proxy, connected(proxy) as connection:
        proxy.set(latency=5.0, direction="down")
        answer = asyncio.ensure_future(ask(connection, b"ping"))
        await until(lambda: proxy.forwarded("up") == 4 and len(clock._timers) == 1)
        await clock.advance(5.0)

        assert await answer == b"ping"


async def test_latency_does_not_limit_throughput() -> None:
    """Chunks that arrive together are due together."""
    clock = VirtualClock()
    async with proxied(clock=clock) as proxy, connected(proxy) as (reader, writer):
        proxy.set(latency=1.0, direction="up")
        for number in range(5):
            writer.write(bytes([number]) * 10)
            await writer.drain()
            await asyncio.sleep(0.001)
        await until(lambda: len(clock._timers) == 1)
        await clock.advance(1.0)

        assert len(await reader.readexactly(50)) == 50


async def test_jitter_keeps_the_order() -> None:
    """Chunks with different delays do not overtake each other."""
    async with proxied() as proxy, connected(proxy) as (reader, writer):
        proxy.set(jitter=0.003)
        for number in range(20):
            writer.write(bytes([number]))
            await asyncio.sleep(0)

        assert await reader.readexactly(20) == bytes(range(20))


async def test_bandwidth() -> None:
    """So many bytes take so many seconds."""
    clock = VirtualClock()
    async with proxied(clock=clock) as proxy, connected(proxy) as (_, writer):
        proxy.set(bandwidth=1000.0, direction="up")
        writer.write(b"x" * 5000)
        await until(lambda: len(clock._timers) == 1)
        await clock.advance(0.1)
        soon = proxy.forwarded("up")
        await clock.advance(0.2)
        later = proxy.forwarded("up")

        assert soon == pytest.approx(100, abs=20)
        assert later == pytest.approx(300, abs=20)


# --- bytes


async def test_slicer() -> None:
    """No piece is larger than asked for, and none is lost."""
    pieces: list[int] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ready")
        while data := await reader.read(65536):
            pieces.append(len(data))
            writer.write(b"k")

    async with proxied(note) as proxy, connected(proxy) as (reader, writer):
        await reader.readexactly(5)
        proxy.set(slice_size=3, latency=0.0)
        writer.write(b"x" * 100)
        writer.write_eof()
        await reader.read()

    assert sum(pieces) == 100
    assert len(pieces) > 1


@pytest.mark.parametrize(
    ("probability", "low", "high"), [(0.0, 0, 0), (0.01, 50, 150), (1.0, 10000, 10000)]
)
async def test_corruption(probability: float, low: int, high: int) -> None:
    """About that share of bytes has one bit flipped; the count is exact."""
    data = bytes(10000)
    async with proxied(seed=3) as proxy, connected(proxy) as connection:
        proxy.set(corrupt=probability, direction="up")
        answer = await ask(connection, data)
        changed = [byte for byte in answer if byte]

        assert low <= len(changed) <= high
        assert proxy.corrupted("up") == len(changed)
        assert proxy.corrupted("down") == 0
        assert all(byte.bit_count() == 1 for byte in changed)


async def test_corruption_repeats_with_the_seed() -> None:
    """The same seed damages the same bytes, however they were chunked; another one others."""

    async def damaged(seed: int, chunk: int) -> bytes:
        async with proxied(seed=seed) as proxy, connected(proxy) as connection:
            proxy.set(corrupt=0.05, direction="up")
            parts = [await ask(connection, bytes(chunk)) for _ in range(1000 // chunk)]
            return b"".join(parts)

    whole, chunked, other = await damaged(1, 1000), await damaged(1, 100), await damaged(2, 1000)

    assert whole == chunked
    assert whole != other


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("count", [0, 1, 1000])
async def test_cut_after(direction: str, count: int) -> None:
    """Exactly so many bytes pass, then both sides see the end."""
    async with proxied() as proxy, connected(proxy) as (reader, writer):
        assert await ask((reader, writer), b"before") == b"before"
        already = proxy.forwarded(direction)  # type: ignore[arg-type]
        proxy.set(cut_after=count, direction=direction)  # type: ignore[arg-type]
        writer.write(b"x" * 5000)
        with contextlib.suppress(ConnectionResetError):  # a close with bytes unread is a reset
            await reader.read()
        await until(lambda: proxy.connections == 0)

        assert proxy.forwarded(direction) - already == count  # type: ignore[arg-type]


async def test_cut_applies_to_each_new_connection() -> None:
    """Every connection has its own count; without the setting it has none."""
    async with proxied() as proxy:
        proxy.set(cut_after=5, direction="down")
        for _ in range(2):
            async with connected(proxy) as (reader, writer):
                writer.write(b"0123456789")
                assert await reader.read() == b"01234"
        proxy.heal()
        async with connected(proxy) as connection:
            assert await ask(connection, b"0123456789") == b"0123456789"


async def test_cut_with_reset() -> None:
    """With ``reset`` the end is a reset."""
    async with proxied() as proxy, connected(proxy) as (reader, writer):
        proxy.set(cut_after=0, reset=True, direction="up")
        writer.write(b"x")

        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)


# --- holes and ends


async def test_blackhole_swallows() -> None:
    """Bytes and end vanish; new connections are accepted and hear nothing."""
    async with proxied() as proxy:
        async with connected(proxy) as (reader, writer):
            assert await ask((reader, writer), b"before") == b"before"
            proxy.set(blackhole=True)
            writer.write(b"lost")
            async with connected(proxy) as (_, second):
                second.write(b"lost too")
                await until(lambda: proxy.connections == 2)
            writer.write_eof()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await reader.read()

            assert proxy.forwarded("up") == 6


async def test_hole_opens_inside_a_chunk() -> None:
    """A hole swallows the rest of what is being sent."""
    clock = VirtualClock()
    async with proxied(clock=clock) as proxy, connected(proxy) as (_, writer):
        proxy.set(bandwidth=1000.0, direction="up")
        writer.write(b"x" * 1000)
        await until(lambda: len(clock._timers) == 1)
        before = proxy.forwarded("up")
        proxy.set(blackhole=True)
        await clock.advance(2.0)

        assert 0 < proxy.forwarded("up") == before


async def test_one_way_cut() -> None:
    """A hole in one direction leaves the other one whole: a half-open link."""

    async def tick(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"tick")
        await asyncio.Event().wait()

    async with proxied(tick) as proxy:
        proxy.set(blackhole=True, direction="up")
        async with connected(proxy) as (reader, writer):
            writer.write(b"unheard")

            assert await reader.readexactly(4) == b"tick"
            assert proxy.forwarded("up") == 0


async def test_reset_behind_a_blackhole_is_swallowed() -> None:
    """Under a hole the other side does not learn that the peer is gone."""
    async with proxied() as proxy:
        async with connected(proxy) as connection:
            assert await ask(connection, b"x") == b"x"
            proxy.set(blackhole=True)
            abort(connection[1])
            await asyncio.sleep(0.01)

            assert proxy.connections == 1


async def test_pause_loses_nothing() -> None:
    """Paused bytes wait; after resume they arrive in order."""
    async with proxied() as proxy, connected(proxy) as (reader, writer):
        proxy.pause("up")
        writer.write(b"held ")
        await asyncio.sleep(0.005)
        held = proxy.forwarded("up")
        writer.write(b"back")
        proxy.resume("up")

        assert await reader.readexactly(9) == b"held back"
        assert held == 0


async def test_pause_bounds_memory() -> None:
    """A paused proxy stops reading, so the sender blocks instead of filling it."""
    async with proxied() as proxy, connected(proxy) as (_, writer):
        proxy.pause("up")
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        writer.write(bytes(32 << 20))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await writer.drain()
        link = next(iter(proxy._links))

        assert link._pipes["up"]._queue.qsize() <= 16
        writer.transport.abort()


async def test_half_close() -> None:
    """The receiver sees the end, the other direction goes on."""
    heard: list[bytes] = []

    async def listen_then_talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())
        writer.write(b"still here")
        await writer.drain()

    async with proxied(listen_then_talk) as proxy, connected(proxy) as (reader, writer):
        writer.write(b"first")
        await until(lambda: proxy.forwarded("up") == 5)
        proxy.half_close("up")
        writer.write(b"swallowed")

        assert await reader.readexactly(10) == b"still here"
        assert heard == [b"first"]


@pytest.mark.parametrize("reset", [False, True])
async def test_disconnect_all(reset: bool) -> None:
    """All open connections end, as asked for; new ones are fine."""
    async with proxied() as proxy:
        async with connected(proxy) as first, connected(proxy) as second:
            assert await ask(first, b"1") + await ask(second, b"2") == b"12"
            proxy.disconnect_all(reset=reset)
            for reader, _ in (first, second):
                if reset:
                    with pytest.raises(ConnectionResetError):
                        await reader.readexactly(1)
                else:
                    assert await reader.read() == b""
            await until(lambda: proxy.connections == 0)
        async with connected(proxy) as third:
            assert await ask(third, b"3") == b"3"


async def test_disconnect_before_the_first_step() -> None:
    """A connection ended in the turn it was accepted leaves no socket behind."""
    async with proxied() as proxy, connected(proxy) as (reader, _):
        while not proxy.accepted:
            await asyncio.sleep(0)
        proxy.disconnect_all()

        assert await reader.read() == b""


async def test_refuse_and_accept() -> None:
    """New connections are refused while the open ones live, on the same port afterwards."""
    async with proxied() as proxy, connected(proxy) as old:
        port = proxy.port
        assert await ask(old, b"open") == b"open"
        for _ in range(2):
            proxy.refuse()
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(proxy.host, proxy.port)
            assert await ask(old, b"open") == b"open"
            proxy.accept()
            proxy.accept()
            async with connected(proxy) as new:
                assert await ask(new, b"new") == b"new"

        assert proxy.port == port


async def test_accept_survives_running_out_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing accept is tried again a little later."""
    async with proxied() as proxy:
        failures: list[int] = []
        listener = proxy._listener

        class Failing:
            def accept(self) -> tuple[socket.socket, object]:
                failures.append(1)
                proxy._listener = listener
                raise OSError(24, "too many open files")

            def fileno(self) -> int:
                assert listener is not None
                return listener.fileno()

        proxy._listener = Failing()  # type: ignore[assignment]
        async with connected(proxy) as connection:
            assert await ask(connection, b"x") == b"x"

        assert failures == [1]


# --- life cycle and mistakes


async def test_exit_ends_everything() -> None:
    """Leaving with connections open, paused and delayed closes them all."""
    async with Target(echo, None) as target:
        async with ChaosProxy("127.0.0.1", target.port) as proxy:
            streams = [await asyncio.open_connection(proxy.host, proxy.port) for _ in range(5)]
            proxy.set(latency=1000.0)
            proxy.pause("down")
            for _, writer in streams:
                writer.write(b"x" * 200_000)
            await until(lambda: proxy.connections == 5)
        assert proxy.connections == 0
        with pytest.raises(OSError):
            await asyncio.open_connection(proxy.host, proxy.port)
        for _, writer in streams:
            await hang_up(writer)
    gc.collect()  # an unclosed socket would warn here


async def test_port_in_use() -> None:
    """A port that somebody listens on is an error, and no socket is left."""
    async with Target(echo, None) as target:
        with pytest.raises(OSError, match="in use"):
            await ChaosProxy("127.0.0.1", 1, port=target.port).__aenter__()


async def test_accept_without_a_client() -> None:
    """A client that has left before it was accepted is none."""
    async with proxied() as proxy:
        proxy._take_client()

        assert proxy.accepted == 0


async def test_exit_after_refuse() -> None:
    """A proxy may end while it refuses."""
    async with proxied() as proxy:
        proxy.refuse()

    with pytest.raises(RuntimeError, match="not running"):
        proxy.accept()
    with pytest.raises(RuntimeError, match="not running"):
        proxy.refuse()


async def test_cannot_be_entered_twice() -> None:
    """One proxy runs once at a time, and again after it has ended."""
    async with proxied() as proxy:
        with pytest.raises(RuntimeError, match="already running"):
            await proxy.__aenter__()


@pytest.mark.parametrize("target", [{}, {"target_host": "127.0.0.1"}])
async def test_target_is_needed(target: dict[str, str]) -> None:
    """A host goes with a port, and without either a path is needed."""
    with pytest.raises(ValueError, match="target must be"):
        ChaosProxy(**target)  # type: ignore[arg-type]


@pytest.mark.parametrize("port", ["80", 0, -1, 65536, 80.0, True])
async def test_bad_target_port(port: int) -> None:
    """A port is an int that can be connected to."""
    with pytest.raises(ValueError, match="target_port must be an int from 1 to 65535, got"):
        ChaosProxy("127.0.0.1", port)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency", -1.0),
        ("latency", float("nan")),
        ("jitter", float("inf")),
        ("bandwidth", 0.0),
        ("slice_size", 0),
        ("corrupt", 1.5),
        ("cut_after", -1),
    ],
)
async def test_settings_are_checked(field: str, value: Any) -> None:
    """A value out of range is named, and no setting changes."""
    proxy = ChaosProxy("127.0.0.1", 1)
    proxy.set(latency=1.0)

    with pytest.raises(ValueError, match=f"{field} must be"):
        proxy.set(**{field: value})
    assert proxy._lanes["up"].toxics == proxy._lanes["down"].toxics == Toxics(latency=1.0)


async def test_direction_is_checked() -> None:
    """A direction is up, down or both."""
    with pytest.raises(ValueError, match="direction must be 'up', 'down' or 'both', got 'left'"):
        ChaosProxy("127.0.0.1", 1).set(latency=1.0, direction="left")  # type: ignore[arg-type]


async def test_heal_takes_everything_back() -> None:
    """Settings, counts and pauses are gone, for open connections as well."""
    async with proxied() as proxy, connected(proxy) as connection:
        assert await ask(connection, b"x") == b"x"
        proxy.set(corrupt=1.0, cut_after=1, blackhole=True, slice_size=1, bandwidth=1.0)
        proxy.pause()
        proxy.heal()

        assert await ask(connection, b"healed") == b"healed"


async def test_front_door() -> None:
    """The package names what it offers and nothing else."""
    assert set(asyncrpc.testing.__all__) <= set(dir(asyncrpc.testing))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = asyncrpc.testing.Nothing
