"""asyncrpc as its users have it: every feature on, an `async def` function, a static group of two.

Variants: tcp and unix move every byte through the socket; shm leaves `shared_memory_threshold` at
its default; spin polls busily for 100 us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncrpc as rpc
from harness.async_load import AsyncClient, run_load

__all__ = ("connection_options", "echo", "finish", "measure", "serve", "take")

_NEVER_SHARED = 1 << 40
"""A threshold in bytes that no message reaches."""


async def echo(value: object) -> object:
    """Give the argument back."""
    return value


async def take(array: object) -> int:
    """Take an array and say how large it was."""
    return array.nbytes  # type: ignore[attr-defined,no-any-return]


_finished = asyncio.Event()


async def finish() -> None:
    """Let the server leave the group."""
    _finished.set()


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Join as rank 0 and serve until the client says it is finished."""

    async def main() -> None:
        ready(f"tcp://127.0.0.1:{spec['port']}")
        async with rpc.init_rpc(
            "server", rank=0, world_size=2, options=connection_options(spec, "server")
        ):
            await _finished.wait()

    rpc.run(main())


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and run the load."""
    client = AsyncClient(call=_call, send_array=_send_array, echo_array=_call)

    async def main() -> dict[str, float]:
        async with rpc.init_rpc(
            "client", rank=1, world_size=2, options=connection_options(spec, "client")
        ):
            figures = await run_load(client, spec)
            await rpc.rpc_async("server", finish)
        return figures

    result: dict[str, float] = rpc.run(main())
    return result


def _call(value: object) -> Awaitable[object]:
    return rpc.rpc_async("server", echo, args=(value,))


def _send_array(array: object) -> Awaitable[object]:
    return rpc.rpc_async("server", take, args=(array,))


def connection_options(spec: dict[str, object], name: str) -> rpc.RpcOptions:
    """Return the options of one side of a pair: how the spec's variant connects."""
    folder, variant = Path(str(spec["folder"])), spec["variant"]
    changes: dict[str, object] = {}
    if variant == "spin":
        changes["busy_poll"] = 100e-6
    elif variant != "shm" and "shared_memory_threshold" in rpc.RpcOptions.__dataclass_fields__:
        changes["shared_memory_threshold"] = _NEVER_SHARED
    listen = f"unix://{folder}/{name}.sock" if variant == "unix" else "tcp://127.0.0.1:0"
    return rpc.RpcOptions(
        init_method=f"tcp://127.0.0.1:{spec['port']}",
        listen=listen,
        secret=folder / "secret",
        init_timeout=20.0,
        **changes,  # type: ignore[arg-type]
    )
