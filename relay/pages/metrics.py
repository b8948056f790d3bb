"""The page that Prometheus scrapes. It reveals much about the traffic, so access is restricted."""

from __future__ import annotations

import asyncio
from hmac import compare_digest
from ipaddress import ip_address

from django.http import HttpResponse
from django.http.response import HttpResponseBase

from relay.entry import Arrival
from relay.http.request import RelayRequest
from relay.http.response import refused
from relay.live.metrics import CONTENT_TYPE
from relay.live.turn import PAUSE
from relay.pages.methods import only
from relay.refusals import Refusal
from relay.typing import RawHeaders

NOT_FROM_ELSEWHERE = "Metrics are for the gateway's own machine; set METRICS_TOKEN to read them from elsewhere."


@only("GET", "HEAD")
async def metrics(request: RelayRequest) -> HttpResponseBase:
    """The metrics of all worker processes; 401 or 403 for clients that may not see them."""
    if refusal := _refusal(request):
        return refused(request, refusal)
    if request.runtime.metrics.shared:
        await asyncio.sleep(2 * PAUSE)  # by then, the other workers too have counted whatever ended before
    request.runtime.flush_metrics()
    response = HttpResponse(request.runtime.metrics.render(), content_type=CONTENT_TYPE)
    response["Cache-Control"] = "no-store"
    return response


def _refusal(request: RelayRequest) -> Refusal | None:
    """If ``METRICS_TOKEN`` is set, it is required; otherwise only a client on this machine is let in."""
    wanted = request.runtime.settings.metrics_token
    if not wanted:
        if on_this_machine(request.arrival, request.raw_headers):
            return None
        client = request.arrival.client or "(unix socket)"
        if _comes_from_a_stranger(request.arrival, request.raw_headers):
            client += ", through a proxy that is not in TRUSTED_PROXIES"
        detail = f"METRICS_TOKEN is not set, so only loopback clients get the metrics; this one is {client}"
        return Refusal("role_required", detail, said=NOT_FROM_ELSEWHERE)
    scheme, _, given = (request.field(b"authorization") or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not given:
        return Refusal("no_token", "the metrics require Authorization: Bearer with METRICS_TOKEN")
    if not compare_digest(given.strip().encode("latin-1"), wanted.encode()):
        return Refusal("invalid_token", "it is not METRICS_TOKEN")
    return None


_BY_A_PROXY = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip"})


def on_this_machine(arrival: Arrival, headers: RawHeaders) -> bool:
    """Whether a request comes from a loopback client.

    A proxy on this machine that is not in ``TRUSTED_PROXIES`` would make every client look like one, so what it
    forwards doesn't count. Neither does a Unix socket's peer, which has no address.
    """
    if _comes_from_a_stranger(arrival, headers):
        return False
    try:
        address = ip_address(arrival.client)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback


def _comes_from_a_stranger(arrival: Arrival, headers: RawHeaders) -> bool:
    """Whether a request came through a proxy that is not in ``TRUSTED_PROXIES``."""
    return not arrival.peer_trusted and any(name in _BY_A_PROXY for name, _ in headers)
