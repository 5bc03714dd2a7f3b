"""Spans of requests for OpenTelemetry, where somebody wants them; without the library, nothing.

A span says route, status and our trace id; exceptions are left out of it, since their messages may
quote somebody. Which provider the spans go to is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from copersona.errors import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider
    from opentelemetry.trace import TracerProvider

Note = Callable[[str, str | int], None]
"""Puts an attribute on a span."""


class Tracing:
    """Makes spans; with no provider it makes none."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = None if provider is None else provider.get_tracer("copersona")

    @contextmanager
    def span(self, name: str, headers: Mapping[str, str] | None = None) -> Iterator[Note]:
        """A span for as long as the block lasts, within the one around it.

        Args:
            headers: of a request, which may name a span of the asker to be within.
        """
        if self._tracer is None:
            yield lambda _name, _value: None
            return
        with self._tracer.start_as_current_span(
            name, None if headers is None else _remote(headers), record_exception=False,
            set_status_on_exception=False,
        ) as span:  # fmt: skip
            yield span.set_attribute


def _remote(headers: Mapping[str, str]) -> Context:
    from opentelemetry.trace.propagation import tracecontext  # noqa: PLC0415  an extra

    named = {name: headers.get(name, "") for name in ("traceparent", "tracestate")}
    return tracecontext.TraceContextTextMapPropagator().extract(named)


def provider_to(endpoint: str) -> SdkProvider:
    """A provider that sends spans to an address, as OTLP over HTTP, in the background.

    Raises:
        MissingExtraError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider as SdkProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtraError("pip install 'copersona[otel]'") from error
    provider = SdkProvider(resource=Resource.create({"service.name": "copersona"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    return provider
