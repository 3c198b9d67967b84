"""A large group on a small machine: 64 processes start, meet and end on default settings."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from asyncrpc.store import TCPStoreServer
from tests.agent.processes import SECRET, started, write_secret

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("many.py")


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("kind", "count"), [("static", 64), ("dynamic", 32)])
async def test_start_and_barrier(tmp_path: Path, kind: str, count: int) -> None:
    """All know each other, pass a barrier and leave; the store's work is linear in the group."""
    async with TCPStoreServer(secret=SECRET) as server:
        environ = {
            "ASYNCRPC_SECRET_FILE": str(write_secret(tmp_path)),
            "LAUNCHER_STORE": f"tcp://{server.host}:{server.port}",
            "WORKERS": str(count),
        }
        size = {"WORLD_SIZE": str(count)} if kind == "static" else {}
        environs = [{**environ, **size, "RANK": str(rank)} for rank in range(count)]
        start = time.monotonic()
        async with started(*environs, script=SCRIPT) as workers:
            met = [await worker.line() for worker in workers]
            passed = [await worker.line() for worker in workers]
            codes = await asyncio.gather(*[worker.process.wait() for worker in workers])
        span = time.monotonic() - start
        writes = server.debug_info()["version"]

    assert [f"{count} members"] * count == met
    assert ["passed"] * count == passed
    assert [0] * count == codes
    assert writes < 12 * count
    assert span < 200
