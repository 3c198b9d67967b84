"""LIMIT MIN: the minimal honest RPC on uvloop, one write per loop turn.

msgpack both ways, a dict of futures, handlers found by name, `async def` handlers started at once
(without a task). No timeout, error, cancellation, authentication, back-pressure; a handler that
suspends is refused. It bounds what an RPC system in Python can reach; it is not one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import uvloop
from msgpack import packb, unpackb

from harness.async_load import AsyncClient, run_load
from limits.framing import FrameProtocol
from limits.sockets import dial, serve_forever

__all__ = ("MinClient", "MinServer", "measure", "serve")


async def echo(value: object) -> object:
    """Give the argument back."""
    return value


HANDLERS = {"echo": echo}


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve `HANDLERS` until killed."""
    serve_forever(spec, ready, MinServer)


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run the load."""
    return uvloop.run(_measure(spec))


async def _measure(spec: dict[str, object]) -> dict[str, float]:
    return await run_load(AsyncClient(call=(await dial(spec, MinClient)).call), spec)


class MinServer(FrameProtocol):
    """Calls a handler for each frame."""

    def frame_received(self, call_id: int, payload: bytes | bytearray) -> None:
        name, args = unpackb(payload)
        try:
            HANDLERS[name](*args).send(None)
        except StopIteration as finished:
            self.send(call_id, packb(finished.value))
        else:
            raise RuntimeError("the MIN row has no suspending handlers")


class MinClient(FrameProtocol):
    """Gives each frame to the call that waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: dict[int, asyncio.Future[object]] = {}
        self._next_id = 0
        self.call = partial(self.request, "echo")

    async def request(self, name: str, *args: object) -> object:
        """Call a handler by name."""
        self._next_id = call_id = self._next_id + 1
        self._pending[call_id] = future = self._loop.create_future()
        self.send(call_id, packb((name, args)))
        return await future

    def frame_received(self, call_id: int, payload: bytes | bytearray) -> None:
        self._pending.pop(call_id).set_result(unpackb(payload))
