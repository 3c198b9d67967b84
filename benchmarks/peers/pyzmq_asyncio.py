"""pyzmq (zmq.asyncio on uvloop) with msgpack: DEALER and ROUTER, a dict of futures.

Two sockets, each at its best: one copies messages, which is faster when they are small; the other
sends and receives arrays as frames of their own, without a copy by pyzmq.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import uvloop
import zmq
import zmq.asyncio

from harness.async_load import AsyncClient, run_load

__all__ = ("measure", "serve")


def serve(_spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve until killed."""
    uvloop.run(_serve(ready))


async def _serve(ready: Callable[[str], None]) -> None:
    with (
        zmq.asyncio.Context() as context,
        context.socket(zmq.ROUTER) as small,
        context.socket(zmq.ROUTER) as large,
    ):
        ports = [router.bind_to_random_port("tcp://127.0.0.1") for router in (small, large)]
        ready(f"{ports[0]},{ports[1]}")
        await asyncio.gather(_serve_small(small), _serve_arrays(large))


async def _serve_small(router: zmq.asyncio.Socket) -> None:
    while True:
        peer, request = await router.recv_multipart()
        call_id, value = msgpack.unpackb(request)
        await router.send_multipart([peer, msgpack.packb((call_id, await _echo(value)))])


async def _echo(value: object) -> object:
    return value


async def _serve_arrays(router: zmq.asyncio.Socket) -> None:
    while True:
        peer, head, body = await router.recv_multipart(copy=False)
        name, dtype, shape = msgpack.unpackb(head.buffer)
        array = np.frombuffer(body.buffer, dtype=dtype).reshape(shape)
        reply = array if name == "echo" else str(array.nbytes).encode()
        await router.send_multipart([peer, head, reply], copy=False)


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run the load."""
    return uvloop.run(_measure(spec))


async def _measure(spec: dict[str, object]) -> dict[str, float]:
    with (
        zmq.asyncio.Context() as context,
        context.socket(zmq.DEALER) as small,
        context.socket(zmq.DEALER) as large,
    ):
        for dealer, port in zip((small, large), str(spec["endpoint"]).split(","), strict=True):
            dealer.linger = 0
            dealer.connect(f"tcp://127.0.0.1:{port}")
        calls = _Calls(small, large)
        client = AsyncClient(
            call=calls.echo,
            hang=calls.hang,
            send_array=calls.send_array,
            echo_array=calls.echo_array,
        )
        reader = asyncio.create_task(calls.read())
        try:
            return await run_load(client, spec)
        finally:
            reader.cancel()


class _Calls:
    def __init__(self, small: zmq.asyncio.Socket, large: zmq.asyncio.Socket) -> None:
        self._small, self._large = small, large
        self._pending: dict[int, asyncio.Future[object]] = {}
        self._ids = itertools.count()
        self._loop = asyncio.get_running_loop()

    async def echo(self, value: object) -> object:
        call_id = next(self._ids)
        self._pending[call_id] = future = self._loop.create_future()
        await self._small.send_multipart([msgpack.packb((call_id, value))])
        return await future

    async def hang(self) -> object:
        """Wait for a reply that never comes: nothing but that is what sockets offer here."""
        return await self._large.recv_multipart()

    async def read(self) -> None:
        """Resolve the futures of small calls until cancelled."""
        while True:
            (reply,) = await self._small.recv_multipart()
            call_id, result = msgpack.unpackb(reply)
            self._pending.pop(call_id).set_result(result)

    async def send_array(self, array: np.ndarray) -> object:
        _, reply = await self._exchange("take", array)
        return int(reply.bytes)

    async def echo_array(self, array: np.ndarray) -> object:
        head, body = await self._exchange("echo", array)
        _, dtype, shape = msgpack.unpackb(head.buffer)
        return np.frombuffer(body.buffer, dtype=dtype).reshape(shape)

    async def _exchange(self, name: str, array: np.ndarray) -> Any:
        """Send one array and wait for the reply: arrays are never pipelined here."""
        head = msgpack.packb((name, array.dtype.str, array.shape))
        await self._large.send_multipart([head, array], copy=False)
        return await self._large.recv_multipart(copy=False)
