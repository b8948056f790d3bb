"""``issue_token``: print a token signed with ``JWT_SECRET``, for tests, scripts and getting started."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from relay.identity.errors import TokenError
from relay.identity.keys import configured
from relay.identity.tokens import Verifier
from relay.management.command import GatewayCommand
from relay.settings import RelaySettings

LONGEST = 10 * 365 * 24 * 3600  # s


class Command(GatewayCommand):
    help = "Print a token signed with JWT_SECRET, on a line of its own, that this gateway accepts until it expires."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--user-id", required=True, help="the user's id; digits alone make an integer claim")
        parser.add_argument("--email", help="the user's email (default: no such claim)")
        parser.add_argument(
            "--role", action="append", default=[], help="the user's role; repeat it or use commas for several"
        )
        parser.add_argument("--ttl", type=_seconds, default=3600, help="lifetime in seconds (default: 3600)")

    def handle(self, *, user_id: str, email: str | None, role: list[str], ttl: int, **options: Any) -> None:
        relay: RelaySettings = settings.RELAY
        if not relay.jwt_secret or relay.jwt_public_key or relay.jwt_jwks_url:
            verified_with = "JWT_PUBLIC_KEY" if relay.jwt_public_key else "JWT_JWKS_URL"
            raise CommandError(
                f"tokens are verified with {verified_with} here: only their issuer has the key to sign one; "
                "a gateway with JWT_SECRET can issue its own"
            )
        now = int(time.time())
        roles = [name.strip() for text in role for name in text.split(",") if name.strip()]
        claims: dict[str, Any] = {relay.jwt_user_id_claim: _user_id(user_id), "iat": now, "exp": now + ttl}
        if email is not None:
            claims[relay.jwt_email_claim] = email
        if roles:
            claims[relay.jwt_role_claim] = roles[0] if len(roles) == 1 else roles
        token: str = configured(relay)[0].encode(claims)
        try:
            Verifier(relay).verify(token)
        except TokenError as exc:
            raise CommandError(f"no token was issued, as the gateway would refuse it: {exc}") from exc
        self.stdout.write(token)


def _user_id(text: str) -> int | str:
    """An integer if that loses nothing (no leading zeros), as most issuers have it."""
    return int(text) if text.isascii() and text.isdigit() and (text == "0" or text[0] != "0") else text


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 9 and 0 < int(text) <= LONGEST):
        raise ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to {LONGEST}")
    return int(text)
