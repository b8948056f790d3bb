"""The view for every relayed path. `relay.access` decides who may go where; `relay.forwarding`, what is passed on."""

from __future__ import annotations

from django.http.response import HttpResponseBase

from relay import access, forwarding
from relay.http.client import Request
from relay.http.exchange import Exchange
from relay.http.request import RelayRequest
from relay.http.response import RelayedResponse, refused
from relay.refusals import BackendError


async def relay(request: RelayRequest) -> HttpResponseBase:
    """Judge the request, pass it to its backend, and return the backend's response, whatever its status."""
    verdict = access.decide(ask(request), request.runtime.snapshot, request.identification)
    request.route = verdict.route
    if isinstance(verdict, access.Denied):
        return refused(request, verdict.refusal)
    try:
        exchange = await _exchange(request, verdict)
    except BackendError as exc:
        if exc.refusal.status != 503:
            request.runtime.journal.backend_failed(request, exc)
        return refused(request, exc.refusal)
    if len(verdict.backend.urls) > 1:
        request.url = exchange.url.text
    return RelayedResponse(exchange.status, forwarding.response_headers(exchange.headers), exchange)


def ask(request: RelayRequest) -> access.Ask:
    """The request in the form that `relay.access` judges."""
    return access.Ask("http", request.method, request.scope["raw_path"], request.origin, request.arrival.host)


async def _exchange(request: RelayRequest, grant: access.Grant) -> Exchange:
    scope, arrival, who, rules = request.scope, request.arrival, request.identification, request.runtime.forwarding
    backend = grant.backend
    query = rules.query(scope, grant, who)
    return await request.runtime.client.request(
        backend,
        Request(
            request.method,
            lambda url: (forwarding.target(url, grant, query), forwarding.host(url, grant, arrival)),
            rules.request_headers(scope, arrival, grant, who),
            request.limited_body(backend.max_body_size),
            request.length,
        ),
    )
