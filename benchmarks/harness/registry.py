"""The rows of bench_rpc: name, module, variant, what must be installed. Imports no peer.

Adding a peer means one module with `serve` and `measure` (see `harness.role`) and one line here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ("DEFAULT_ROWS", "ROWS", "Row", "is_present")

_PROJECT = str(Path(__file__).resolve().parents[2])
"""The checkout: asyncrpc need not be installed to be measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    module: str  # imported in the child processes only
    variant: str  # handed to the module; "tcp" and "unix" also choose the endpoint
    title: str  # what the table shows
    requires: tuple[str, ...]  # import names that must be present
    install: str  # what to type when they are not

    @property
    def missing(self) -> tuple[str, ...]:
        """Import names that this interpreter does not have."""
        return tuple(name for name in self.requires if not is_present(name))


def is_present(package: str) -> bool:
    """Say whether a child process could import a package. Imports nothing."""
    return PathFinder.find_spec(package, [*sys.path, _PROJECT]) is not None


def _row(name: str, module: str, variant: str, title: str, install: str, *requires: str) -> Row:
    return Row(
        name=name, module=module, variant=variant, title=title, requires=requires, install=install
    )


_OURS = "pip install -e '.[bench]'"
_LIMIT = "pip install uvloop msgpack numpy"

ROWS: dict[str, Row] = {
    row.name: row
    for row in (
        _row("asyncrpc-tcp", "peers.asyncrpc_peer", "tcp", "asyncrpc TCP", _OURS, "asyncrpc"),
        _row("asyncrpc-unix", "peers.asyncrpc_peer", "unix", "asyncrpc unix", _OURS, "asyncrpc"),
        _row(
            "asyncrpc-shm",
            "peers.asyncrpc_peer",
            "shm",
            "asyncrpc TCP + shared memory",
            _OURS,
            "asyncrpc",
        ),
        _row(
            "asyncrpc-spin",
            "peers.asyncrpc_peer",
            "spin",
            "asyncrpc TCP, busy_poll 100 us",
            _OURS,
            "asyncrpc",
        ),
        _row("raw", "limits.raw_frames", "tcp", "LIMIT raw frames TCP", _LIMIT, "uvloop"),
        _row("raw-unix", "limits.raw_frames", "unix", "LIMIT raw frames unix", _LIMIT, "uvloop"),
        _row("min", "limits.min_rpc", "tcp", "LIMIT MIN rpc TCP", _LIMIT, "uvloop", "msgpack"),
        _row(
            "min-unix", "limits.min_rpc", "unix", "LIMIT MIN rpc unix", _LIMIT, "uvloop", "msgpack"
        ),
        _row("opt", "limits.opt_rpc", "tcp", "LIMIT OPT rpc TCP", _LIMIT, "uvloop", "msgpack"),
        _row(
            "opt-unix", "limits.opt_rpc", "unix", "LIMIT OPT rpc unix", _LIMIT, "uvloop", "msgpack"
        ),
        _row(
            "grpc",
            "peers.grpc_aio",
            "tcp",
            "grpc.aio uvloop msgpack",
            "pip install grpcio msgpack uvloop",
            "grpc",
        ),
        _row(
            "torch",
            "peers.torch_rpc",
            "default",
            "torch.rpc default (shm)",
            "pip install torch numpy",
            "torch",
        ),
        _row(
            "torch-uv", "peers.torch_rpc", "uv", "torch.rpc TCP", "pip install torch numpy", "torch"
        ),
        _row("rpyc", "peers.rpyc_values", "tcp", "rpyc (values only)", "pip install rpyc", "rpyc"),
        _row(
            "pyzmq",
            "peers.pyzmq_asyncio",
            "tcp",
            "pyzmq uvloop msgpack",
            "pip install pyzmq msgpack uvloop",
            "zmq",
        ),
        _row("ray", "peers.ray_actor", "tcp", "Ray actor, awaited", "pip install ray", "ray"),
        _row(
            "dask",
            "peers.dask_rpc",
            "tcp",
            "dask.distributed rpc",
            "pip install distributed numpy",
            "distributed",
        ),
    )
}
"""Every row that can be asked for."""

DEFAULT_ROWS = (
    "asyncrpc-tcp",
    "asyncrpc-unix",
    "raw",
    "raw-unix",
    "min",
    "min-unix",
    "opt",
    "opt-unix",
    "grpc",
    "torch",
    "rpyc",
    "pyzmq",
)
"""What `--peers` means when it is not given."""
