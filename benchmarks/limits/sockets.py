"""Listening and connecting for the limit rows: TCP or unix on uvloop, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import uvloop

__all__ = ("dial", "serve_forever")

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


def serve_forever(
    spec: dict[str, object],
    ready: Callable[[str], None],
    *make_protocols: Callable[[], asyncio.BaseProtocol],
) -> None:
    """Serve each protocol on its own port of 127.0.0.1 or unix socket until killed."""
    uvloop.run(_serve(spec, ready, make_protocols))


async def _serve(
    spec: dict[str, object],
    ready: Callable[[str], None],
    make_protocols: tuple[Callable[[], asyncio.BaseProtocol], ...],
) -> None:
    loop = asyncio.get_running_loop()
    endpoints = []
    for index, make_protocol in enumerate(make_protocols):
        if spec["variant"] == "unix":
            endpoints.append(f"{spec['folder']}/limit-{index}.sock")
            await loop.create_unix_server(make_protocol, endpoints[-1], backlog=512)
        else:
            server = await loop.create_server(make_protocol, "127.0.0.1", 0, backlog=512)
            endpoints.append(str(server.sockets[0].getsockname()[1]))
    ready(",".join(endpoints))
    await asyncio.Event().wait()


async def dial(spec: dict[str, object], make_protocol: Callable[[], _P], index: int = 0) -> _P:
    """Connect to the protocol of that index given to `serve_forever`."""
    loop = asyncio.get_running_loop()
    endpoint = str(spec["endpoint"]).split(",")[index]
    if spec["variant"] == "unix":
        return (await loop.create_unix_connection(make_protocol, endpoint))[1]
    return (await loop.create_connection(make_protocol, "127.0.0.1", int(endpoint)))[1]
