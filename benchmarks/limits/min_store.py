"""MIN store: a dict behind OPT. The least a store over asyncio can cost; no leases, no watches.

Waiting (`wait`, `get` of a key that is missing) is answered when the key is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvloop

from limits.sockets import dial, serve_forever
from limits.streaming import StreamingClient, StreamingProtocol

__all__ = ("connect", "run", "serve")

run = uvloop.run


class _State:
    """What all connections share."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.waiting: dict[str, list[tuple[StreamingProtocol, int]]] = {}


class _StoreServer(StreamingProtocol):
    def __init__(self, state: _State) -> None:
        super().__init__()
        self._state = state

    def data_received(self, data: bytes) -> None:
        self._unpacker.feed(data)
        for call_id, name, *args in self._unpacker:
            getattr(self, "_" + name)(call_id, *args)

    def _set(self, call_id: int, key: str, value: bytes) -> None:
        self._state.values[key] = value
        self.send((call_id, None))
        for stream, waiter in self._state.waiting.pop(key, ()):
            stream.send((waiter, value))

    def _get(self, call_id: int, key: str) -> None:
        value = self._state.values.get(key)
        if value is None:
            self._state.waiting.setdefault(key, []).append((self, call_id))
        else:
            self.send((call_id, value))

    def _add(self, call_id: int, key: str, amount: int) -> None:
        total = int(self._state.values.get(key, b"0")) + amount
        self._state.values[key] = b"%d" % total
        self.send((call_id, total))

    def _compare_set(self, call_id: int, key: str, expected: bytes, desired: bytes) -> None:
        value = self._state.values.get(key, b"")
        if value == expected:
            self._state.values[key] = value = desired
        self.send((call_id, value))


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Serve one dict until killed."""
    state = _State()
    serve_forever(spec, ready, lambda: _StoreServer(state))


class _Store(StreamingClient):
    def set(self, key: str, value: bytes) -> asyncio.Future[object]:
        return self.request("set", key, value)

    def get(self, key: str) -> asyncio.Future[object]:
        return self.request("get", key)

    def add(self, key: str, amount: int) -> asyncio.Future[object]:
        return self.request("add", key, amount)

    def wait(self, key: str) -> asyncio.Future[object]:
        return self.request("get", key)

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> asyncio.Future[object]:
        return self.request("compare_set", key, expected, desired)

    async def barrier(self, key: str, world_size: int) -> None:
        """Return once `world_size` clients have called it with this key."""
        if await self.add(f"{key}/count", 1) == world_size:
            await self.set(f"{key}/done", b"1")
        await self.wait(f"{key}/done")

    async def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def connect(spec: dict[str, object]) -> _Store:
    """Open one connection."""
    return await dial(spec, _Store)
