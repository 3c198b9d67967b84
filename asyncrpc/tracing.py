"""Spans of OpenTelemetry around calls: `OpenTelemetryInterceptor`.

Needs the extra ``asyncrpc[otel]``, which is not imported before an interceptor is made. Without it
a ``traceparent`` still travels, see `asyncrpc.traceparent`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from asyncrpc.errors import RpcError, StatusCode
from asyncrpc.interception import IncomingCall, Interceptor, OutgoingCall

__all__ = ("OpenTelemetryInterceptor",)

_STATE = "tracestate"  # the second header of W3C Trace Context; travels in the metadata


class OpenTelemetryInterceptor(Interceptor):
    """Makes a client span for each call that is made, and a server span for each that is served.

    They are linked over workers by the ``traceparent`` of the call, and within one by
    OpenTelemetry's own context, so spans that a function makes lie inside of its server span. A
    stream's spans last as long as the stream. Names and attributes are those of the semantic
    conventions for RPC (release candidate of 2026): ``rpc.system.name`` is ``asyncrpc``,
    ``rpc.method`` the function's name, ``server.address`` and ``client.address`` the names of the
    workers, ``rpc.response.status_code`` the `StatusCode` of an error, ``error.type`` its class.

    Args:
        tracer_provider: makes the tracer; ``None`` takes OpenTelemetry's global one.

    Raises:
        ImportError: opentelemetry-api is not installed.

    Example:
        ```python
        options = asyncrpc.RpcOptions(interceptors=[asyncrpc.tracing.OpenTelemetryInterceptor()])
        ```
    """

    def __init__(self, tracer_provider: Any = None) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415 -- an extra, and not cheap to import
            from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415 -- likewise
        except ImportError as error:
            raise ImportError(
                "OpenTelemetryInterceptor needs opentelemetry-api: pip install 'asyncrpc[otel]'"
            ) from error
        self._trace = trace
        self._tracer = trace.get_tracer("asyncrpc", tracer_provider=tracer_provider)
        self._propagator = tracecontext.TraceContextTextMapPropagator()

    async def outgoing(
        self, call: OutgoingCall, proceed: Callable[[OutgoingCall], Awaitable[Any]]
    ) -> Any:
        """Make the call in a client span, whose id it carries."""
        is_traced = self._trace.get_current_span().get_span_context().is_valid
        parent = None if is_traced else self._extracted(call)
        attributes = {**_attributes(call.function), "server.address": call.to.name}
        with self._span(call.function, self._trace.SpanKind.CLIENT, attributes, parent) as span:
            headers: dict[str, str] = {}
            self._propagator.inject(headers)
            call.traceparent = headers.get("traceparent", call.traceparent)
            if state := headers.get(_STATE):
                call.metadata[_STATE] = state
            return await self._watched(span, proceed(call))

    async def incoming(
        self, call: IncomingCall, proceed: Callable[[IncomingCall], Awaitable[Any]]
    ) -> Any:
        """Serve the call in a server span, whose parent is the caller's span."""
        attributes = {**_attributes(call.function), "client.address": call.caller.name}
        parent = self._extracted(call)
        with self._span(call.function, self._trace.SpanKind.SERVER, attributes, parent) as span:
            return await self._watched(span, proceed(call))

    def _span(self, name: str, kind: Any, attributes: dict[str, str], parent: Any) -> Any:
        return self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=kind,
            attributes=attributes,
            record_exception=False,  # as `_watched` does, with what the conventions ask for
            set_status_on_exception=False,
        )

    def _extracted(self, call: OutgoingCall | IncomingCall) -> Any:
        """Return the context in which a call came, an empty one if it came without."""
        headers = {"traceparent": call.traceparent, _STATE: call.metadata.get(_STATE, "")}
        return self._propagator.extract({name: text for name, text in headers.items() if text})

    async def _watched(self, span: Any, rest: Awaitable[Any]) -> Any:
        """Await the call; note in its span how it failed."""
        try:
            return await rest
        except BaseException as error:
            if span.is_recording():
                span.set_attribute("error.type", _type_of(error))
                if code := _code_of(error):
                    span.set_attribute("rpc.response.status_code", code.name)
                span.record_exception(error)
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(error)))
            raise


def _attributes(function: str) -> dict[str, str]:
    return {"rpc.system.name": "asyncrpc", "rpc.method": function}


def _type_of(error: BaseException) -> str:
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    return kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"


def _code_of(error: BaseException) -> StatusCode | None:
    if isinstance(error, RpcError):
        return error.code
    return StatusCode.CANCELLED if isinstance(error, asyncio.CancelledError) else None
