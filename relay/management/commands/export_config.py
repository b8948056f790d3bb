"""``export_config``: print the configuration as the TOML that `import_config` reads."""

from __future__ import annotations

from typing import Any

from django import db
from django.core.management.base import CommandError

from relay.database import trouble
from relay.management.command import GatewayCommand
from relay.models import Backend, Origin, Route
from relay.routing import toml


class Command(GatewayCommand):
    help = "Print backends, routes and origins as TOML, without defaults; importing that again changes nothing."
    requires_system_checks = ()

    def handle(self, **options: Any) -> None:
        try:
            routes = [(route, route.backend.name) for route in Route.objects.select_related("backend")]
            text = toml.render(Backend.objects.all(), routes, Origin.objects.all())
        except db.Error as exc:
            raise CommandError(trouble(exc)) from exc
        self.stdout.write(text, ending="")
