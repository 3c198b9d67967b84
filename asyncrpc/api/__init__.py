"""The module-level functions: one agent per process, found by `current_agent`."""

from __future__ import annotations

from asyncrpc.api.alternatives import rpc_any, rpc_hedged
from asyncrpc.api.calls import (
    all_gather,
    barrier,
    context,
    current_context,
    remote,
    rpc_async,
    rpc_notify,
    rpc_stream,
    rpc_sync,
    wait_all,
)
from asyncrpc.api.inspection import (
    debug_info,
    enable_profiling,
    get_rpc_timeout,
    get_worker_info,
    get_worker_infos,
    heal,
    metrics,
    monitor,
    partition,
    rref_debug,
    set_rpc_timeout,
)
from asyncrpc.api.portal import BlockingAgent, blocking_portal
from asyncrpc.api.process import current_agent, init_rpc, run, shutdown

__all__ = (
    "BlockingAgent",
    "all_gather",
    "barrier",
    "blocking_portal",
    "context",
    "current_agent",
    "current_context",
    "debug_info",
    "enable_profiling",
    "get_rpc_timeout",
    "get_worker_info",
    "get_worker_infos",
    "heal",
    "init_rpc",
    "metrics",
    "monitor",
    "partition",
    "remote",
    "rpc_any",
    "rpc_async",
    "rpc_hedged",
    "rpc_notify",
    "rpc_stream",
    "rpc_sync",
    "rref_debug",
    "run",
    "set_rpc_timeout",
    "shutdown",
    "wait_all",
)
