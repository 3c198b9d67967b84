"""Tools for testing programs that use asyncrpc, without pytest; each is loaded on first use.

`asyncrpc.pytest_plugin` offers the same as fixtures.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncrpc.testing.chaos import ChaosProxy
    from asyncrpc.testing.clock import VirtualClock
    from asyncrpc.testing.cluster import cluster
    from asyncrpc.testing.leaks import LeakError, leak_check
    from asyncrpc.testing.limits import TimeLimitError, time_limit
    from asyncrpc.testing.stores import kv_store

__all__ = (
    "ChaosProxy",
    "LeakError",
    "TimeLimitError",
    "VirtualClock",
    "cluster",
    "kv_store",
    "leak_check",
    "time_limit",
)

# No module but cluster has the name of what it offers: importing one sets it on the package.
_MODULES = {
    "ChaosProxy": "chaos",
    "LeakError": "leaks",
    "TimeLimitError": "limits",
    "VirtualClock": "clock",
    "cluster": "cluster",
    "kv_store": "stores",
    "leak_check": "leaks",
    "time_limit": "limits",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
