"""What a figure needs beside it to mean anything: machine, versions, load."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ("describe_machine", "machine_line")

_PACKAGES = ("asyncrpc", "uvloop", "msgpack", "numpy", "torch", "grpcio", "rpyc", "pyzmq")


def describe_machine() -> dict[str, object]:
    """Return processor, cores, kernel, Python, package versions and the load at the start."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "load_1_min": os.getloadavg()[0],
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def machine_line(machine: dict[str, object]) -> str:
    """Return one line of it for the top of a table."""
    return (
        f"{machine['cores']} cores of {machine['processor']}, Linux {machine['kernel']}, "
        f"Python {machine['python']}, load {machine['load_1_min']:.1f}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
