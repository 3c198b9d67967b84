"""Operations that wait until keys exist."""

from __future__ import annotations

import asyncio

from asyncrpc.errors import StoreTimeoutError
from asyncrpc.store.commands import Get, MultiGet, Wait
from asyncrpc.store.etcd.core import Core
from asyncrpc.store.etcd.hub import Inbox
from asyncrpc.store.etcd.lane import Turn
from asyncrpc.store.etcd.messages import read, read_prefix, rows_of
from asyncrpc.store.failures import missing_error

__all__ = ("Waits",)

_NUMBER = 16  # digits behind the prefix of a queue's item


class Waits:
    """Carries out commands that wait for keys.

    Args:
        core: of the client.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._layout = core.layout

    async def get(self, command: Get, turn: Turn, deadline: float) -> bytes:
        """Wait until a key exists and return its value."""
        (value,) = await self._wait([command.key], command, turn, deadline)
        return value

    async def multi_get(self, command: MultiGet, turn: Turn, deadline: float) -> list[bytes]:
        """Wait until all keys exist and return their values."""
        return await self._wait(command.keys, command, turn, deadline)

    async def wait(self, command: Wait, turn: Turn, deadline: float) -> None:
        """Wait until all keys exist."""
        await self._wait(command.keys, command, turn, deadline)

    async def _wait(
        self, keys: list[str], command: Get | MultiGet | Wait, turn: Turn, deadline: float
    ) -> list[bytes]:
        if not keys:
            return []
        key_at = {self._layout.value(key): key for key in keys}
        key_at |= {self._layout.items(key): key for key in keys}

        def wants(place: bytes) -> bool:
            return place in key_at or place[:-_NUMBER] in key_at

        with self._core.hub.listen(wants) as inbox:
            while True:
                found, revision = await self._look(keys)
                turn.leave()
                missing = {key for key, value in found.items() if value is None}
                values = [value for key in keys if (value := found[key]) is not None]
                if not missing:
                    return values
                try:
                    if deadline <= asyncio.get_running_loop().time():
                        raise TimeoutError
                    self._core.hub.begin(revision)
                    await self._await_all(inbox, missing, key_at, revision, deadline)
                except TimeoutError as error:
                    if isinstance(error, StoreTimeoutError):
                        raise
                    names = [key for key in dict.fromkeys(keys) if key in missing]
                    raise missing_error(names, command.timeout) from None

    async def _look(self, keys: list[str]) -> tuple[dict[str, bytes | None], int]:
        """Return the value of each key, ``b""`` of a queue, and the revision."""
        names = list(dict.fromkeys(keys))
        operations = []
        for key in names:
            operations.append(read(self._layout.value(key)))
            operations.append(read_prefix(self._layout.items(key), count_only=True))
        responses, revision = await self._core.look(operations)
        found: dict[str, bytes | None] = {}
        for key, values, queue in zip(names, responses[::2], responses[1::2], strict=True):
            rows = rows_of(values)
            is_queue = int(queue.get("count", 0)) > 0
            found[key] = rows[0].value if rows else b"" if is_queue else None
        return found, revision

    async def _await_all(
        self,
        inbox: Inbox,
        missing: set[str],
        key_at: dict[bytes, str],
        revision: int,
        deadline: float,
    ) -> None:
        """Wait until each missing key has appeared, or may have; take those out of the set."""
        while missing:
            events = await inbox.take(deadline)
            for event in events:
                if event.is_put and event.row.modified > revision:
                    place = event.row.key
                    key = key_at.get(place) or key_at.get(place[:-_NUMBER], "")
                    missing.discard(key)
            if not events:
                return
