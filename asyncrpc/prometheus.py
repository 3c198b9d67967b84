"""Metrics of agents for Prometheus: a `Collector` for prometheus_client's registry.

Needs the extra ``asyncrpc[metrics]``, which is not imported before a collector is made. It reads
`asyncrpc.Metrics` when it is scraped; nothing is counted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from asyncrpc.errors import StatusCode
from asyncrpc.runtime import Metrics, PeerMetrics, RpcAgent

__all__ = ("Collector",)

_COUNTERS: tuple[tuple[str, str, Callable[[Metrics], float]], ...] = (
    ("calls_made", "Calls started here.", lambda m: m.calls_made),
    ("calls_served", "Calls whose function was started here.", lambda m: m.calls_served),
    ("retries", "Attempts after the first ones.", lambda m: m.retries),
    ("received_bytes", "Bytes received from other workers.", lambda m: m.bytes_received),
    ("sent_bytes", "Bytes sent to other workers.", lambda m: m.bytes_sent),
)
_FAILURES: tuple[tuple[str, str, Callable[[Metrics], Mapping[StatusCode, int]]], ...] = (
    ("calls_failed", "Calls made that failed, by code.", lambda m: m.calls_failed),
    ("served_failed", "Calls served that failed, by code.", lambda m: m.served_failed),
)
_GAUGES: tuple[tuple[str, str, Callable[[Metrics], float]], ...] = (
    ("calls_serving", "Calls whose function has not ended.", lambda m: m.calls_serving),
    ("threads", "Threads that run plain functions.", lambda m: m.threads),
    ("threads_idle", "Those that have nothing to do.", lambda m: m.threads_idle),
    ("threads_queued", "Plain functions that wait for a thread.", lambda m: m.threads_queued),
    ("loop_lag_seconds", "Delay of the loop's latest tick.", lambda m: m.loop_lag),
)
_PEERS: tuple[tuple[str, str, Callable[[PeerMetrics], float]], ...] = (
    ("peer_connected", "Whether there is a link to the worker.", lambda p: p.is_connected),
    ("peer_calls_in_flight", "Calls to the worker that are out.", lambda p: p.in_flight),
    ("peer_calls_queued", "Calls to the worker that wait.", lambda p: p.queued),
    ("peer_rtt_seconds", "Round trip of the last ping.", lambda p: p.rtt),
)


class Collector:
    """Gives the metrics of one or more agents to a registry of prometheus_client.

    All names begin with ``asyncrpc_``, all have the label ``worker``; those of calls that failed
    have ``code`` (a `StatusCode`), those about other workers ``peer``. Counters end in ``_total``.
    A process with several agents registers one collector for all of them.

    Args:
        agents: whose metrics, at least one.

    Raises:
        ImportError: prometheus_client is not installed.
        ValueError: there is no agent, or something else than one.

    Example:
        ```python
        prometheus_client.REGISTRY.register(asyncrpc.prometheus.Collector(agent))
        ```
    """

    def __init__(self, *agents: RpcAgent) -> None:
        try:
            from prometheus_client import core  # noqa: PLC0415 -- an extra, and not cheap to import
        except ImportError as error:
            raise ImportError(
                "Collector needs prometheus_client: pip install 'asyncrpc[metrics]'"
            ) from error
        if not agents or not all(isinstance(agent, RpcAgent) for agent in agents):
            raise ValueError(f"agents must be one or more RpcAgents, got {agents!r}")
        self._core = core
        self._agents = agents

    def collect(self) -> Iterator[Any]:
        """Yield the metric families; in whichever thread serves them."""
        found = [agent.metrics() for agent in self._agents]
        for name, text, value in _COUNTERS:
            counter = self._core.CounterMetricFamily(_named(name), text, labels=["worker"])
            for m in found:
                counter.add_metric([m.worker], value(m))
            yield counter
        for name, text, by_code in _FAILURES:
            failures = self._core.CounterMetricFamily(_named(name), text, labels=["worker", "code"])
            for m in found:
                for code, count in by_code(m).items():
                    failures.add_metric([m.worker, code.name], count)
            yield failures
        for name, text, value in _GAUGES:
            gauge = self._core.GaugeMetricFamily(_named(name), text, labels=["worker"])
            for m in found:
                gauge.add_metric([m.worker], value(m))
            yield gauge
        for name, text, of_peer in _PEERS:
            gauge = self._core.GaugeMetricFamily(_named(name), text, labels=["worker", "peer"])
            for m in found:
                for peer in m.peers:
                    gauge.add_metric([m.worker, peer.name], of_peer(peer))
            yield gauge


def _named(name: str) -> str:
    return f"asyncrpc_{name}"
