"""Compute, show and apply the difference between a TOML file and the database."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from relay.models import Backend, Counted, Origin, Revision, Route
from relay.routing import toml
from relay.routing.toml import Document, TomlError


@dataclass(frozen=True, slots=True)
class Change:
    """One row that is added, changed or removed.

    Attributes:
        row: The row to save or delete.
        fields: For a changed row: key, value before and value after, as in TOML.
        backend: The name of a route's backend.
    """

    sign: Literal["+", "~", "-"]
    row: Counted
    fields: tuple[tuple[str, object, object], ...] = ()
    backend: str = ""

    def __str__(self) -> str:
        details = [f"{key}: {toml.text(before)} -> {toml.text(after)}" for key, before, after in self.fields]
        if self.sign == "+":
            details = toml.lines(self.row, self.backend)
        return "\n    ".join([f"{self.sign} {self.row.label}", *details])


def apply(document: Document, *, prune: bool = False, dry_run: bool = False) -> list[Change]:
    """Make the database match a file, all or nothing; return what changed, or would change.

    Args:
        prune: Remove what the file lacks.

    Raises:
        TomlError: The file has problems, or names an unknown backend; nothing was changed.
    """
    changes = difference(document, prune)
    if changes and not dry_run:
        with Revision.counting("config"):
            changes = difference(document, prune)  # again, now that nobody else can write
            _save(changes)
    return changes


def difference(document: Document, prune: bool) -> list[Change]:
    """The necessary changes: backends, then routes, then origins.

    Raises:
        TomlError: See `apply`.
    """
    stored = {row.name: row for row in Backend.objects.all()}
    wanted = {row.name: row for row in document.backends}
    problems = [*document.problems, *_unknown_backends(document, stored, wanted, prune)]
    if problems:
        raise TomlError(problems)
    changes = _compare(((row, "") for row in stored.values()), ((row, "") for row in wanted.values()), prune)
    for route, backend in document.routes:
        route.backend = wanted.get(backend) or stored[backend]
    routes = [(route, route.backend.name) for route in Route.objects.select_related("backend")]
    changes += _compare(routes, document.routes, prune)
    origins = ((row, "") for row in Origin.objects.all())
    return changes + _compare(origins, ((row, "") for row in document.origins), prune)


def _unknown_backends(
    document: Document, stored: Collection[str], wanted: Collection[str], prune: bool
) -> Iterator[str]:
    known = {*wanted} if prune else {*wanted, *stored}
    for route, backend in document.routes:
        if not backend or backend in known:
            continue
        if backend in stored:
            fix = "it is not in the file, and --prune would remove it; add it to the file"
        else:
            near = difflib.get_close_matches(backend, known, 1)
            fix = f"did you mean {toml.quoted(near[0])}?" if near else "add a [[backend]] with this name"
        yield f"{route.label}: backend: {toml.quoted(backend)} is unknown; {fix}"


def _compare(stored: Iterable[tuple[Counted, str]], wanted: Iterable[tuple[Counted, str]], prune: bool) -> list[Change]:
    """The changes of one table; a wanted row takes over the primary key of the stored one with its key."""
    changes = []
    left = {toml.key(row): (row, backend) for row, backend in stored}
    for row, backend in wanted:
        before, backend_before = left.pop(toml.key(row), (None, ""))
        row.pk, row._state.adding = (before.pk, False) if before else (None, True)
        if before is None:
            changes.append(Change("+", row, backend=backend))
            continue
        old, new = toml.table(before, backend_before), toml.table(row, backend)
        if fields := tuple((name, old[name], new[name]) for name in new if old[name] != new[name]):
            changes.append(Change("~", row, fields))
    return changes + [Change("-", row) for row, _ in left.values() if prune]


def _save(changes: list[Change]) -> None:
    """Save and delete, deletions last: by then no remaining route leads to a deleted backend."""
    for change in changes:
        if change.sign != "-":
            change.row.save()
    for change in changes:
        if change.sign == "-":
            change.row.delete()
