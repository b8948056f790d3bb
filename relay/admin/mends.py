"""What to do about a refusal: a sentence for each code, and where in the admin it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from django.core.exceptions import ValidationError
from django.urls import reverse

from relay import validation
from relay.access import UPGRADE_LOST
from relay.mends import MENDS
from relay.models import Backend, Origin, RefusalRecord, Route
from relay.routing import snapshot
from relay.routing.snapshot import Snapshot, normalise_origin

LISTED = "The origin is on the list meanwhile."

ABOUT_METRICS = frozenset({"invalid_token", "no_token", "role_required"})
ABOUT_ROUTE = frozenset({"role_required", "too_many_connections"})
ABOUT_BACKEND = frozenset(
    {
        "backend_disabled",
        "backend_protocol_error",
        "backend_refused",
        "backend_timeout",
        "backend_unreachable",
        "body_too_large",
        "no_healthy_backend",
    }
)


@dataclass(frozen=True, slots=True)
class Mend:
    """What helps against one refusal.

    Attributes:
        links: Text and address of where it is done.
        origin: One that may be put on the list and is not there; empty: none.
    """

    sentence: str
    links: tuple[tuple[str, str], ...] = ()
    origin: str = ""


def mend(
    refusal: RefusalRecord,
    routes: Mapping[tuple[str, str], int],
    backends: Mapping[str, int],
    is_listed: Callable[[str], bool],
) -> Mend:
    """What helps against a refusal.

    Args:
        routes: Primary keys by kind and path (`known_routes`).
        backends: Primary keys by name (`known_backends`).
        is_listed: Whether an origin is allowed now (`origins_in_force`).
    """
    sentence, links, origin = MENDS.get(refusal.code, ""), [], allowable(refusal.origin)
    if origin and is_listed(origin):
        sentence, origin = LISTED, ""
    if refusal.detail.endswith(UPGRADE_LOST):
        sentence = "Have the proxy in front pass Upgrade and Connection on, if this was a handshake."
    elif refusal.path == "/metrics" and refusal.code in ABOUT_METRICS:
        sentence = "Set METRICS_TOKEN, and have Prometheus send it as Authorization: Bearer."
    elif refusal.code == "no_route":
        known = {"path": refusal.path, "kind": refusal.kind}
        links.append(("Add a route", f"{reverse('admin:relay_route_add')}?{urlencode(known)}"))
    if refusal.code in ABOUT_ROUTE and (route := routes.get((refusal.kind, refusal.route))):
        links.append((f"Route {refusal.route}", reverse("admin:relay_route_change", args=(route,))))
    if refusal.code in ABOUT_BACKEND and (backend := backends.get(refusal.backend)):
        links.append((f"Backend {refusal.backend}", reverse("admin:relay_backend_change", args=(backend,))))
    if refusal.code == "revoked_token":
        links.append(("Revocations", reverse("admin:relay_revocation_changelist")))
    return Mend(sentence, tuple(links), origin)


def allowable(origin: str) -> str:
    """One origin as it would stand on the list; empty if it is none.

    A wildcard is none: a stranger may send it, and the list would take it for a rule.
    """
    if "*" in origin or normalise_origin(origin) is None:
        return ""
    try:
        return validation.origin(origin)
    except ValidationError:
        return ""


def known_routes() -> dict[tuple[str, str], int]:
    return {(kind, path): pk for kind, path, pk in Route.objects.values_list("kind", "path", "pk")}


def known_backends() -> dict[str, int]:
    return dict(Backend.objects.values_list("name", "pk"))


def origins_in_force() -> Snapshot:
    """A configuration of the enabled origins alone, as handshakes are compared with them."""
    enabled = Origin.objects.filter(enabled=True).values_list("origin", flat=True)
    return Snapshot.build((), (), map(snapshot.Origin, enabled))
