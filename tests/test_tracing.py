"""OpenTelemetry's spans around calls, with its real SDK."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import asyncrpc as rpc
from asyncrpc.testing import cluster
from asyncrpc.transport import SocketNetwork
from tests import traced_program as program
from tests.agent.groups import until

NAME = "tests.traced_program"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Spans:
    """A tracer provider and what its spans were."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[Any]:
        """Return the spans that ended, in the order of their beginnings."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time)

    def tree(self) -> list[tuple[str, str, str]]:
        """Return kind, function and the kind and function of the parent, of each span."""
        by_id = {span.context.span_id: span for span in self.all()}
        found = []
        for span in self.all():
            parent = by_id.get(span.parent.span_id) if span.parent is not None else None
            found.append((span.kind.name, short(span), "" if parent is None else label(parent)))
        return found


def short(span: Any) -> str:
    """Return the last part of a span's name."""
    return str(span.name).rpartition(":")[2]


def label(span: Any) -> str:
    """Return a span's kind and the last part of its name."""
    return f"{span.kind.name} {short(span)}"


@asynccontextmanager
async def traced(n: int, spans: Spans, **settings: Any) -> AsyncIterator[list[rpc.RpcAgent]]:
    """Run workers whose calls are traced."""
    interceptor = rpc.tracing.OpenTelemetryInterceptor(spans.provider)
    async with cluster(n, options=rpc.RpcOptions(interceptors=[interceptor]), **settings) as agents:
        yield agents


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["memory", "tcp"])
@pytest.mark.parametrize("function", [program.branch, program.branch_in_a_thread])
async def test_spans_are_linked_over_workers(kind: str, function: Any) -> None:
    """One trace from the caller's own span over two workers, for async and plain functions."""
    spans = Spans()
    network = SocketNetwork() if kind == "tcp" else None
    async with traced(3, spans, network=network) as (a, *_):
        with spans.provider.get_tracer("test").start_as_current_span("program"):
            assert await a.rpc_async("worker1", function, ("worker2",)) == "leaf"

    name = function.__name__
    assert [
        ("INTERNAL", "program", ""),
        ("CLIENT", name, "INTERNAL program"),
        ("SERVER", name, f"CLIENT {name}"),
        ("CLIENT", "leaf", f"SERVER {name}"),
        ("SERVER", "leaf", "CLIENT leaf"),
    ] == spans.tree()
    assert 1 == len({span.context.trace_id for span in spans.all()})


@pytest.mark.asyncio
async def test_attributes_follow_the_conventions() -> None:
    """System, method and the names of both workers; nothing of an error."""
    spans = Spans()
    async with traced(2, spans) as (a, _):
        await a.rpc_async("worker1", program.leaf)

    client, server = spans.all()
    plain = {"rpc.system.name": "asyncrpc", "rpc.method": f"{NAME}:leaf"}
    assert {**plain, "server.address": "worker1"} == dict(client.attributes)
    assert {**plain, "client.address": "worker0"} == dict(server.attributes)
    assert [True, True] == [span.status.is_unset for span in (client, server)]
    assert f"{NAME}:leaf" == client.name


@pytest.mark.asyncio
async def test_errors_are_noted_on_both_sides() -> None:
    """Their class, their code where they have one, and the exception as an event."""
    spans = Spans()
    plan = rpc.FaultPlan([rpc.Fault("fail", message="PYTHON_CALL", times=1)])
    async with traced(2, spans, faults=[plan, None]) as (a, _):
        with pytest.raises(rpc.InjectedFaultError):
            await a.rpc_async("worker1", program.leaf)
        with pytest.raises(LookupError):
            await a.rpc_async("worker1", program.fail)

    unsent, client, server = spans.all()
    for span in (client, server):
        assert "LookupError" == span.attributes["error.type"]
        assert [False, "nothing there"] == [span.status.is_ok, span.status.description]
        assert ["exception"] == [event.name for event in span.events]
    assert "asyncrpc.errors.InjectedFaultError" == unsent.attributes["error.type"]
    assert "UNAVAILABLE" == unsent.attributes["rpc.response.status_code"]


@pytest.mark.asyncio
async def test_streams_have_spans_as_long_as_they_are() -> None:
    """They end with the last item, and as cancelled if they are closed before."""
    spans = Spans()
    async with traced(2, spans) as (a, _):
        items = a.rpc_stream("worker1", program.items, (3,))
        assert await anext(items) == 0
        assert [1, 2] == [item async for item in items]
        await until(lambda: len(spans.all()) == 2)
        early = a.rpc_stream("worker1", program.items, (10**6,))
        assert await anext(early) == 0
        await early.aclose()
        await until(lambda: len(spans.all()) > 2)

    assert [("CLIENT", "items", ""), ("SERVER", "items", "CLIENT items")] == spans.tree()[:2]
    assert "CANCELLED" == spans.all()[2].attributes["rpc.response.status_code"]


@pytest.mark.asyncio
async def test_a_traceparent_of_ones_own_is_the_parent() -> None:
    """Where no span is open, the one that surrounds the call counts; state travels too."""
    spans = Spans()
    async with traced(2, spans) as (a, _):
        with rpc.traceparent(TRACE):
            await a.rpc_async("worker1", program.leaf)

    client, server = spans.all()
    assert 0x4BF92F3577B34DA6A3CE929D0E0E4736 == client.context.trace_id == server.context.trace_id
    assert 0x00F067AA0BA902B7 == client.parent.span_id


@pytest.mark.asyncio
async def test_works_without_an_sdk() -> None:
    """With the API alone there are no spans, and a traceparent goes on as it is."""
    interceptor = rpc.tracing.OpenTelemetryInterceptor()
    async with cluster(2, options=rpc.RpcOptions(interceptors=[interceptor])) as (a, _):
        with rpc.traceparent(TRACE):
            seen = await a.rpc_async("worker1", rpc.current_traceparent)
        unseen = await a.rpc_async("worker1", rpc.current_traceparent)

    assert [TRACE, None] == [seen, unseen]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with the command that installs it."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ImportError, match=r"^OpenTelemetry.*: pip install 'asyncrpc\[otel\]'$"):
        rpc.tracing.OpenTelemetryInterceptor()


def test_nothing_is_imported_before_it_is_used() -> None:
    """Importing the module leaves OpenTelemetry alone."""
    program = (
        "import sys, asyncrpc.tracing, asyncrpc\n"
        "asyncrpc.RpcOptions, asyncrpc.Interceptor, asyncrpc.RpcAgent\n"
        "sys.exit('opentelemetry' in sys.modules)"
    )
    outcome = subprocess.run([sys.executable, "-c", program], check=False)

    assert 0 == outcome.returncode
