"""Tools for testing programs that use asyncrpc, without pytest; each is loaded on first use.

`asyncrpc.pytest_plugin` offers the same as fixtures; what those give goes by their names here, too.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncrpc.faults import FaultPlan
    from asyncrpc.testing.chaos import ChaosProxy
    from asyncrpc.testing.clock import VirtualClock
    from asyncrpc.testing.cluster import cluster
    from asyncrpc.testing.leaks import LeakError, leak_check
    from asyncrpc.testing.limits import TimeLimitError, time_limit
    from asyncrpc.testing.stores import kv_store

    chaos_proxy = ChaosProxy
    fault_plan = FaultPlan
    rpc_cluster = cluster
    rpc_leak_check = leak_check
    virtual_clock = VirtualClock

__all__ = (
    "ChaosProxy",
    "LeakError",
    "TimeLimitError",
    "VirtualClock",
    "chaos_proxy",
    "cluster",
    "fault_plan",
    "kv_store",
    "leak_check",
    "rpc_cluster",
    "rpc_leak_check",
    "time_limit",
    "virtual_clock",
)

# No module but cluster has the name of what it offers: importing one sets it on the package.
_MODULES = {
    "ChaosProxy": "asyncrpc.testing.chaos",
    "FaultPlan": "asyncrpc.faults",
    "LeakError": "asyncrpc.testing.leaks",
    "TimeLimitError": "asyncrpc.testing.limits",
    "VirtualClock": "asyncrpc.testing.clock",
    "cluster": "asyncrpc.testing.cluster",
    "kv_store": "asyncrpc.testing.stores",
    "leak_check": "asyncrpc.testing.leaks",
    "time_limit": "asyncrpc.testing.limits",
}
_FIXTURES = {
    "chaos_proxy": "ChaosProxy",
    "fault_plan": "FaultPlan",
    "rpc_cluster": "cluster",
    "rpc_leak_check": "leak_check",
    "virtual_clock": "VirtualClock",
}
"""Fixture -> what it gives, or makes."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    given = _FIXTURES.get(name, name)
    value = getattr(importlib.import_module(_MODULES[given]), given)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
