"""Byte streams: sockets, TLS and memory links behind one `Stream`; knows nothing of messages."""

from __future__ import annotations

from asyncrpc.transport.address import Address
from asyncrpc.transport.authenticate import Greeter, authenticate
from asyncrpc.transport.base import Listener, MakeHandler, Network
from asyncrpc.transport.memory import MemoryNetwork, memory_pair
from asyncrpc.transport.shm import IS_POSSIBLE, Arena, Pool, Window
from asyncrpc.transport.stream import Stream, StreamHandler
from asyncrpc.transport.tcp import SocketNetwork
from asyncrpc.transport.tls import TlsOptions

__all__ = (
    "IS_POSSIBLE",
    "Address",
    "Arena",
    "Greeter",
    "Listener",
    "MakeHandler",
    "MemoryNetwork",
    "Network",
    "Pool",
    "SocketNetwork",
    "Stream",
    "StreamHandler",
    "TlsOptions",
    "Window",
    "authenticate",
    "memory_pair",
)
