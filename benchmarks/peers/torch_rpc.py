"""torch.distributed.rpc: `rpc_sync` one after the other, a window of `rpc_async` futures.

Variants: default lets TensorPipe choose (shared memory on one host); uv forces TCP. Arrays travel
as tensors that share the array's memory, which is what its users do. The group meets through a
file, and TensorPipe is bound to the loopback interface.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

# Before torch reads them: without these TensorPipe listens on the host's first address.
os.environ.setdefault("TP_SOCKET_IFNAME", "lo")
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import numpy as np
import torch
from torch.distributed import rpc

from harness.blocking_load import BlockingClient, run_load

__all__ = ("echo", "hang", "join", "measure", "serve", "take")


def echo(value: object) -> object:
    """Give the argument back."""
    return value


def take(tensor: torch.Tensor) -> int:
    """Take a tensor and say how large it was."""
    size: int = tensor.nbytes
    return size


def hang() -> None:
    """Never answer."""
    threading.Event().wait()


def serve(spec: dict[str, object], ready: Callable[[str], None]) -> None:
    """Join as rank 0; shutdown serves until the client has shut down as well."""
    ready("file")
    join(spec, "server", 0)
    rpc.shutdown()


def measure(spec: dict[str, object]) -> dict[str, float]:
    """Join as rank 1 and run the load."""
    join(spec, "client", 1)
    client = BlockingClient(
        call=_call,
        start=_start,
        start_hang=_start_hang,
        send_array=_send_array,
        echo_array=_echo_array,
    )
    figures = run_load(client, spec)
    if "signal" not in spec:
        rpc.shutdown()
    return figures


def _call(value: object) -> object:
    return rpc.rpc_sync("server", echo, args=(value,))


def _start(value: object) -> Callable[[], object]:
    wait: Callable[[], object] = rpc.rpc_async("server", echo, args=(value,)).wait
    return wait


def _start_hang() -> Callable[[], object]:
    wait: Callable[[], object] = rpc.rpc_async("server", hang, timeout=0).wait
    return wait


def _send_array(array: np.ndarray) -> object:
    return rpc.rpc_sync("server", take, args=(torch.from_numpy(array),))


def _echo_array(array: np.ndarray) -> object:
    return rpc.rpc_sync("server", echo, args=(torch.from_numpy(array),)).numpy()


def join(spec: dict[str, object], name: str, rank: int) -> None:
    """Meet the other one through a file; shutdown is for the caller."""
    forced = {"_transports": ["uv"], "_channels": ["basic"]} if spec["variant"] == "uv" else {}
    options = rpc.TensorPipeRpcBackendOptions(
        init_method=f"file://{spec['folder']}/rendezvous", rpc_timeout=30, **forced
    )
    rpc.init_rpc(name, rank=rank, world_size=2, rpc_backend_options=options)
