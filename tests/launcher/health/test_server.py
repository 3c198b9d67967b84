"""`launcher.health.HealthServer`: pages, and those who would hold it up."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from launcher.health import HealthServer, RunStatus, WorkerStatus, listen, status_routes
from launcher.health import server as server_module

pytestmark = pytest.mark.asyncio

STATUS = RunStatus(
    run_id='a "run"',
    round=2,
    nodes=1,
    workers=[WorkerStatus(0, 0, 7, "HEALTHY", 1), WorkerStatus(1, 1, 8, "SUCCEEDED", 1)],
    state="HEALTHY",
    node_rank=0,
    name="train.py",
    role="r",
    restarts=1,
    max_restarts=3,
    pid=6,
    seconds=1.5,
    log_dir=None,
)


class Page:
    """A server of one run, and how to ask it."""

    def __init__(self) -> None:
        self.status = STATUS
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()

    async def say(self, data: bytes) -> bytes:
        """Send bytes, and return all that comes back."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Return status and body of a page."""
        answer = await self.say(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()


@pytest_asyncio.fixture
async def page() -> AsyncIterator[Page]:
    """Return a server that is closed at the end."""
    page = Page()
    async with HealthServer(page.listening, status_routes(lambda: page.status)):
        yield page


async def test_the_status_is_json(page: Page) -> None:
    """With the fields that are promised, and more."""
    code, body = await page.get("/status")
    told = json.loads(body)

    assert code == 200
    assert (told["run_id"], told["round"], told["nodes"]) == ('a "run"', 2, 1)
    assert [
        [worker[key] for key in ("rank", "local_rank", "pid", "state", "restarts")]
        for worker in told["workers"]
    ] == [[0, 0, 7, "HEALTHY", 1], [1, 1, 8, "SUCCEEDED", 1]]


async def test_health_is_that_of_the_group(page: Page) -> None:
    """A run that failed for good is not well."""
    well = await page.get("/healthz")
    page.status = STATUS._replace(state="FAILED")

    assert well == (200, "ok: HEALTHY\n")
    assert await page.get("/healthz") == (503, "failed: FAILED\n")


async def test_metrics_are_prometheus_text(page: Page) -> None:
    """With what people called things escaped."""
    code, body = await page.get("/metrics")

    assert code == 200
    assert 'launcher_info{run_id="a \\"run\\"",role="r",state="HEALTHY"} 1\n' in body
    assert "# TYPE launcher_restarts_total counter\nlauncher_restarts_total 1\n" in body
    assert 'launcher_workers{state="HEALTHY"} 1\nlauncher_workers{state="SUCCEEDED"} 1\n' in body


async def test_other_paths_and_methods(page: Page) -> None:
    """They are told what there is."""
    assert await page.get("/") == (404, "expected one of /healthz, /metrics, /status\n")
    assert await page.get("/status", "POST") == (405, "expected GET, HEAD, got POST\n")
    assert (await page.get("/status", "HEAD")) == (200, "")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0\1\2\n\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\n\r\n", 400),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
    ],
    ids=["bytes", "tls", "long line", "many fields", "body"],
)
async def test_hostile_input_gets_an_error(page: Page, data: bytes, code: int) -> None:
    """And the next one its page."""
    answer = await page.say(data)

    assert answer.startswith(f"HTTP/1.1 {code} ".encode())
    assert (await page.get("/healthz"))[0] == 200


async def test_whoever_says_nothing_is_dropped(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, with what was begun."""
    monkeypatch.setattr(server_module, "_TIMEOUT", 0.1)

    assert await page.say(b"GET / HT") == b""


async def test_too_many_at_once_are_dropped(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came first are served."""
    monkeypatch.setattr(server_module, "_MAX_CONNECTIONS", 2)
    kept = [await asyncio.open_connection(*page.address) for _ in range(3)]
    try:
        # The third is closed without a word, which also shows that the first two are counted.
        with pytest.raises(ConnectionError):
            if await asyncio.wait_for(kept[2][0].read(), 10) == b"":
                raise ConnectionResetError
        kept[0][1].write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await kept[0][0].read()).startswith(b"HTTP/1.1 200 ")
    finally:
        for _, writer in kept:
            writer.close()


async def test_leaving_ends_what_is_under_way() -> None:
    """No task is left, and nobody listens."""
    page = Page()
    async with HealthServer(page.listening, status_routes(lambda: STATUS)):
        _, writer = await asyncio.open_connection(*page.address)
        writer.write(b"GET")
        await page.get("/healthz")
    writer.close()

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*page.address)


async def test_a_port_in_use_is_refused() -> None:
    """By the system's error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", taken.getsockname()[1])
