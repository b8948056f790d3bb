"""Load a `Snapshot` from the database, and a first configuration from the environment."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from relay import models, validation
from relay.routing.snapshot import Backend, Origin, Rate, Route, Snapshot, Url

_ATTEMPTS = 5


class InvalidConfiguration(Exception):
    """The configuration in the database can't be used; `problems` has one line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def load_snapshot() -> Snapshot:
    """Read the whole configuration, disabled rows included, in five queries.

    The revision is read before and after: if it is unchanged, nothing was committed in between and the rows belong
    together, without a lock and at any isolation level. If writers never pause, a lock makes them wait once.

    Raises:
        InvalidConfiguration: Rows contain what no form would have accepted (they were written by other means).
        django.db.Error: The database can't be reached or read.
    """
    for _ in range(_ATTEMPTS):
        revision = models.Revision.current().config
        rows = _rows()
        if models.Revision.current().config == revision:
            return _snapshot(*rows, revision)
    with transaction.atomic():
        locked = models.Revision.objects.select_for_update().filter(pk=1).first()
        return _snapshot(*_rows(), locked.config if locked else 0)


def _rows() -> tuple[list[models.Backend], list[models.Route], list[models.Origin]]:
    return list(models.Backend.objects.all()), list(models.Route.objects.all()), list(models.Origin.objects.all())


def _snapshot(
    backends: list[models.Backend], routes: list[models.Route], origins: list[models.Origin], revision: int
) -> Snapshot:
    rows = chain[models.Counted](backends, routes, origins)
    problems = [f"{row.label}: {field}: {sentence}" for row in rows for field, sentence in row.problems()]
    if problems:
        raise InvalidConfiguration(problems)
    names = {row.pk: row.name for row in backends}
    return Snapshot.build(
        map(_backend, backends),
        [_route(row, names[row.backend_id]) for row in routes],
        [Origin(row.origin, row.note, row.enabled) for row in origins],
        revision,
    )


def _backend(row: models.Backend) -> Backend:
    return Backend(
        name=row.name,
        urls=tuple(map(Url.parse, validation.lines(row.urls))),
        health_path=row.health_path,
        connect_timeout=row.connect_timeout,
        read_timeout=row.read_timeout,
        max_body_size=row.max_body_size,
        max_message_size=row.max_message_size,
        websocket_origin=row.websocket_origin,
        forward_token=row.forward_token,
        forward_host=row.forward_host,
        tls_verify=row.tls_verify,
        enabled=row.enabled,
    )


def _route(row: models.Route, backend: str) -> Route:
    return Route(
        path=row.path,
        kind=cast("Any", row.kind),  # one of the choices: the row has been validated
        backend=backend,
        methods=validation.items(row.methods),
        access=cast("Any", row.access),
        roles=validation.items(row.roles),
        upstream_path=row.upstream_path,
        refuse_with=cast("Any", row.refuse_with),
        idle_timeout=row.idle_timeout,
        max_connections_per_user=row.max_connections_per_user,
        message_rate=Rate.parse(row.message_rate) if row.message_rate else None,
        enabled=row.enabled,
    )


def bootstrap(main_service_url: str, allowed_origins: Sequence[str]) -> None:
    """Turn ``MAIN_SERVICE_URL`` and ``ALLOWED_ORIGINS`` into a first configuration.

    Only if the database has no backend, so nothing that operators do later is undone; the values are always checked.
    Among processes that start together, one creates it: `Revision.counting` serialises them.

    Raises:
        ImproperlyConfigured: Values can't be used; one line for each, with the variable's name.
    """
    backend = models.Backend(name="main", urls=main_service_url)
    origins = [models.Origin(origin=origin, note="ALLOWED_ORIGINS") for origin in dict.fromkeys(allowed_origins)]
    problems = [f"MAIN_SERVICE_URL: {sentence}" for _, sentence in backend.problems() if main_service_url]
    problems += [f"ALLOWED_ORIGINS: {sentence}" for origin in origins for _, sentence in origin.problems()]
    if problems:
        raise ImproperlyConfigured("\n".join(problems))
    if not main_service_url or models.Backend.objects.exists():
        return
    with models.Revision.counting("config"):
        if models.Backend.objects.exists():
            return
        backend.save()
        models.Route.objects.create(path="/api/", kind="http", backend=backend)
        models.Route.objects.create(path="/ws", kind="websocket", backend=backend)
        for origin in origins:
            models.Origin.objects.get_or_create(origin=origin.origin, defaults={"note": origin.note})
