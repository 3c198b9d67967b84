"""Tools for testing programs that use asyncrpc, without pytest; each is loaded on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncrpc.testing.chaos import ChaosProxy
    from asyncrpc.testing.clock import VirtualClock
    from asyncrpc.testing.cluster import cluster

__all__ = ("ChaosProxy", "VirtualClock", "cluster")

_MODULES = {"ChaosProxy": "chaos", "VirtualClock": "clock", "cluster": "cluster"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
