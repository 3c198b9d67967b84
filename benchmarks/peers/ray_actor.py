"""A Ray actor with coroutine methods, awaited. Ray's own processes are started by the client."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable

import ray

from harness.async_load import AsyncClient, run_load

__all__ = ("measure", "serve")


@ray.remote(max_concurrency=1024)
class _Actor:
    async def pid(self) -> int:
        return os.getpid()

    async def echo(self, value: object) -> object:
        return value

    async def take(self, array: object) -> int:
        return array.nbytes  # type: ignore[attr-defined]  # an array

    async def hang(self) -> None:
        await asyncio.Event().wait()


def serve(_spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Wait until killed: Ray ends its processes with the one that started them, the client."""
    ready("")
    threading.Event().wait()


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Start Ray and one actor, and run the load."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=str(spec["folder"]),
        object_store_memory=1 << 30,
    )
    try:
        actor = _Actor.remote()  # type: ignore[attr-defined]  # the decorator has no types
        return asyncio.run(_measure(actor, spec | {"server_pid": ray.get(actor.pid.remote())}))
    finally:
        ray.shutdown()


async def _measure(actor: ray.actor.ActorHandle, spec: dict[str, object]) -> dict[str, float]:
    def call(value: object) -> Awaitable[object]:
        return actor.echo.remote(value)

    def send(array: object) -> Awaitable[object]:
        return actor.take.remote(array)

    client = AsyncClient(call=call, hang=actor.hang.remote, send_array=send, echo_array=call)
    return await run_load(client, spec)
