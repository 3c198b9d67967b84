"""A key-value store that workers meet in: served over TCP, in memory, or a part of another."""

from __future__ import annotations

from asyncrpc.errors import (
    QueueEmptyError,
    StoreConnectionError,
    StoreError,
    StoreTimeoutError,
)
from asyncrpc.store.base import Store, StoreWatch
from asyncrpc.store.client import TCPStore
from asyncrpc.store.commands import StoreEvent
from asyncrpc.store.keeping import LeaseKeeper, keeper_of
from asyncrpc.store.lease import Lease
from asyncrpc.store.memory import MemoryStore
from asyncrpc.store.prefix import PrefixStore
from asyncrpc.store.server import TCPStoreServer

__all__ = (
    "Lease",
    "LeaseKeeper",
    "MemoryStore",
    "PrefixStore",
    "QueueEmptyError",
    "Store",
    "StoreConnectionError",
    "StoreError",
    "StoreEvent",
    "StoreTimeoutError",
    "StoreWatch",
    "TCPStore",
    "TCPStoreServer",
    "keeper_of",
)
