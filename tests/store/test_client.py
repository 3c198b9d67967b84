"""The client: connecting, broken connections, what resumes and what fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from asyncrpc.errors import Delivery, StoreConnectionError, StoreError, StoreTimeoutError
from asyncrpc.store import TCPStore, TCPStoreServer
from asyncrpc.store.watch import Feed
from asyncrpc.testing import ChaosProxy
from asyncrpc.testing.linearizability import History, Kind, Recorder, find_violation

pytestmark = pytest.mark.asyncio

SECRET = b"0123456789abcdef"


class Setting(NamedTuple):
    """A server, a client whose connection can be cut, and one whose connection holds."""

    server: TCPStoreServer
    proxy: ChaosProxy
    client: TCPStore
    other: TCPStore

    async def cut(self) -> None:
        """Break the client's connection; return when both sides know."""
        self.proxy.disconnect_all(reset=True)
        while self.client._exchange.outlet.stream is not None:
            await asyncio.sleep(0)


@pytest_asyncio.fixture
async def setting() -> AsyncIterator[Setting]:
    """One of each."""
    async with (
        TCPStoreServer(secret=SECRET) as server,
        ChaosProxy(server.host, server.port) as proxy,
        await TCPStore.connect(proxy.host, proxy.port, secret=SECRET) as client,
        await TCPStore.connect(server.host, server.port, secret=SECRET) as other,
    ):
        yield Setting(server, proxy, client, other)


async def unused_port() -> int:
    """Return a port of loopback on which nobody listens."""
    async with TCPStoreServer(secret=SECRET) as server:
        return server.port


# --- connecting


async def test_nobody_listens() -> None:
    """The error names address, attempts and reason, after the time-out and not before."""
    port = await unused_port()
    with pytest.raises(
        StoreConnectionError, match=rf"127.0.0.1:{port}: \d+ attempts.*ECONNREFUSED"
    ) as caught:
        await TCPStore.connect("127.0.0.1", port, 0.1, secret=SECRET)

    assert caught.value.delivery is Delivery.NOT_SENT
    assert isinstance(caught.value, ConnectionError)


async def test_a_server_that_comes_later_is_found() -> None:
    """Connecting goes on until the server is there."""
    port = await unused_port()
    connecting = asyncio.create_task(TCPStore.connect("127.0.0.1", port, 10, secret=SECRET))
    await asyncio.sleep(0.03)
    async with TCPStoreServer(port=port, secret=SECRET), await connecting as client:
        await client.set("k", "v")


async def test_connecting_can_be_cancelled() -> None:
    """A cancelled connect leaves nothing behind."""
    port = await unused_port()
    connecting = asyncio.create_task(TCPStore.connect("127.0.0.1", port, 10, secret=SECRET))
    await asyncio.sleep(0)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_something_else_listens() -> None:
    """A peer that does not speak the protocol is given up after a few attempts."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(StoreConnectionError, match="3 attempts"):
        await TCPStore.connect("127.0.0.1", port, secret=SECRET)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"port": 0}, "port"),
        ({"port": True}, "port"),
        ({"host": ""}, "host"),
        ({"timeout": -1}, "timeout"),
        ({"secret": b"short"}, "secret"),
        ({"reconnect_timeout": 0}, "reconnect_timeout"),
    ],
)
async def test_bad_arguments_are_named(arguments: dict[str, object], field: str) -> None:
    """Each bad argument is a ValueError that names it."""
    values: dict[str, object] = {"host": "127.0.0.1", "port": 1, "secret": SECRET, **arguments}
    with pytest.raises(ValueError, match=f"^{field} "):
        await TCPStore.connect(**values)  # type: ignore[arg-type] # wrong on purpose


# --- the end


async def test_closing_fails_what_waits(setting: Setting) -> None:
    """Closing ends waits and watches with an error, and is idempotent; later calls fail."""
    client = setting.client
    waiting = asyncio.create_task(client.get("k"))
    watch = client.watch("")
    await client.num_keys()
    await client.close()
    await client.close()

    for operation in (waiting, anext(watch), client.num_keys()):
        with pytest.raises(StoreConnectionError, match="was closed"):
            await operation


async def test_a_client_knows_from_where_it_reaches_the_server() -> None:
    """What others may reach this host at; nothing while there is no connection."""
    async with TCPStoreServer(secret=SECRET) as server:
        client = await TCPStore.connect(server.host, server.port, secret=SECRET)
        connected = client.local_host
        await client.close()

    assert (connected, client.local_host) == ("127.0.0.1", "")


async def test_an_unclosed_client_warns(setting: Setting) -> None:
    """A client that is dropped without being closed is reported, a closed one is not."""
    with pytest.warns(ResourceWarning, match="unclosed <TCPStore tcp://127.0.0.1"):
        setting.client.__del__()
    await setting.client.close()
    setting.client.__del__()


# --- a broken connection


async def test_waits_go_on_after_a_cut(setting: Setting) -> None:
    """get, wait and multi_get survive a broken connection."""
    client = setting.client
    waiting = [
        asyncio.create_task(client.get("a")),
        asyncio.create_task(client.multi_get(["a", "b"])),
    ]
    await client.num_keys()
    await setting.cut()
    await setting.other.multi_set(["a", "b"], ["1", "2"])

    assert await waiting[0] == b"1"
    assert await waiting[1] == [b"1", b"2"]


async def test_calls_of_unknown_fate_fail(setting: Setting) -> None:
    """A write whose reply was lost fails as UNKNOWN; one that was not sent is sent later."""
    client = setting.client
    setting.proxy.pause("up")
    lost = asyncio.create_task(client.add("n", 1))
    while not client._exchange._calls:
        await asyncio.sleep(0)
    await setting.cut()
    setting.proxy.resume("up")
    with pytest.raises(StoreConnectionError, match="before the reply") as caught:
        await lost

    assert caught.value.delivery is Delivery.UNKNOWN
    assert await client.add("m", 1) == 1


async def test_calls_made_meanwhile_are_sent_in_order(setting: Setting) -> None:
    """What is called while there is no connection happens after it is back, in order."""
    await setting.cut()
    results = await asyncio.gather(*(setting.client.add("n", 1) for _ in range(10)))

    assert results == list(range(1, 11))


async def test_watches_resume_after_a_cut(setting: Setting) -> None:
    """A watch misses nothing and repeats nothing, however often the connection is cut."""
    client, other = setting.client, setting.other
    seen = []
    async with client.watch("w/") as watch:
        await client.num_keys()
        for number in range(10):
            await other.set("w/k", str(number))
            if number % 2:
                await setting.cut()
                await other.set("w/k", "cut")
            seen.append((await anext(watch)).value)
        seen += [(await anext(watch)).value for _ in range(5)]

    expected = [
        value for number in range(10) for value in ([b"%d" % number] + [b"cut"] * (number % 2))
    ]
    assert seen == expected


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_watch_is_told_a_long_past(setting: Setting, *, is_cut: bool) -> None:
    """More than may wait for a reader: in portions, once each, and what comes meanwhile."""
    keys = [f"p/{number}" for number in range(5000)]
    for _ in range(4):
        await setting.other.multi_set(keys, [b""] * 5000)
    seen = []
    async with setting.client.watch("p/", since=0) as watch:
        await setting.other.set("p/new", "")
        async for event in watch:
            seen.append(event.version)
            if is_cut and len(seen) in (3000, 12_000):
                await setting.cut()
            if event.key == "p/new":
                break

    assert seen == list(range(1, 20_002))


async def test_a_lease_is_resumed_within_the_grace(setting: Setting) -> None:
    """Reconnecting in time keeps the keys, beyond the grace too."""
    watch = setting.other.watch("")
    async with setting.client.lease(30) as lease:
        await setting.client.set("k", "v", lease=lease)
        await setting.cut()
        await setting.client.num_keys()

        assert lease.is_alive
        records = setting.server._table._leases._leases
        while setting.server.debug_info()["connections"] > 2:
            await setting.other.num_keys()
        assert records[lease.id].deadline - setting.server._clock.time() > 20
    kinds = [(await anext(watch)).kind for _ in range(2)]
    await watch.aclose()
    assert kinds == ["put", "expire"]


@pytest.mark.slow
async def test_a_lease_lapses_after_the_grace(setting: Setting) -> None:
    """Keys of a client that stays away vanish a grace after its connection closed."""
    setting.proxy.refuse()
    async with setting.other.watch("") as watch:
        async with contextlib.AsyncExitStack() as stack:
            lease = await stack.enter_async_context(setting.client.lease(30))
            await setting.client.set("k", "v", lease=lease)
            await setting.cut()
            async with asyncio.timeout(3):
                assert [(await anext(watch)).kind for _ in range(2)] == ["put", "expire"]
            await stack.aclose()
    assert not lease.is_alive


@pytest.mark.slow
async def test_a_store_that_is_gone_fails_all(setting: Setting) -> None:
    """When nobody listens any more, waits, watches and later calls fail, naming the address."""
    client = setting.client
    waiting = asyncio.create_task(client.get("k"))
    watch = client.watch("")
    await client.num_keys()
    setting.proxy.refuse()
    await setting.cut()
    async with asyncio.timeout(3):
        for operation in (waiting, anext(watch), client.add("n", 1)):
            with pytest.raises(StoreConnectionError, match=str(setting.proxy.port)):
                await operation


async def test_another_server_at_the_address_is_another_store(setting: Setting) -> None:
    """A server that was started anew has other keys: nothing resumes on it."""
    client = setting.client
    waiting = asyncio.create_task(client.get("k"))
    await client.num_keys()
    async with TCPStoreServer(secret=SECRET) as fresh:
        setting.proxy._target = (fresh.host, fresh.port)
        await setting.cut()
        with pytest.raises(StoreConnectionError, match="started anew"):
            await waiting
    with pytest.raises(StoreConnectionError):
        await client.set("k", "v")


async def test_a_barrier_that_opened_is_not_entered_twice(setting: Setting) -> None:
    """An arrival whose reply was lost is let through when it is sent again."""
    client, other = setting.client, setting.other
    arriving = asyncio.create_task(client.barrier("b", 2, 5))
    await client.num_keys()
    setting.proxy.pause("down")
    await other.barrier("b", 2, 5)
    await setting.cut()
    setting.proxy.resume("down")
    await arriving

    with pytest.raises(StoreTimeoutError, match="1 of 2"):
        await other.barrier("b", 2, 0)


async def test_a_server_that_does_not_answer_times_out(setting: Setting) -> None:
    """A wait ends in time though the server says nothing, and names what it waited for."""
    setting.proxy.pause("both")
    with pytest.raises(StoreTimeoutError, match="does not answer") as caught:
        await setting.client.wait(["a", "b"], 0.05)

    assert caught.value.keys == ("a", "b")
    setting.proxy.resume("both")


async def test_a_pop_that_came_too_late_is_given_back(setting: Setting) -> None:
    """A value popped for a caller that was cancelled meanwhile goes back to the head."""
    client, other = setting.client, setting.other
    popping = asyncio.create_task(client.queue_pop("q"))
    await client.num_keys()
    setting.proxy.pause("down")
    await other.queue_push("q", "1")
    await other.queue_push("q", "2")
    popping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await popping
    setting.proxy.resume("down")
    await client.num_keys()
    await client.num_keys()

    assert [await other.queue_pop("q"), await other.queue_pop("q")] == [b"1", b"2"]


async def test_a_slow_iterator_is_bounded(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events nobody takes are kept up to a limit; then an error says where to resume."""
    monkeypatch.setattr("asyncrpc.store.watch.MAX_QUEUED", 10)
    client = setting.client
    watch = client.watch("")
    for number in range(15):
        await client.set("k", str(number))
    events = [await anext(watch) for _ in range(10)]
    with pytest.raises(StoreError, match=f"since={events[-1].version}"):
        await anext(watch)
    again = client.watch("", since=events[-1].version)

    assert [(await anext(again)).value for _ in range(5)] == [b"%d" % n for n in range(10, 15)]
    await again.aclose()
    assert not client._exchange._feeds


async def test_a_dropped_watch_is_withdrawn(setting: Setting) -> None:
    """A watch that nobody holds any more is ended in the server too."""
    client = setting.client
    watch = client.watch("")
    await client.num_keys()
    assert setting.server.debug_info()["waiting"] == 1
    del watch
    gc.collect()
    await asyncio.sleep(0)
    await client.num_keys()

    assert setting.server.debug_info()["waiting"] == 0


async def test_a_watch_has_one_reader(setting: Setting) -> None:
    """Two tasks iterating over one watch are a mistake that is reported."""
    watch = setting.client.watch("")
    first = asyncio.create_task(read_one(watch))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        await anext(watch)
    await setting.client.set("k", "v")
    await first
    await watch.aclose()


async def read_one(watch: object) -> object:
    """Take one event, as a coroutine."""
    return await anext(watch)  # type: ignore[call-overload] # any watch


async def test_many_large_values_at_once(setting: Setting) -> None:
    """Batches are cut so that no frame exceeds what the server takes."""
    values = [bytes([number]) * (4 << 20) for number in range(24)]
    client = setting.client
    await asyncio.gather(*(client.set(f"k{index}", value) for index, value in enumerate(values)))
    results = await asyncio.gather(*(client.get(f"k{index}") for index in range(24)))

    assert results == values


async def test_values_beyond_the_limit_are_refused_at_the_call(setting: Setting) -> None:
    """8 MiB pass, a byte more is a ValueError and sends nothing."""
    await setting.client.set("k", bytes(8 << 20))
    with pytest.raises(ValueError, match=r"^value must have at most 8388608 bytes, got 8388609"):
        await setting.client.set("k", bytes((8 << 20) + 1))


async def test_nothing_is_left_of_many_calls(setting: Setting) -> None:
    """After calls that succeed, time out and are cancelled every table is empty."""
    client = setting.client

    async def one(number: int) -> None:
        key = f"k{number % 7}"
        match number % 5:
            case 0:
                await client.set(key, "v")
            case 1:
                await client.delete_key(key)
            case 2:
                with contextlib.suppress(StoreTimeoutError):
                    await client.get("never", 0.001)
            case 3:
                task = asyncio.create_task(client.queue_pop("never", timeout=10))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            case 4:
                await client.watch("").aclose()

    await asyncio.gather(*(one(number) for number in range(500)))
    await client.num_keys()

    assert not client._exchange._calls
    assert not client._exchange._callbacks
    assert not client._exchange._feeds
    assert setting.server.debug_info()["waiting"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_linearizable_under_cuts(setting: Setting, seed: int) -> None:
    """With connections cut at any time, what clients saw is still explained by one order."""
    history = History()
    clients = [
        await TCPStore.connect(setting.proxy.host, setting.proxy.port, secret=SECRET)
        for _ in range(4)
    ]
    recorders = [Recorder(client, history) for client in clients]
    kinds: tuple[Kind, ...] = ("set", "get", "add", "compare_set", "delete_key", "get")

    async def work(recorder: Recorder, number: int) -> None:
        for step in range(80):
            choice = (seed * 7 + number * 13 + step * 5) % 30
            kind = kinds[choice % 6]
            fresh = b"%d" % (number * 1000 + step)
            arguments: dict[str, tuple[bytes | int, ...]] = {
                "set": (fresh,),
                "add": (1,),
                "compare_set": (b"", fresh),
            }
            await recorder.run(kind, f"k{choice % 3}", *arguments.get(kind, ()))

    async def cut() -> None:
        for _ in range(10):
            await asyncio.sleep(0.01)
            setting.proxy.disconnect_all(reset=True)

    await asyncio.gather(cut(), *(work(item, index) for index, item in enumerate(recorders)))
    for client in clients:
        await client.close()

    assert find_violation(history.operations) is None
    assert len(history.operations) > 200


async def test_a_feed_stops_when_it_ended() -> None:
    """Events after the end are not taken in."""
    feed = Feed("p")
    feed.end(None)
    feed.end(StoreError("late"))

    with pytest.raises(StopAsyncIteration):
        await feed.take()
