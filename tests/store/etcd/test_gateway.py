"""`asyncrpc.store.etcd.gateway`: whichever member answers, and what each answer means."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from asyncrpc.errors import AuthenticationError, Delivery, StatusCode
from asyncrpc.store import (
    EtcdCredentials,
    EtcdStore,
    StoreConnectionError,
    StoreError,
    StoreTimeoutError,
)
from asyncrpc.testing import ChaosProxy
from launcher.testing import EtcdCluster
from tests.etcd import etcd, needs_etcd, new_url, on_one_loop
from tests.launcher.rendezvous.meeting import free_endpoint

__all__ = ("etcd", "new_url")

pytestmark = on_one_loop


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[ChaosProxy, str]]:
    """Give a bad network to the one member of a URL, and the URL that goes through it."""
    member, _, prefix = url.removeprefix("etcd://").partition("/")
    host, port = member.rsplit(":", 1)
    async with ChaosProxy(host, int(port)) as proxy:
        yield proxy, f"etcd://{proxy.host}:{proxy.port}/{prefix}"


@asynccontextmanager
async def answering(replies: dict[str, tuple[int, str]]) -> AsyncIterator[str]:
    """Serve some replies by path; give the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
        status, text = replies.get(path, (404, "Not Found"))
        head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n"
        writer.write((head + text).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        ("2.3.8", "is version 2.3.8, which speaks only the v2 API: version 3.4 or later is needed"),
        ("3.3.27", "is version 3.3.27, which has no gateway at /v3: version 3.4 or later is"),
        ("", "is no etcd: it says version ''"),
    ],
)
async def test_servers_of_no_use_are_named(version: str, problem: str) -> None:
    """At once, with what is needed."""
    text = json.dumps({"etcdserver": version, "etcdcluster": version})
    async with answering({"/version": (200, text)}) as address:
        with pytest.raises(StoreError) as caught:
            await EtcdStore.connect(f"etcd://{address}", 20)

    assert problem in str(caught.value)


async def test_a_server_whose_gateway_is_off_is_named() -> None:
    """It has the version, but nothing behind it."""
    async with answering({"/version": (200, '{"etcdserver": "3.5.1"}')}) as address:
        with pytest.raises(StoreError, match=r"has no v3 gateway at /v3"):
            await EtcdStore.connect(f"etcd://{address}", 20)


async def test_something_else_is_not_waited_for_in_silence() -> None:
    """What it said is part of the error."""
    async with answering({"/version": (200, "<html>")}) as address:
        with pytest.raises(StoreConnectionError, match=r"no etcd answers like that") as caught:
            await EtcdStore.connect(f"etcd://{address}", 0.3)

    assert address in str(caught.value)


async def test_without_aiohttp_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(StoreError, match=r"needs aiohttp: pip install 'asyncrpc\[etcd\]'"):
        await EtcdStore.connect("etcd://127.0.0.1:1", 5)


async def test_nobody_there() -> None:
    """Every member was asked, and nothing was sent."""
    one, two = free_endpoint(), free_endpoint()
    with pytest.raises(StoreConnectionError, match=r"attempts in .* Connection refused") as caught:
        await EtcdStore.connect(f"etcd://{one},{two}", 0.2)

    assert caught.value.delivery is Delivery.NOT_SENT


@needs_etcd
async def test_a_member_that_is_not_there_is_passed_over(new_url: Callable[[], str]) -> None:
    """Whichever stands first."""
    url = new_url().replace("etcd://", f"etcd://{free_endpoint()},")
    async with await EtcdStore.connect(url, 20) as store:
        assert await store.add("n", 2) == 2


@needs_etcd
async def test_writes_happen_once_however_often_they_are_sent(new_url: Callable[[], str]) -> None:
    """Though connections break at any moment, also between a write and its answer."""
    async with proxied(new_url()) as (proxy, url), await EtcdStore.connect(url, 20) as store:

        async def break_connections() -> None:
            while True:
                await asyncio.sleep(0.02)
                proxy.disconnect_all(reset=True)

        breaking = asyncio.create_task(break_connections())
        for number in range(20):
            await store.add("n", 1)
            await store.append("log", f"{number} ")
            await store.queue_push("q", str(number))
        proxy.heal()
        popped = [await store.queue_pop("q") for _ in range(20)]
        breaking.cancel()
        found = await store.multi_get(["n", "log"])

        assert found == [b"20", "".join(f"{number} " for number in range(20)).encode()]
        assert popped == [b"%d" % number for number in range(20)]


@needs_etcd
async def test_what_is_not_answered_in_time_fails_in_time(new_url: Callable[[], str]) -> None:
    """The operation's own time counts, not the member's."""
    async with proxied(new_url()) as (proxy, url), await EtcdStore.connect(url, 20) as store:
        proxy.pause()
        with pytest.raises(StoreTimeoutError, match="does not answer, keys: key") as caught:
            await store.get("key", 0.05)
        assert caught.value.keys == ("key",)
        proxy.resume()
        await store.set("key", "value")

        assert await store.get("key") == b"value"


@needs_etcd
async def test_closing_fails_what_waits(new_url: Callable[[], str]) -> None:
    """And all that comes later, which was not sent."""
    async with await EtcdStore.connect(new_url(), 20) as store:
        watch = store.watch("k")
        waits = [
            asyncio.create_task(store.get("never")),
            asyncio.create_task(store.queue_pop("never")),
            asyncio.create_task(store.barrier("never", 2)),
            asyncio.ensure_future(anext(watch)),
        ]
        await store.num_keys()
        await store.close()
        failed = await asyncio.gather(*waits, return_exceptions=True)
        with pytest.raises(StoreConnectionError, match="was closed") as caught:
            await store.set("k", "v")

    assert [type(error) for error in failed] == [StoreConnectionError] * 4
    assert all("was closed" in str(error) for error in failed)
    assert caught.value.delivery is Delivery.NOT_SENT


@needs_etcd
async def test_what_is_too_large_is_refused(new_url: Callable[[], str]) -> None:
    """A value at the call, several together by etcd, with the option that limits it."""
    async with await EtcdStore.connect(new_url(), 20) as store:
        with pytest.raises(ValueError, match="value must have at most 1048576 bytes"):
            await store.set("key", bytes((1 << 20) + 1))
        with pytest.raises(StoreError, match="--max-request-bytes") as caught:
            await store.multi_set(["a", "b", "c"], [bytes(700_000)] * 3)
        assert caught.value.code is StatusCode.RESOURCE_EXHAUSTED
        await store.multi_set([f"{number}" for number in range(500)], ["x"] * 500)

        assert await store.num_keys() == 500
        assert len(await store.multi_get([f"{number}" for number in range(500)])) == 500


@needs_etcd
async def test_tokens_are_renewed() -> None:
    """They last a second here; a wrong password is told at once, and no password as well."""
    with EtcdCluster(options=("--auth-token-ttl=1",)) as cluster:
        cluster.demand_password("root", "hunter2")
        url = cluster.url("p")
        good = EtcdCredentials(user="root", password="hunter2")
        async with await EtcdStore.connect(url, 20, good) as store:
            watch = store.watch("")
            await store.set("a", "1")
            await asyncio.sleep(2.1)
            probe = {"key": "AA=="}
            await asyncio.gather(*(store._gateway.call("/v3/kv/range", probe) for _ in range(9)))
            await store.set("a", "2")
            events = [await anext(watch) for _ in range(2)]
            await watch.aclose()
        with pytest.raises(AuthenticationError, match="does not accept user 'root'"):
            await EtcdStore.connect(url, 20, EtcdCredentials(user="root", password="x"))
        with pytest.raises(AuthenticationError, match="wants user and password"):
            await EtcdStore.connect(url, 20)

    assert [event.value for event in events] == [b"1", b"2"]


@pytest.fixture
def authority() -> trustme.CA:
    """Return what both sides trust."""
    return trustme.CA()


@pytest.fixture
def secured(authority: trustme.CA, tmp_path: Path) -> Iterator[tuple[EtcdCluster, EtcdCredentials]]:
    """Give an etcd that speaks TLS and asks for a certificate, and what lets one in."""
    paths = {name: str(tmp_path / name) for name in ("cacert", "server", "client")}
    authority.cert_pem.write_to_path(paths["cacert"])
    for name in ("server", "client"):
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(paths[name])
    tls = {"cert": paths["server"], "key": paths["server"], "cacert": paths["cacert"]}
    with EtcdCluster(tls=tls) as cluster:
        yield cluster, EtcdCredentials(cacert=paths["cacert"], cert=paths["client"])


@needs_etcd
async def test_a_member_without_tls_is_not_asked_by_it(etcd: EtcdCluster) -> None:
    """The error says what happened, and what to leave out."""
    expected = r"failed with 127\.0\.0\.1:\d+: disconnected when TLS was to begin; if it does not"
    with pytest.raises(StoreConnectionError, match=expected):
        await EtcdStore.connect(etcd.url("p"), 1, EtcdCredentials(protocol="https"))


async def test_certificates(secured: tuple[EtcdCluster, EtcdCredentials], tmp_path: Path) -> None:
    """Both sides show one; who has none, or trusts another authority, is told at once."""
    cluster, credentials = secured
    url = cluster.url("p")
    async with await EtcdStore.connect(url, 20, credentials) as store:
        await store.set("a", "1")
        async with store.watch("a", since=0) as watch:
            assert (await anext(watch)).value == b"1"
    other = tmp_path / "other"
    trustme.CA().cert_pem.write_to_path(str(other))
    with pytest.raises(StoreConnectionError, match="certificate verify failed"):
        await EtcdStore.connect(url, 20, EtcdCredentials(cacert=str(other)))
    with pytest.raises(StoreConnectionError, match="if it speaks TLS, say so: protocol=https"):
        await EtcdStore.connect(url, 0.1)
    with pytest.raises(StoreConnectionError, match=r"bad certificate|certificate required") as info:
        await EtcdStore.connect(url, 20, EtcdCredentials(cacert=credentials.cacert))
    assert info.value.code is StatusCode.UNAUTHENTICATED
