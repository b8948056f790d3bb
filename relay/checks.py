"""System checks: valid settings that may be mistakes. To run all: ``manage.py check --database default``.

==========  ============================================================================================================
relay.E001  a row in the database can't be used: the gateway would not start with it
relay.W001  an HMAC key is shorter than its hash
relay.W002  every ``Host`` is accepted
relay.W003  any site may open sockets with its visitors' cookies
relay.W004  the rate limit may see one address for all clients
relay.W005  ``ALLOWED_ORIGINS`` has no effect by itself
relay.W006  a route lies under the gateway's own paths and is never reached
relay.W007  a backend's certificate is not verified
relay.W008  stock Daphne serves; see `under_stock_daphne`
relay.W009  ``MAIN_SERVICE_URL`` or ``ALLOWED_ORIGINS`` differs from the database: they only matter for the first start
relay.W010  a wildcard origin covers other people's sites
relay.W011  two routes match the same paths: one of them is never reached
==========  ============================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from django import db
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from relay.database import is_unmigrated
from relay.identity.algorithms import SHORTEST_SECRET
from relay.models import Backend, Counted, Origin, Route
from relay.routing import paths
from relay.validation import ANY_ORIGIN, lines

OWN_PATHS = ("/admin", "/gateway", "/health", "/metrics")
"""Paths that the gateway answers, with everything below them, before any route (contract, section 7)."""

_PRIVATE = frozenset({"localhost", "internal", "local", "lan", "test"})
"""Top-level names under which nobody can buy a name (RFC 6761, RFC 6762; ``.internal``)."""

_REGISTRIES = re.compile(r"(ac|co|com|edu|go|gob|gov|ne|net|nom|or|org)\.[a-z]{2}")
"""Names under which registries sell names: ``co.uk``, ``com.br``."""

_PLATFORMS = frozenset((
    "amplifyapp.com", "azurestaticapps.net", "azurewebsites.net", "cloudfront.net", "deno.dev", "easypanel.host",
    "firebaseapp.com", "fly.dev", "github.io", "gitlab.io", "herokuapp.com", "netlify.app", "ngrok-free.app",
    "ngrok.io", "onrender.com", "pages.dev", "s3.amazonaws.com", "surge.sh", "trycloudflare.com", "up.railway.app",
    "vercel.app", "web.app", "workers.dev",
))  # fmt: skip
"""Names under which anybody can get a site. Not the whole public suffix list, only the likely ones."""


@register(Tags.security)
def hmac_key(**kwargs: Any) -> list[CheckMessage]:
    """Without DEBUG, the gateway refuses to start with a short key."""
    return [
        Warning(
            f"{name} is under {SHORTEST_SECRET} bytes; without DEBUG=1 the gateway will not start with it",
            hint="openssl rand -base64 48",
            id="relay.W001",
        )
        for name, value in (
            ("JWT_SECRET", settings.RELAY.jwt_secret),
            ("JWT_PREVIOUS_SECRET", settings.RELAY.jwt_previous_secret),
        )
        if value and len(value.encode()) < SHORTEST_SECRET
    ]


@register(Tags.security)
def every_host(**kwargs: Any) -> list[CheckMessage]:
    """An unchecked Host reaches the backends as X-Forwarded-Host."""
    if settings.DEBUG or "*" not in settings.ALLOWED_HOSTS:
        return []
    sentence = "ALLOWED_HOSTS accepts every Host, and backends get it as X-Forwarded-Host"
    return [
        Warning(sentence, hint="list the hosts that clients use: ALLOWED_HOSTS=gateway.example.com", id="relay.W002")
    ]


@register(Tags.security)
def one_address_for_all(**kwargs: Any) -> list[CheckMessage]:
    """Behind an untrusted proxy, every client has the proxy's address."""
    if settings.RELAY.rate_limit is None or settings.RELAY.trusted_proxies:
        return []
    sentence = "RATE_LIMIT is set and TRUSTED_PROXIES is not: behind a proxy, all clients share one limit"
    return [Warning(sentence, hint="set TRUSTED_PROXIES to the proxy's network, if there is one", id="relay.W004")]


@register()
def origins_without_backend(**kwargs: Any) -> list[CheckMessage]:
    """The first configuration is made from both variables together."""
    if not settings.RELAY.allowed_origins or settings.RELAY.main_service_url:
        return []
    sentence = "ALLOWED_ORIGINS has no effect without MAIN_SERVICE_URL"
    return [Warning(sentence, hint="set both, or add origins in the admin or with import_config", id="relay.W005")]


@register(Tags.database)
def configuration(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """Check the rows in the database; an unmigrated one is not reported here.

    Raises:
        django.db.Error: The database can't be read, so the check has not passed. ``manage.py`` prints it as one line.
    """
    if not databases:
        return []
    try:
        backends, routes, origins = list(Backend.objects.all()), list(Route.objects.all()), list(Origin.objects.all())
    except db.Error as exc:
        if is_unmigrated(exc):
            return []
        raise
    return [
        *_unusable(chain[Counted](backends, routes, origins)),
        *not_meant(chain[Counted](backends, routes, origins)),
        *_twins(routes),
        *(_first_start_only(backends, origins) if backends else ()),
    ]


def not_meant(rows: Iterable[Counted]) -> list[CheckMessage]:
    """Warn about enabled rows, saved or not, that are valid but open or hide more than may be intended."""
    judges: dict[type[Counted], Callable[[Any], Iterator[CheckMessage]]]
    judges = {Backend: _unverified, Route: _unreachable, Origin: _any_origin}
    return [message for row in rows if getattr(row, "enabled", False) for message in judges[type(row)](row)]


def line(message: CheckMessage) -> str:
    """A message with its hint, for a log or a terminal."""
    text = f"{message.obj or message.id}: {message.msg}" + (f"; {message.hint}" if message.hint else "")
    return " ".join(text.split())


def _unusable(rows: Iterator[Counted]) -> Iterator[CheckMessage]:
    hint = "fix it in the admin or with import_config; running gateways keep the last good configuration"
    for row in rows:
        for field, sentence in row.problems():
            yield Error(f"{row.label}: {field}: {sentence}", hint=hint, id="relay.E001")


def _any_origin(origin: Origin) -> Iterator[CheckMessage]:
    if origin.origin == ANY_ORIGIN:
        sentence = "the origin * is enabled: any site may open sockets and read answers as its visitors"
        yield Warning(sentence, hint="list the sites, like https://*.example.com", id="relay.W003")
    _, wildcard, suffix = origin.origin.partition("://*.")
    suffix = suffix.partition(":")[0]
    if wildcard and _is_public(suffix):
        sentence = f"{origin.label} is enabled: anybody can have a site under {suffix}, and act as its visitors"
        yield Warning(sentence, hint=f"list your own sites, like https://my-app.{suffix}", id="relay.W010")


def _is_public(suffix: str) -> bool:
    """Whether strangers can get names under this one."""
    if "." not in suffix:
        return suffix not in _PRIVATE
    return suffix in _PLATFORMS or _REGISTRIES.fullmatch(suffix) is not None


def _unreachable(route: Route) -> Iterator[CheckMessage]:
    """HTTP only: the gateway's own paths don't get in the way of handshakes."""
    if route.kind == Route.Kind.HTTP and any(f"{route.path}/".startswith(f"{own}/") for own in OWN_PATHS):
        sentence = f"{route.label} lies under one of the gateway's own paths, and may never be reached"
        yield Warning(sentence, hint="use another path, with upstream_path for the backend's", id="relay.W006")


def _twins(routes: Iterable[Route]) -> Iterator[CheckMessage]:
    """Two routes that match the same paths: the forms refuse them, but they may be in the database."""
    known: dict[tuple[str, ...], Route] = {}
    for route in routes:
        other = known.setdefault((paths.shape(route.path), route.kind, route.methods), route)
        if other is not route:
            sentence = f"{route.label} and {other.label} match the same paths: one of them is never reached"
            yield Warning(sentence, hint="keep one", id="relay.W011")


def _unverified(backend: Backend) -> Iterator[CheckMessage]:
    if not backend.tls_verify and any(url.startswith("https:") for url in lines(backend.urls)):
        sentence = f"{backend.label}: its certificate is not verified; anyone in between can read and answer"
        yield Warning(sentence, hint="add its CA to the system's CAs, and turn tls_verify on", id="relay.W007")


def _first_start_only(backends: Sequence[Backend], origins: Sequence[Origin]) -> Iterator[CheckMessage]:
    """A variable that was changed after the first start has no effect, and nothing else would report that."""
    relay, hint = settings.RELAY, "change it in the admin or with import_config; remove the variable, or correct it"
    if relay.main_service_url and not any(relay.main_service_url in lines(backend.urls) for backend in backends):
        shown = min(backends, key=lambda backend: backend.name != "main")
        there = f"backend {shown.name} is at {', '.join(lines(shown.urls))}"
        sentence = f"MAIN_SERVICE_URL is for the first start only: it says {relay.main_service_url}, but {there}"
        yield Warning(sentence, hint=hint, id="relay.W009")
    known = {origin.origin for origin in origins}
    if missing := [origin for origin in dict.fromkeys(relay.allowed_origins) if origin not in known]:
        sentence = f"ALLOWED_ORIGINS is for the first start only: {', '.join(missing)} is not on the list"
        yield Warning(sentence, hint=hint, id="relay.W009")


def under_stock_daphne() -> CheckMessage:
    """What ``daphne gatewaysite.asgi:application`` can't do, but ``manage.py serve`` can."""
    sentence = (
        "the server is stock Daphne: a refused handshake is a bare 403, only close codes 1000 and 3000-4999 pass, and "
        "no reasons; empty messages are dropped, bodies are held whole, and SIGTERM cuts everything at once"
    )
    return Warning(sentence, hint="python manage.py serve has none of these limits", id="relay.W008")
