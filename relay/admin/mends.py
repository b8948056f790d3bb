"""How to fix a refusal: a sentence for each code, and links to the place in the admin."""

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

LISTED = "The origin is on the list by now."

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
    """The fix for one refusal.

    Attributes:
        links: (text, address) of the pages where it is done.
        origin: An origin that may be added to the list; empty if there is none.
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
    """The fix for a refusal.

    Args:
        routes: Primary keys by kind and path (`known_routes`).
        backends: Primary keys by name (`known_backends`).
        is_listed: Whether an origin is allowed now (`origins_in_force`).
    """
    sentence, links, origin = MENDS.get(refusal.code, ""), [], allowable(refusal.origin)
    if origin and is_listed(origin):
        sentence, origin = LISTED, ""
    if refusal.detail.endswith(UPGRADE_LOST):
        sentence = "If this was a handshake, have the proxy in front pass Upgrade and Connection on."
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
    """An origin in the list's normal form; empty if it can't be on the list.

    A wildcard can't: a stranger may send one, and the list would take it for a rule.
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
    """A configuration of only the enabled origins, which compares like a handshake."""
    enabled = Origin.objects.filter(enabled=True).values_list("origin", flat=True)
    return Snapshot.build((), (), map(snapshot.Origin, enabled))
