"""The spans of one request or socket, following OpenTelemetry's HTTP conventions.

========  =================  =====================================================================================
kind      name               lasts
========  =================  =====================================================================================
SERVER    ``GET /api/``      an HTTP request: until the end of the response; a WebSocket: until the handshake's end
CLIENT    ``GET``            a call to a backend until the head of its response; the backend gets this span's context
INTERNAL  ``WebSocket /ws``  a socket's life, from its handshake to its close; a child of the SERVER span
========  =================  =====================================================================================

A socket may live for hours. As a single span, its handshake would not be visible until it closes, and the latencies of
SERVER spans would be meaningless. No span has a query, a header field, a user or a close reason; `relay.live.masking`
is applied to texts that clients and backends can influence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote, unquote

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from relay.entry import Arrival
from relay.http.journal import CLIENT_LEFT
from relay.live import events
from relay.live.events import without_query
from relay.live.masking import Masker
from relay.routing.snapshot import Backend, Url
from relay.typing import RawHeaders, Scope, Traffic

_W3C = TraceContextTextMapPropagator()
_FIELDS = frozenset({b"traceparent", b"tracestate"})
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_CLOSING = ("close_code", "closed_by", *Traffic._fields)
_IN_A_PATH = "/!$&'()*+,;=:@~"

LEFT = "client_left"
"""The error type if the client did not wait; for a handshake it is also the outcome in the metrics."""

SWITCHING = 101

FAULTS = frozenset({1011, 1014})
"""Close codes that correspond to the statuses 500 and 502."""


class Recorder:
    """Starts traces.

    Args:
        pages: Paths of the gateway's own pages, which have no route.
        secret_names: The configured cookie and query parameter.
    """

    def __init__(self, tracer: Tracer, pages: Iterable[str] = (), secret_names: Iterable[str] = ()) -> None:
        self.tracer = tracer
        self.pages = frozenset(pages)
        self._masker = Masker(secret_names)

    def begin(self, scope: Scope) -> Trace:
        """Start the trace of a request or handshake that has arrived."""
        return Trace(self, scope)

    def text(self, text: str) -> str:
        """A text for a span, masked as in the log. A single string that is not UTF-8 would lose a whole batch."""
        text = self._masker.text(text)
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()

    def path(self, target: bytes) -> str:
        """The path of a request target: decoded and masked as in the log, then encoded again."""
        path = unquote(target.partition(b"?")[0].decode("latin-1"), errors="surrogateescape")
        return quote(self._masker.text(without_query(path)), _IN_A_PATH, errors="surrogateescape")


class Trace:
    """The trace of one request or socket.

    Attributes:
        id: The trace id for the log: 32 hexadecimal digits.
    """

    __slots__ = (
        "_fault",
        "_is_sampled",
        "_method",
        "_over",
        "_recorder",
        "_scope",
        "_server",
        "_socket",
        "_told",
        "id",
    )

    def __init__(self, recorder: Recorder, scope: Scope) -> None:
        self._recorder, self._scope = recorder, scope
        self._method: str = scope.get("method", "GET")
        self._server = recorder.tracer.start_span(self._verb, _context(scope["headers"]), SpanKind.SERVER)
        self._is_sampled = self._server.is_recording()
        self._socket: Span | None = None
        self._told: Mapping[str, Any] = {}
        self._fault = ("", "")
        self._over = False
        self.id = format_trace_id(self._server.get_span_context().trace_id)

    @property
    def _verb(self) -> str:
        return self._method if self._method in _METHODS else "HTTP"

    def note(self, event: events.Event) -> None:
        """Record an event of the log about it."""
        event.trace_id = self.id
        match event:
            case events.BackendError():
                self._fault = event.code, event.detail
            case events.HttpRequest() | events.HttpRefused():
                self._told = event.fields
            case events.WsRefused():
                self._told = event.fields
                self.end()
            case events.WsOpen():
                self._told = {**event.fields, "status": SWITCHING}
                self.end()
                self._live(event)
            case events.WsClose() if self._socket is not None:
                self._close(self._socket, event)
            case events.WsClose():  # during the handshake
                self._told = {**event.fields, "status": CLIENT_LEFT}
                self.end()

    @property
    def is_over(self) -> bool:
        """Whether the response has ended, or will never come."""
        return self._over

    def is_told_by(self, event: events.Event) -> bool:
        """Whether an event belongs to this trace: it has its request's id."""
        arrival = self._scope.get("relay")
        return arrival is not None and getattr(event, "request_id", None) == arrival.request_id

    def crash(self, exc: Exception) -> None:
        """Record that the application failed."""
        self._fault = type(exc).__name__, ""

    def end(self) -> None:
        """End the SERVER span: the response is complete, or never will be."""
        if self._over:
            return
        self._over = True
        if self._is_sampled:
            self._describe()
        self._server.end()

    def call(self, backend: Backend) -> Call:
        """Start the span of a call to a backend."""
        return Call(self._recorder, self._child(self._verb, SpanKind.CLIENT), self._method, backend)

    def _child(self, name: str, kind: SpanKind) -> Span:
        """A child span; if this trace is not sampled, the SERVER span itself."""
        if not self._is_sampled:
            return self._server
        return self._recorder.tracer.start_span(name, set_span_in_context(self._server, Context()), kind)

    def _describe(self) -> None:
        span, told, path = self._server, self._told, str(self._scope["path"])
        route = told.get("route") or (path if path in self._recorder.pages else None)
        if route:
            span.update_name(f"{self._verb} {route}")
        status: int = told.get("status", CLIENT_LEFT)
        code, detail = told.get("code") or self._fault[0], told.get("detail") or self._fault[1]
        sent, closed_with = status, None
        if status == CLIENT_LEFT:
            code, sent = code or LEFT, 0
        elif "code" in told and (closed_with := told.get("close_code")):
            sent = SWITCHING  # it was accepted, then closed with a close frame
        elif status >= 500:
            code = code or str(status)
        attributes = {
            **_method(self._method),
            "url.path": self._recorder.path(self._scope.get("raw_path") or path.encode("utf-8", "surrogateescape")),
            "http.route": route,
            "http.response.status_code": sent or None,
            "error.type": code,
            "relay.backend": told.get("backend"),
            "relay.websocket.close_code": closed_with,
        }
        if (arrival := self._scope.get("relay")) is not None:
            attributes |= self._arrived(arrival)
        _set(span, attributes)
        if self._fault[0] or status >= 500:
            span.set_status(Status(StatusCode.ERROR, self._recorder.text(detail) or None))

    def _arrived(self, arrival: Arrival) -> dict[str, Any]:
        return {
            "relay.request_id": arrival.request_id,
            "client.address": self._recorder.text(arrival.client),
            "url.scheme": arrival.scheme,
            "server.address": self._recorder.text(arrival.host.removesuffix(f":{arrival.port}").strip("[]")),
            "server.port": arrival.port,
        }

    def _live(self, event: events.WsOpen) -> None:
        self._socket = self._child(f"WebSocket {event.route}", SpanKind.INTERNAL)
        if self._socket.is_recording():
            attributes = {
                "http.route": event.route,
                "relay.backend": event.backend,
                "relay.request_id": event.request_id,
            }
            _set(self._socket, attributes)

    def _close(self, socket: Span, event: events.WsClose) -> None:
        if socket.is_recording():
            _set(socket, {f"relay.websocket.{name}": getattr(event, name) for name in _CLOSING})
            if event.close_code in FAULTS and event.closed_by != "client":
                socket.set_attribute("error.type", str(event.close_code))
                socket.set_status(Status(StatusCode.ERROR, self._recorder.text(event.detail or "") or None))
        socket.end()


class Call:
    """A CLIENT span: a call to a backend, at any of its urls, with all attempts."""

    __slots__ = ("_backend", "_method", "_recorder", "_span")

    def __init__(self, recorder: Recorder, span: Span, method: str, backend: Backend) -> None:
        self._recorder, self._span, self._method, self._backend = recorder, span, method, backend

    def headers(self, headers: RawHeaders) -> RawHeaders:
        """The fields for the backend, with this span's context as the parent of its own."""
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(self._span, Context()))
        ours = [(name.encode(), value.encode()) for name, value in carrier.items()]
        return [*(field for field in headers if field[0] not in _FIELDS), *ours]

    def answered(self, status: int, url: Url, target: bytes) -> None:
        """End the span with the head of the response; `target` is the request target (RFC 9112 §3.2)."""
        if self._span.is_recording():
            full = f"{url.scheme}://{url.authority}{self._recorder.path(target)}"
            self._describe(url, status, **{"url.full": full, "error.type": str(status) if status >= 500 else None})
            if status >= 500:
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def failed(self, code: str, detail: str = "", status: int = 0) -> None:
        """End the span without a usable response; without a `detail`, it is not the backend's fault."""
        if self._span.is_recording():
            urls = self._backend.urls
            self._describe(urls[0] if len(urls) == 1 else None, status or None, **{"error.type": code})
            if detail:
                self._span.set_status(Status(StatusCode.ERROR, self._recorder.text(detail)))
        self._span.end()

    def _describe(self, url: Url | None, status: int | None, **more: str | None) -> None:
        attributes = {
            **_method(self._method),
            "relay.backend": self._backend.name,
            "server.address": url.host if url else None,
            "server.port": url.port if url else None,
            "http.response.status_code": status,
            **more,
        }
        _set(self._span, attributes)


current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the request or socket that the current task, or its callback, belongs to."""


def note(event: events.Event) -> None:
    """Pass an event of the log to the trace it belongs to."""
    trace = current.get()
    if trace is not None and trace.is_told_by(event):
        trace.note(event)


def _context(headers: RawHeaders) -> Context:
    """The context that the client sent; a repeated ``traceparent`` counts as none (Trace Context, §3.2)."""
    carrier: dict[str, list[str]] = {}
    for name, value in headers:
        if name in _FIELDS:
            carrier.setdefault(name.decode(), []).append(value.decode("latin-1"))
    if len(carrier.get("traceparent", ())) != 1:
        return Context()
    return _W3C.extract(carrier, Context())


def _method(method: str) -> dict[str, Any]:
    if method in _METHODS:
        return {"http.request.method": method}
    return {"http.request.method": "_OTHER", "http.request.method_original": method}


def _set(span: Span, attributes: Mapping[str, Any]) -> None:
    span.set_attributes({name: value for name, value in attributes.items() if value not in (None, "")})
