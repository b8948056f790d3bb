"""Which rows differ between two configurations, for the log. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from relay.routing.snapshot import Snapshot

MOST = 20
"""Rows that are listed; a first import may have hundreds."""


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """``+ backend main``, ``~ route http /api/``, ``- origin https://a.example``: added, changed, removed."""
    old, new = dict(_rows(before)), dict(_rows(after))
    found = [f"+ {name}" for name in new if name not in old]
    found += [f"~ {name}" for name, row in new.items() if name in old and old[name] != row]
    found += [f"- {name}" for name in old if name not in new]
    return found if len(found) <= MOST else [*found[:MOST], f"and {len(found) - MOST} more"]


def _rows(snapshot: Snapshot) -> Iterator[tuple[str, object]]:
    for backend in snapshot.backends.values():
        yield f"backend {backend.name}", backend
    for route in snapshot.routes:
        methods = f" ({', '.join(route.methods)})" if route.methods else ""
        yield f"route {route.kind} {route.path}{methods}", route
    for origin in snapshot.origins:
        yield f"origin {origin.origin}", origin
