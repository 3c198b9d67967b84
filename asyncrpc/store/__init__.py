"""A key-value store that workers meet in: over TCP, in memory, on etcd, or a part of another.

What is for etcd or torch is loaded when it is asked for: most groups do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncrpc.errors import (
    QueueEmptyError,
    StoreConnectionError,
    StoreError,
    StoreTimeoutError,
)
from asyncrpc.store.base import Store, StoreWatch
from asyncrpc.store.client import TCPStore
from asyncrpc.store.commands import StoreEvent
from asyncrpc.store.keeping import Keeper, LeaseKeeper, keeper_of
from asyncrpc.store.lease import Lease
from asyncrpc.store.memory import MemoryStore
from asyncrpc.store.prefix import PrefixStore
from asyncrpc.store.server import TCPStoreServer

if TYPE_CHECKING:
    from asyncrpc.store.etcd import CREDENTIALS_VARIABLE as CREDENTIALS_VARIABLE
    from asyncrpc.store.etcd import EtcdAddress as EtcdAddress
    from asyncrpc.store.etcd import EtcdCredentials as EtcdCredentials
    from asyncrpc.store.etcd import EtcdStore as EtcdStore
    from asyncrpc.store.etcd import parse_members as parse_members
    from asyncrpc.store.torch_server import TorchStoreServer as TorchStoreServer

__all__ = (
    "CREDENTIALS_VARIABLE",
    "EtcdAddress",
    "EtcdCredentials",
    "EtcdStore",
    "Keeper",
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
    "TorchStoreServer",
    "keeper_of",
    "parse_members",
)


def __getattr__(name: str) -> Any:
    """Load what is for etcd or torch, once it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'asyncrpc.store' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 -- nothing is imported before it is used

    home = "torch_server" if name == "TorchStoreServer" else "etcd"
    return getattr(import_module(f"asyncrpc.store.{home}"), name)
