"""Redis with redis.asyncio: a real server on a free port of loopback that keeps nothing on disk."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable

import redis.asyncio
import uvloop

__all__ = ("connect", "run", "serve")

run = uvloop.run

_COMPARE_SET = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end "
    "return redis.call('GET', KEYS[1])"
)
_START_TIMEOUT = 10.0  # seconds


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve a store until killed; setpriv lets the server end with this process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    command = ["setpriv", "--pdeathsig", "KILL", "redis-server", "--port", str(port)]
    options = ["--bind", "127.0.0.1", "--save", "", "--dir", str(spec["folder"])]
    server = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                ready(str(port))
                threading.Event().wait()
        time.sleep(0.02)
    raise RuntimeError(f"redis-server did not start within {_START_TIMEOUT:g} s")


class _Store:
    def __init__(self, client: redis.asyncio.Redis) -> None:
        self.set, self.get, self.wait = client.set, client.get, client.exists
        self.add = client.incrby
        self.close = client.aclose
        self._client = client
        self._script = client.register_script(_COMPARE_SET)

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> Awaitable[object]:
        return self._script(keys=[key], args=[expected, desired])

    async def barrier(self, key: str, world_size: int) -> None:
        """Return once `world_size` clients have called it: the last one wakes the others."""
        if await self._client.incr(f"{key}/count") == world_size:
            await self._client.rpush(f"{key}/done", *range(world_size))
        await self._client.blpop([f"{key}/done"], timeout=30)


async def connect(spec: dict[str, object]) -> _Store:
    """Make one client; it opens its connections as they are needed."""
    client = redis.asyncio.Redis(port=int(str(spec["endpoint"])))
    await client.ping()
    return _Store(client)
