"""What is judged of every request before anybody asks who sends it, and which paths have rules of their own."""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from relay.access import NEVER
from relay.entry import Arrival
from relay.refusals import Refusal
from relay.typing import Scope

DJANGO = ("/admin/", settings.STATIC_URL)
"""Paths on Django's own handler with its middleware; all others skip its cost."""

HEALTH = ("/health", "/health/live", "/health/ready")
"""Asked by machines that know neither our names nor our limits."""

MONITORED = frozenset({*HEALTH, "/metrics"})
"""Paths that no rate limit touches (contract, section 7), and that no script of another origin has business with."""

LONGEST_HOST = 300
"""Characters: a name has 253 at most (RFC 1035 §2.3.4), and the rule's answers are remembered."""


def is_for_django(path: str) -> bool:
    """Whether Django's own handler answers a request; ``/admin`` leads to the admin."""
    return path.startswith(DJANGO) or path == "/admin"


def serves_while_draining(scope: Scope) -> bool:
    """Whether a server that stops still hands a request to the application: balancers ask how we are."""
    return scope["type"] == "http" and scope["path"] in HEALTH


def judge(scope: Scope, arrival: Arrival, started: bool = True) -> Refusal | None:
    """Refuse what no route is needed to refuse.

    Args:
        started: Whether there is a configuration.
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
    """Django's own rule for ``ALLOWED_HOSTS``; an HTTP/1.0 request may come without a host where any host will do."""
    domain, _ = split_domain_port(host)
    if not host:
        return "*" in settings.ALLOWED_HOSTS
    return bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)
