"""What `debug_info` shows: an agent's counters, by torch's names where they make sense."""

from __future__ import annotations

from collections.abc import Mapping

from asyncrpc.agent import Agent
from asyncrpc.execution import Profiler

__all__ = ("counters",)


def counters(agent: Agent, references: Mapping[str, int]) -> dict[str, str]:
    """Return an agent's counters by name, those of remote references among them."""
    threads = agent.executor.threads
    calls = [call for server in agent.servers for call in server.calls.values()]
    links = [c for c in agent.connections() if c.hello is not None]
    info: dict[str, object] = {
        **references,
        "num_pending_futures": references["num_pending_futures"] + len(agent.caller.user_calls()),
        "agent.thread_pool_size": agent.options.num_worker_threads,
        "agent.num_idle_threads": agent.options.num_worker_threads - threads.size + threads.idle,
        "agent.client_active_calls": len(agent.caller.user_calls()),
        "agent.server_active_calls": len(calls),
        "agent.server_active_async_calls": sum(call.task is not None for call in calls),
        "agent.calls_served": agent.served,
        "agent.retries": agent.retrier.count,
        "agent.connections": len(links),
        "agent.bytes_received": agent.tally.received,
        "agent.bytes_sent": agent.tally.sent,
        "agent.loop_lag": f"{agent.detector.lag:.6f}",
    }
    for link in links:
        info[f"peer.{link.peer}.rtt"] = f"{link.upkeep.rtt:.6f}"
        info[f"peer.{link.peer}.inflight"] = link.peer.inflight
    info["agent.peers_gone"] = agent.members.gone_count()
    if agent.profiler is not None:
        info |= _times(agent.profiler)
    return {name: str(value) for name, value in info.items()}


def _times(profiler: Profiler) -> dict[str, object]:
    """Return what was measured of functions; the names are those of `FunctionTimes`."""
    info: dict[str, object] = {}
    for name, times in profiler.times().items():
        info[f"function.{name}.calls"] = times.calls
        info[f"function.{name}.errors"] = times.errors
        for field in ("total_time", "max_time", "total_wait", "max_wait"):
            info[f"function.{name}.{field}"] = f"{getattr(times, field):.6f}"
    return info
