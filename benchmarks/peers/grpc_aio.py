"""grpc.aio with a generic handler and msgpack, so that no generated code is needed.

On uvloop, where it is a little faster than on the standard loop.
Arrays travel as msgpack of dtype, shape and `tobytes()`; messages are unlimited in size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import msgpack
import numpy as np
import uvloop

from harness.async_load import AsyncClient, run_load

__all__ = ("measure", "serve")

_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def serve(_spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve until killed."""
    uvloop.run(_serve(ready))


async def _serve(ready: Callable[[str], None]) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            handler, request_deserializer=msgpack.unpackb, response_serializer=msgpack.packb
        )
        for name, handler in (("Echo", _echo), ("Take", _take), ("Hang", _hang))
    }
    methods["Items"] = grpc.unary_stream_rpc_method_handler(
        _items, request_deserializer=msgpack.unpackb, response_serializer=msgpack.packb
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bench", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(f"127.0.0.1:{port}")
    await server.wait_for_termination()


async def _echo(request: object, _context: object) -> object:
    return request


async def _take(request: object, _context: object) -> object:
    return _array_from(request).nbytes


async def _items(request: Any, _context: object) -> AsyncIterator[object]:
    count, value = request
    for _ in range(count):
        yield value


async def _hang(_request: object, _context: object) -> object:
    return await asyncio.Event().wait()


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run the load."""
    return uvloop.run(_measure(spec))


async def _measure(spec: dict[str, object]) -> dict[str, float]:
    async with grpc.aio.insecure_channel(str(spec["endpoint"]), options=_OPTIONS) as channel:
        calls = _Calls(channel)
        client = AsyncClient(
            call=calls.echo,
            hang=calls.hang,
            send_array=calls.send_array,
            echo_array=calls.echo_array,
        )
        return await run_load(client, spec)


class _Calls:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.echo, self._take, self._hang = (
            channel.unary_unary(
                f"/Bench/{name}",
                request_serializer=msgpack.packb,
                response_deserializer=msgpack.unpackb,
            )
            for name in ("Echo", "Take", "Hang")
        )

    async def hang(self) -> object:
        return await self._hang(None)

    async def send_array(self, array: np.ndarray) -> object:
        return await self._take(_array_to(array))

    async def echo_array(self, array: np.ndarray) -> object:
        return _array_from(await self.echo(_array_to(array)))


def _array_to(array: np.ndarray) -> list[object]:
    return [array.dtype.str, array.shape, array.tobytes()]


def _array_from(message: Any) -> np.ndarray:
    dtype, shape, data = message
    return np.frombuffer(data, dtype=dtype).reshape(shape)
