"""LIMIT OPT: MIN with a streaming Unpacker, one shared Packer and the bare future returned.

Same omissions as MIN. No message is ever framed: msgpack finds the ends itself.
"""

from __future__ import annotations

from collections.abc import Callable

import uvloop

from harness.async_load import AsyncClient, run_load
from limits.sockets import dial, serve_forever
from limits.streaming import StreamingClient, StreamingProtocol

__all__ = ("measure", "serve")


async def echo(value: object) -> object:
    """Give the argument back."""
    return value


HANDLERS = {"echo": echo}


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve `HANDLERS` until killed."""
    serve_forever(spec, ready, _OptServer)


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Run the load."""
    return uvloop.run(_measure(spec))


async def _measure(spec: dict[str, object]) -> dict[str, float]:
    return await run_load(AsyncClient(call=(await dial(spec, StreamingClient)).call), spec)


class _OptServer(StreamingProtocol):
    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        send = self.send
        for call_id, name, *args in self._unpacker:
            try:
                HANDLERS[name](*args).send(None)
            except StopIteration as finished:
                send((call_id, finished.value))
            else:
                raise RuntimeError("the OPT row has no suspending handlers")
