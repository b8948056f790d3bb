"""Send spans to the collector: in OpenTelemetry's own batches, from a separate thread, with a bounded queue.

No request waits for this. Spans that can't be delivered are lost, which is logged now and then.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from requests import Response, Session, TooManyRedirects

from relay import __version__

logger = logging.getLogger("relay.tracing")

FLUSH = 2.0
"""Seconds for the last spans to reach the collector when the process ends."""

INTERVAL = 60.0
"""Seconds between log lines about problems."""

_SDK = "opentelemetry"
_OF_CLIENTS = f"{_SDK}.trace"
"""The logger that reports every malformed ``traceparent`` and ``tracestate``."""


class Delivery:
    """One process's connection to the collector.

    Attributes:
        tracer: Creates the spans.

    Raises:
        ValueError: A variable can't be used.
    """

    def __init__(self) -> None:
        complaints = _Complaints()
        with _strictly(complaints):
            resource = Resource.create({SERVICE_VERSION: __version__})
            if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
                resource = resource.merge(Resource({SERVICE_NAME: "gateway"}))
            # Not at exit, when the SDK would wait half a minute.
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(_Exporter(complaints)))
        self.tracer = self._provider.get_tracer("relay", __version__)
        self._ended = False
        atexit.register(self.end)  # under a server without lifespan (stock Daphne)

    async def stop(self) -> None:
        """Like `end`, without blocking the loop."""
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """Send what is left, for `FLUSH` seconds at most."""
        if not self._ended:
            self._ended = True
            atexit.unregister(self.end)
            ending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
            ending.start()
            ending.join(FLUSH)


class _Exporter(OTLPSpanExporter):
    """The SDK's exporter, which also logs when it works again."""

    def __init__(self, complaints: _Complaints) -> None:
        super().__init__(session=_Direct())
        self._complaints = complaints
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost += len(spans)
        elif self._complaints.told:
            logger.warning("traces reach the collector again; %d spans were lost", self._lost)
            self._complaints.told, self._lost = False, 0
        return result


class _Direct(Session):
    """Connects to the collector directly, without the environment's proxies, and follows no redirect."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False

    def request(self, *args: Any, **options: Any) -> Response:
        response = super().request(*args, **options)
        if response.is_redirect:  # the exporter doesn't follow it, and would take it for success
            raise TooManyRedirects(f"{response.status_code} to {response.headers.get('location', '')[:200]}")
        return response


class _Complaints(logging.Handler):
    """Logs the SDK's warnings as our own lines: the first at once, then one per `INTERVAL` seconds.

    Attributes:
        told: Whether a warning was logged since the last success.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told = False
        self._next = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next, self.told = now + INTERVAL, True
            logger.warning("traces may be lost: %s", record.getMessage()[:500])


class _Collected(logging.Handler):
    """Collects the SDK's warnings while it reads its variables."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Its warning about a header repeats the header, which may contain a key.
        is_header = record.name.endswith("util.re")
        self.said.append("OTEL_EXPORTER_OTLP_HEADERS: write name=value,…" if is_header else record.getMessage())


@contextmanager
def _strictly(complaints: _Complaints) -> Iterator[None]:
    """Treat the SDK's warnings about its variables as errors, as for any other variable; then limit its logging."""
    sdk, collected = logging.getLogger(_SDK), _Collected()
    sdk.propagate = False
    sdk.addHandler(collected)
    try:
        yield
    finally:
        sdk.removeHandler(collected)
        sdk.addHandler(complaints)
        sdk.setLevel(logging.WARNING)
        logging.getLogger(_OF_CLIENTS).setLevel(logging.CRITICAL)
    if collected.said:
        raise ValueError("; ".join(collected.said))
