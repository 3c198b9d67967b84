"""dask.distributed's own rpc between two of its servers: a handler on the loop, no scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import dask
from distributed.core import Server, rpc
from distributed.protocol import to_serialize

from harness.async_load import AsyncClient, run_load

__all__ = ("measure", "serve")

dask.config.set({"distributed.comm.compression": None})


async def _echo(value: object) -> object:
    return to_serialize(value) if hasattr(value, "nbytes") else value


async def _take(value: object) -> int:
    return value.nbytes  # type: ignore[attr-defined]  # an array


async def _hang() -> None:
    await asyncio.Event().wait()


def serve(_spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve until killed."""

    async def main() -> None:
        server = Server({"echo": _echo, "take": _take, "hang": _hang})
        await server.listen("tcp://127.0.0.1:0")
        ready(server.address)
        await asyncio.Event().wait()

    asyncio.run(main())


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run the load."""

    async def main() -> dict[str, float]:
        async with rpc(str(spec["endpoint"])) as remote:

            def call(value: object) -> Awaitable[object]:
                return remote.echo(value=value)

            def send(array: object) -> Awaitable[object]:
                return remote.take(value=to_serialize(array))

            def back(array: object) -> Awaitable[object]:
                return remote.echo(value=to_serialize(array))

            client = AsyncClient(call=call, hang=remote.hang, send_array=send, echo_array=back)
            return await run_load(client, spec)

    return asyncio.run(main())
