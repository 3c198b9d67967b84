"""The collector for Prometheus, with the real library's text output."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import prometheus_client
import pytest

import asyncrpc as rpc
from asyncrpc.testing import cluster
from tests.agent import intercepted


def lines_of(registry: prometheus_client.CollectorRegistry) -> list[str]:
    """Return the lines that a scrape gives."""
    return str(prometheus_client.generate_latest(registry), "utf-8").splitlines()


@pytest.mark.asyncio
async def test_text_output() -> None:
    """Names, types, labels and values, for several agents in one process."""
    registry = prometheus_client.CollectorRegistry()
    async with cluster(2) as agents:
        registry.register(rpc.prometheus.Collector(*agents))
        await agents[0].rpc_async("worker1", max, (1, 2))
        with pytest.raises(LookupError):
            await agents[0].rpc_async("worker1", intercepted.fail)
        lines = lines_of(registry)

    for line in (
        "# TYPE asyncrpc_calls_made_total counter",
        "# HELP asyncrpc_calls_made_total Calls started here.",
        'asyncrpc_calls_made_total{worker="worker0"} 2.0',
        'asyncrpc_calls_made_total{worker="worker1"} 0.0',
        'asyncrpc_calls_served_total{worker="worker1"} 2.0',
        'asyncrpc_calls_failed_total{code="INTERNAL",worker="worker0"} 1.0',
        'asyncrpc_served_failed_total{code="INTERNAL",worker="worker1"} 1.0',
        'asyncrpc_retries_total{worker="worker0"} 0.0',
        "# TYPE asyncrpc_loop_lag_seconds gauge",
        'asyncrpc_peer_connected{peer="worker1",worker="worker0"} 1.0',
        'asyncrpc_peer_calls_in_flight{peer="worker1",worker="worker0"} 0.0',
    ):
        assert line in lines
    sent = next(line for line in lines if line.startswith('asyncrpc_sent_bytes_total{worker="w'))
    assert float(sent.split()[-1]) > 100
    names = {line.split("{")[0] for line in lines if not line.startswith("#")}
    assert all(name.startswith("asyncrpc_") for name in names)
    assert 16 == len(names)


@pytest.mark.asyncio
async def test_agents_that_ended_still_have_their_counts() -> None:
    """A scrape after the shutdown fails for nobody."""
    registry = prometheus_client.CollectorRegistry()
    async with cluster(2) as agents:
        registry.register(rpc.prometheus.Collector(agents[0]))
        await agents[0].rpc_async("worker1", max, (1, 2))

    assert 'asyncrpc_calls_made_total{worker="worker0"} 1.0' in lines_of(registry)


def test_bad_input() -> None:
    """No agent, or something else."""
    wrong: list[tuple[Any, ...]] = [(), (None,), ("worker0",)]
    for agents in wrong:
        with pytest.raises(ValueError, match="agents must be one or more RpcAgents"):
            rpc.prometheus.Collector(*agents)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with the command that installs it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ImportError, match=r"^Collector .*: pip install 'asyncrpc\[metrics\]'$"):
        rpc.prometheus.Collector()


def test_nothing_is_imported_before_it_is_used() -> None:
    """Importing the module leaves the library alone."""
    program = "import sys, asyncrpc.prometheus; sys.exit('prometheus_client' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", program], check=False)

    assert 0 == outcome.returncode
