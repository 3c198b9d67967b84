"""Workers of one group that know each other by unix sockets, all in this process: as in `peers`."""

from __future__ import annotations

import logging
import tempfile

import asyncrpc as rpc
from asyncrpc.transport import SocketNetwork
from growth.peers import join, options

__all__ = ("measure",)


def measure(size: int) -> dict[str, float]:
    """Join `size` workers over unix sockets."""
    # a thousand workers on one loop are late, and each of them would say so
    logging.getLogger("asyncrpc").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = [options(f"unix://{folder}/{rank}") for rank in range(size)]
        return rpc.run(join(settings, SocketNetwork()))
