"""Spans around calls to backends: `Client.request`, and the `Dialler` for handshakes."""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import dataclass, replace
from types import TracebackType

from relay import forwarding
from relay.access import Grant
from relay.entry import Arrival
from relay.forwarding import Forwarding
from relay.http.client import Client, Request
from relay.http.exchange import Exchange
from relay.http.request import ClientGone
from relay.identity.model import Identification
from relay.refusals import BackendError, BackendRefused
from relay.routing.snapshot import Backend
from relay.tracing.spans import LEFT, SWITCHING, Call, current
from relay.typing import RawHeaders, Scope
from relay.websocket.opening import Opening
from relay.websocket.upstream import Dialler, Upstream


class TracedClient(Client):
    """A `Client` that makes a span for each call, and passes its context to the backend."""

    async def request(self, backend: Backend, request: Request) -> Exchange:
        """Like `Client.request`; the span ends with the head of the response, or with the error."""
        trace = current.get()
        if trace is None:
            return await super().request(backend, request)
        with _Asking(trace.call(backend)) as call:
            request.headers = call.headers(request.headers)
            exchange = await super().request(backend, request)
            call.answered(exchange.status, exchange.url, request.address(exchange.url)[0])
            return exchange


def traced(dial: Dialler) -> Dialler:
    """A dialler that does the same for WebSocket handshakes."""

    async def traced_dial(opening: Opening) -> Upstream:
        trace = current.get()
        if trace is None:
            return await dial(opening)
        with _Asking(trace.call(opening.grant.backend)) as call:
            rules = _Rules(opening.rules.cookie, opening.rules.query_param, call)
            upstream = await dial(replace(opening, rules=rules))
            call.answered(SWITCHING, upstream.url, forwarding.target(upstream.url, opening.grant, None))
            return upstream

    return traced_dial


@dataclass(frozen=True, slots=True)
class _Rules(Forwarding):
    """The forwarding rules, adding the trace context last: no ``Connection`` field of a client can remove it."""

    call: Call | None = None

    def request_headers(self, scope: Scope, arrival: Arrival, grant: Grant, who: Identification) -> RawHeaders:
        fields = Forwarding.request_headers(self, scope, arrival, grant, who)
        return self.call.headers(fields) if self.call is not None else fields


class _Asking:
    """Ends the span of a call that fails."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> Call:
        return self._call

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(exc, BackendError):
            self._call.failed(exc.code, str(exc), exc.status if isinstance(exc, BackendRefused) else 0)
        elif isinstance(exc, CancelledError | ClientGone):
            self._call.failed(LEFT)
        elif exc is not None:  # also the client's fault: it sent something that can't be relayed, or too much
            self._call.failed(type(exc).__name__)
