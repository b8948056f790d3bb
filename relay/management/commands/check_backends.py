"""``check_backends``: connect to every backend as the gateway would, and report exactly what does not work."""

from __future__ import annotations

import asyncio
from typing import Any

from django import db
from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from relay import checkup
from relay.asking import identify, own_host
from relay.database import trouble
from relay.explain import question
from relay.forwarding import Forwarding
from relay.management.command import GatewayCommand
from relay.routing.loader import InvalidConfiguration, load_snapshot
from relay.routing.snapshot import Snapshot


class Command(GatewayCommand):
    help = (
        "Check each backend's name, TCP, TLS, health path and WebSocket handshakes; print a table and, for each "
        "failure, its cause and what to try. Exit status 1 if anything fails."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", metavar="NAME", nargs="*", help="backends to check (default: all enabled)")
        parser.add_argument("--token", metavar="T", help="make handshakes as this token's user; it is not printed")

    def handle(self, *, names: list[str], token: str | None, **options: Any) -> None:
        try:
            snapshot = load_snapshot()
            visitor = _visitor(snapshot, token)
        except InvalidConfiguration as exc:
            raise CommandError(f"the configuration can't be used\n{exc}") from exc
        except db.Error as exc:
            raise CommandError(trouble(exc)) from exc
        known = sorted(snapshot.backends)
        if not known:
            raise CommandError("there is no backend; add one in the admin, or run: python manage.py import_config FILE")
        if unknown := [name for name in names if name not in snapshot.backends]:
            raise CommandError(f"no backend {', '.join(unknown)}; there are: {', '.join(known)}")
        findings = asyncio.run(checkup.check(snapshot, list(dict.fromkeys(names)), visitor))
        self.stdout.write(checkup.report(findings))
        failed = sum(finding.outcome == "FAILS" for finding in findings)
        if failed:
            raise CommandError(f"{failed} of {len(findings)} checks failed")


def _visitor(snapshot: Snapshot, token: str | None) -> checkup.Visitor:
    """A typical client: from the first origin on the list, with the token if one is given.

    Raises:
        CommandError: The token is not valid.
    """
    origins = [origin.origin for origin in snapshot.origins if origin.enabled and "*" not in origin.origin]
    try:
        asked = question("GET", "/", host=own_host(), origin=next(iter(origins), None), token=token)
    except ValueError as exc:
        raise CommandError(f"--token: {exc}") from exc
    who = identify(asked.scope)
    if token is not None and who.identity is None:
        raise CommandError(f"--token: {who.code}: {who.detail}")
    rules = Forwarding(*settings.RELAY.token_names)
    return checkup.Visitor(rules, who, tuple(asked.scope["headers"]))
