"""A collector on loopback that takes OTLP/HTTP as OpenTelemetry's own does, and shows what came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: "SERVER",
    trace_pb2.Span.SPAN_KIND_CLIENT: "CLIENT",
    trace_pb2.Span.SPAN_KIND_INTERNAL: "INTERNAL",
}


@dataclass(frozen=True)
class Span:
    """A span as it arrived. Ids are in hexadecimal digits, the parent's empty where there is none; times in seconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    started: float
    ended: float
    attributes: dict[str, Any]
    is_error: bool
    description: str
    state: str
    resource: dict[str, Any]


class Collector:
    """Remembers every export.

    Attributes:
        exports: Path, fields and body of each, whatever was answered.
        answer: Gives the status for the next one; it may take its time.
    """

    def __init__(self) -> None:
        self.exports: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[], int] = lambda: 200
        self.fields: dict[str, str] = {}
        self.url = ""
        self._news = threading.Condition()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        with self._news:
            self.exports.append((path, headers, body))
            self._news.notify_all()
        return self.answer()

    @property
    def spans(self) -> list[Span]:
        """All spans so far, in the order in which they came."""
        return [span for _, _, body in list(self.exports) for span in decoded(body)]

    def wait_for(self, wanted: Callable[[list[Span]], bool], within: float = 20) -> list[Span]:
        """The spans, as soon as they are as wanted."""
        end = time.monotonic() + within
        with self._news:
            while not wanted(found := self.spans):
                if not self._news.wait(max(0.0, end - time.monotonic())):
                    raise AssertionError(f"they did not come: {[(span.kind, span.name) for span in found]}")
        return found

    def tree(self, trace_id: str, count: int) -> list[Span]:
        """The spans of a trace, parents first, as soon as there are so many."""

        def of_trace(spans: list[Span]) -> list[Span]:
            return [span for span in spans if span.trace_id == trace_id]

        return sorted(of_trace(self.wait_for(lambda spans: len(of_trace(spans)) >= count)), key=lambda s: s.started)


def decoded(body: bytes) -> list[Span]:
    """The spans of one export."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            span.name,
            KINDS[span.kind],
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.start_time_unix_nano / 1e9,
            span.end_time_unix_nano / 1e9,
            _values(span.attributes),
            span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
            span.status.message,
            span.trace_state,
            _values(of_resource.resource.attributes),
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(pairs: Any) -> dict[str, Any]:
    def value(pair: KeyValue) -> Any:
        kind = pair.value.WhichOneof("value")
        return getattr(pair.value, kind) if kind else None

    return {pair.key: value(pair) for pair in pairs}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port, until the block ends."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = collector.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            try:
                self.send_response(status)
                for name, value in collector.fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except OSError:  # nobody waits any more
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
