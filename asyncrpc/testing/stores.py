"""`kv_store`: a key-value store for one test."""

from __future__ import annotations

from asyncrpc.observe import Clock
from asyncrpc.store import MemoryStore
from asyncrpc.testing.arguments import check_clock

__all__ = ("kv_store",)


def kv_store(*, clock: Clock | None = None) -> MemoryStore:
    """Return an empty key-value store in memory; use it as an async context manager.

    It has all the operations of `asyncrpc.store.TCPStore`. Leaving the context fails what still
    waits in it.

    Args:
        clock: its time, which ends waits and leases; ``None`` takes the loop's.

    Raises:
        ValueError: ``clock`` is no clock.

    Example:
        ```python
        async def main():
            async with kv_store() as store:
                await store.set("colour", "green")
                assert await store.get("colour") == b"green"
        ```
    """
    check_clock(clock)
    return MemoryStore(clock=clock)
