"""A server and a client of asyncrpc, for each module here that measures it: every feature on.

Such a module imports `serve`, and gives its measurement to `as_client`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncrpc as rpc

__all__ = ("as_client", "connection_options", "finish", "finished", "serve")

_NEVER_SHARED = 1 << 40
"""A threshold in bytes that no message reaches."""

_finished = asyncio.Event()


async def finish() -> None:
    """Let the server leave the group."""
    _finished.set()


async def finished() -> None:
    """Wait until the client has called `finish`."""
    await _finished.wait()


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Join as rank 0 and serve until the client says it is finished."""

    async def main() -> None:
        ready(f"tcp://127.0.0.1:{spec['port']}")
        options = connection_options(spec, "server")
        async with rpc.init_rpc("server", rank=0, world_size=2, options=options):
            await finished()

    rpc.run(main())


def as_client(
    spec: dict[str, object], measure: Callable[[], Awaitable[dict[str, float]]]
) -> dict[str, float]:
    """Join as rank 1, measure, and let the server go unless the load was its loss."""

    async def main() -> dict[str, float]:
        options = connection_options(spec, "client")
        async with rpc.init_rpc("client", rank=1, world_size=2, options=options):
            figures = await measure()
            if "signal" not in spec:
                await rpc.rpc_async("server", finish)
        return figures

    result: dict[str, float] = rpc.run(main())
    return result


def connection_options(spec: dict[str, object], name: str) -> rpc.RpcOptions:
    """Return the options of one side of a pair: how the spec's variant connects.

    Variants: tcp and unix move every byte through the socket; shm leaves
    `shared_memory_threshold` at its default; spin polls busily for 100 us.
    """
    folder, variant = Path(str(spec["folder"])), spec["variant"]
    changes: dict[str, object] = {}
    if variant == "spin":
        changes["busy_poll"] = 100e-6
    elif variant != "shm":
        changes["shared_memory_threshold"] = _NEVER_SHARED
    listen = f"unix://{folder}/{name}.sock" if variant == "unix" else "tcp://127.0.0.1:0"
    return rpc.RpcOptions(
        init_method=f"tcp://127.0.0.1:{spec['port']}",
        listen=listen,
        secret=folder / "secret",
        init_timeout=20.0,
        **changes,  # type: ignore[arg-type]  # of any kind
    )
