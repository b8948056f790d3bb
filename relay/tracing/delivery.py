"""Spans on their way to the collector: OpenTelemetry's own batches, in a thread of their own, with a bounded queue.

No request waits for any of it. What does not get through is lost, and said so now and then.
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
"""Seconds that the last spans have to reach the collector when the process ends."""

INTERVAL = 60.0
"""Seconds between two lines about what goes wrong."""

_SDK = "opentelemetry"
_OF_CLIENTS = f"{_SDK}.trace"
"""The logger that tells of every ``traceparent`` and ``tracestate`` that is not well-formed."""


class Delivery:
    """One process's way to the collector.

    Attributes:
        tracer: Makes the spans.

    Raises:
        ValueError: A variable can't be used.
    """

    def __init__(self) -> None:
        complaints = _Complaints()
        with _strictly(complaints):
            resource = Resource.create({SERVICE_VERSION: __version__})
            if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
                resource = resource.merge(Resource({SERVICE_NAME: "gateway"}))
            # Not at exit: the SDK waits half a minute then.
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(_Exporter(complaints)))
        self.tracer = self._provider.get_tracer("relay", __version__)
        self._ended = False
        atexit.register(self.end)  # under a server without lifespan (stock Daphne)

    async def stop(self) -> None:
        """As `end`, without holding the loop."""
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
    """The SDK's exporter, which says when it works again."""

    def __init__(self, complaints: _Complaints) -> None:
        super().__init__(session=_Direct())
        self._complaints = complaints
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost += len(spans)
        elif self._complaints.told:
            logger.warning("traces reach the collector again; %d spans did not", self._lost)
            self._complaints.told, self._lost = False, 0
        return result


class _Direct(Session):
    """Goes to the collector itself: by no proxy of the environment, and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False

    def request(self, *args: Any, **options: Any) -> Response:
        response = super().request(*args, **options)
        if response.is_redirect:  # the exporter doesn't follow it, and would take it for a yes
            raise TooManyRedirects(f"{response.status_code} to {response.headers.get('location', '')[:200]}")
        return response


class _Complaints(logging.Handler):
    """What the SDK says, as a line of ours: the first at once, then one in `INTERVAL` seconds.

    Attributes:
        told: There was one since it last went well.
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
    """What the SDK says while it reads its variables."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # Its complaint about a header repeats the header, which holds a key.
        is_header = record.name.endswith("util.re")
        self.said.append("OTEL_EXPORTER_OTLP_HEADERS: write name=value,…" if is_header else record.getMessage())


@contextmanager
def _strictly(complaints: _Complaints) -> Iterator[None]:
    """Take the SDK's warnings about its variables for errors, as with any other variable; then keep it quiet."""
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
