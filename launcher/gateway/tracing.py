"""OpenTelemetry's spans: one for each request for vectors, one for each call to a server.

They carry counts, names of models and addresses of servers, and nothing of users' texts. A trace
that a client has begun goes on (`traceparent`), and goes on to the server. Spans are sent behind
the requests' backs; a collector that is down costs them nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

from launcher import __version__, extras

if TYPE_CHECKING:
    import aiohttp
    from aiohttp import web
    from aiohttp.typedefs import Middleware
    from opentelemetry.sdk.trace.export import SpanExporter

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_TRACED: Final = "/v1/embeddings"
_FLUSH_S: Final = 3.0
"""At the end, for spans that are not sent yet."""
_COUNTS: Final = {
    "X-Cache-Hits": "qlaunch.cache.hits",
    "X-Cache-Shared": "qlaunch.cache.shared",
    "X-Cache-Misses": "qlaunch.cache.misses",
    "X-Truncated-Inputs": "qlaunch.truncated",
}
MODEL: Final[ContextVar[str]] = ContextVar("model", default="unknown")
"""Of the request that is being answered."""


class Tracing:
    """Makes spans and sends them."""

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "qlaunch-gateway"})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("qlaunch.gateway", __version__)

    def middleware(self) -> Middleware:
        """The span of a request."""
        from aiohttp import web
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, Status, StatusCode

        @web.middleware
        async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path != _TRACED:
                return await handler(request)
            with self._tracer.start_as_current_span(
                "embeddings",
                context=extract(request.headers),
                kind=SpanKind.SERVER,
                record_exception=False,
            ) as span:
                MODEL.set("unknown")
                response = await handler(request)
                span.set_attribute("http.response.status_code", response.status)
                span.set_attribute("qlaunch.request.id", response.headers.get("X-Request-Id", ""))
                span.set_attribute("gen_ai.operation.name", "embeddings")
                span.set_attribute("gen_ai.request.model", MODEL.get())
                for header, name in _COUNTS.items():
                    if header in response.headers:
                        span.set_attribute(name, int(response.headers[header]))
                if response.status >= 500:
                    span.set_status(Status(StatusCode.ERROR))
                return response

        return traced

    def calls(self) -> aiohttp.TraceConfig:
        """The spans of calls to servers that a request makes."""
        import aiohttp

        config = aiohttp.TraceConfig()
        config.on_request_start.append(self._begin)
        config.on_request_end.append(_end)
        config.on_request_exception.append(_fail)
        return config

    async def _begin(
        self,
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestStartParams,
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.propagate import inject

        context.span = None
        if not trace.get_current_span().get_span_context().is_valid:
            return  # a probe of ours
        context.span = self._tracer.start_span(params.method, kind=trace.SpanKind.CLIENT)
        context.span.set_attribute("server.address", params.url.host or "")
        context.span.set_attribute("server.port", params.url.port or 0)
        inject(params.headers, context=trace.set_span_in_context(context.span))

    def close(self) -> None:
        """Send what is left, within a few seconds."""
        worker = threading.Thread(target=self._provider.shutdown, daemon=True)
        worker.start()
        worker.join(_FLUSH_S)


async def _end(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceRequestEndParams,
) -> None:
    if context.span is not None:
        context.span.set_attribute("http.response.status_code", params.response.status)
        context.span.end()


async def _fail(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceRequestExceptionParams,
) -> None:
    from opentelemetry.trace import Status, StatusCode

    if context.span is not None:
        context.span.set_attribute("error.type", type(params.exception).__name__)
        context.span.set_status(Status(StatusCode.ERROR))
        context.span.end()


@contextlib.contextmanager
def tracing(endpoint: str | None) -> Iterator[Tracing | None]:
    """Spans to a collector at an endpoint, by OTLP over HTTP; None: no spans.

    OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and so on) count.

    Raises:
        QlaunchError: `extra_missing` (exit 2).
    """
    if endpoint is None:
        yield None
        return
    extras.require("otel")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    made = Tracing(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
    try:
        yield made
    finally:
        made.close()
