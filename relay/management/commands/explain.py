"""``explain``: what would happen to a request, without sending anything."""

from __future__ import annotations

from typing import Any

from django import db
from django.core.management.base import CommandError, CommandParser

from relay.asking import answer, own_host
from relay.database import trouble
from relay.explain import question
from relay.management.command import GatewayCommand
from relay.routing.loader import InvalidConfiguration


class Command(GatewayCommand):
    help = (
        "Show which route a request matches, who gets in, where it would go and with which headers, or why it would be "
        "refused and how to fix that. Nothing is sent."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("method", metavar="METHOD", help="GET, POST, ...; GET for a WebSocket")
        parser.add_argument("path", metavar="PATH", help="the path, optionally with a query: /api/users?page=2")
        parser.add_argument("--websocket", action="store_true", help="a WebSocket handshake instead of a request")
        parser.add_argument("--origin", metavar="O", help="the browser's Origin, for example https://app.example.com")
        parser.add_argument("--token", metavar="T", help="used as Authorization: Bearer; it is not printed")
        parser.add_argument(
            "--header", metavar="H", action="append", default=[], help="another header field, 'Name: value'; repeatable"
        )

    def handle(self, *, method: str, path: str, **options: Any) -> None:
        try:
            asked = question(
                method,
                path,
                websocket=options["websocket"],
                origin=options["origin"],
                token=options["token"],
                fields=options["header"],
                host=own_host(),
            )
        except ValueError as exc:
            raise CommandError(str(exc), returncode=2) from exc
        try:
            self.stdout.write(answer(asked))
        except InvalidConfiguration as exc:
            raise CommandError(f"the configuration can't be used\n{exc}") from exc
        except db.Error as exc:
            raise CommandError(trouble(exc)) from exc
