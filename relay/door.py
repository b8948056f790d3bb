"""Checks on every request before authentication, and the paths that have special rules."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from relay.access import NEVER
from relay.entry import Arrival
from relay.refusals import Refusal
from relay.typing import Scope

DJANGO = ("/admin/", settings.STATIC_URL)
"""Paths served by Django's own handler with its middleware; all others avoid its cost."""

HEALTH = ("/health", "/health/live", "/health/ready")
"""Polled by machines that know neither our host names nor our limits."""

MONITORED = frozenset({*HEALTH, "/metrics"})
"""Paths without a rate limit (contract, section 7), and without CORS headers for scripts of other origins."""

LONGEST_HOST = 300
"""Characters; a name has at most 253 (RFC 1035 §2.3.4). Bounds the keys of the cache below."""


def is_for_django(path: str) -> bool:
    """Whether Django's own handler answers a path; ``/admin`` redirects to the admin."""
    return path.startswith(DJANGO) or path == "/admin"


def serves_while_draining(scope: Scope) -> bool:
    """Whether a stopping server still passes a request to the application: load balancers poll our health."""
    return scope["type"] == "http" and scope["path"] in HEALTH


def judge(scope: Scope, arrival: Arrival, started: bool = True) -> Refusal | None:
    """Refuse a request that can be refused without looking at routes.

    Args:
        started: Whether a configuration has been loaded.
    """
    if scope["type"] == "http" and scope["method"] in NEVER:
        return Refusal("method_not_allowed", f"{scope['method']} is never relayed")
    if scope["path"] in HEALTH:
        return None
    if len(arrival.host) > LONGEST_HOST or not _host_allowed(arrival.host):
        return Refusal("bad_request", f"the host {arrival.host[:200] or '(none)'} is not in ALLOWED_HOSTS")
    return None if started else Refusal("no_healthy_backend", "there is no configuration yet")


@lru_cache(maxsize=1024)
def _host_allowed(host: str) -> bool:
    """Django's own rule for ``ALLOWED_HOSTS``; a request without a host (HTTP/1.0) passes only if any host does."""
    domain, _ = split_domain_port(host)
    if not host:
        return "*" in settings.ALLOWED_HOSTS
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)
