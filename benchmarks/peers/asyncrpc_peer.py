"""asyncrpc as its users have it: an `async def` function in a static group of two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import asyncrpc as rpc
from harness.async_load import AsyncClient, run_load
from peers.asyncrpc_group import as_client, serve

__all__ = ("echo", "hang", "measure", "serve", "take")


async def echo(value: object) -> object:
    """Give the argument back."""
    return value


async def take(array: object) -> int:
    """Take an array and say how large it was."""
    return array.nbytes  # type: ignore[attr-defined,no-any-return]


async def hang() -> None:
    """Never answer."""
    await asyncio.Event().wait()


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and run the load."""
    client = AsyncClient(call=_call, hang=_hang, send_array=_send_array, echo_array=_call)
    return as_client(spec, lambda: run_load(client, spec))


def _call(value: object) -> Awaitable[object]:
    return rpc.rpc_async("server", echo, args=(value,))


def _send_array(array: object) -> Awaitable[object]:
    return rpc.rpc_async("server", take, args=(array,))


def _hang() -> Awaitable[object]:
    return rpc.rpc_async("server", hang, timeout=0)
