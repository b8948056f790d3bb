"""``revoke``: end the access of a token, a jti or a user now, open sockets included."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any

import jwt
from django import db
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from relay.database import trouble
from relay.identity import revocation
from relay.identity.claims import Claims
from relay.identity.errors import TokenError
from relay.identity.model import Identity, fingerprint
from relay.identity.tokens import Verifier
from relay.management.command import GatewayCommand
from relay.routing.watch import RevocationEntry
from relay.settings import RelaySettings

STDIN = "-"


class Command(GatewayCommand):
    help = (
        "End the access of one token, or of every token issued to a user up to now. "
        "Within a second, every process on this database refuses it and closes its open sockets."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument(
            "--token", help="the token; - reads it from standard input, which keeps it out of the shell's history"
        )
        what.add_argument("--jti", help="the id of the token")
        what.add_argument("--user-id", help="every token of this user with iat up to now, or without iat")
        parser.add_argument("--note", default="", help="why, for the list in the admin")

    def handle(self, *, token: str | None, jti: str | None, user_id: str | None, note: str, **options: Any) -> None:
        for option, value in (("--jti", jti), ("--user-id", user_id)):
            if value is not None and not value.strip():
                raise CommandError(f"{option}: the value is empty; is the variable it comes from set?")
        now = time.time()
        if token is not None:
            identity = self._identity(sys.stdin.read().strip() if token == STDIN else token)
            what = f"a token of user {identity.user_id} ({identity.fingerprint[:12]}…)"
            if identity.expires_at <= now:
                self.stdout.write(f"nothing to revoke: {what} expired at {_text(identity.expires_at)}")
                return
            entry = revocation.of_token(identity, now)
            what += f", which was valid until {_text(identity.expires_at)}"
        elif jti is not None:
            entry = RevocationEntry("jti", jti, now, None)
            what = f"the token with the jti {jti}"
        else:
            entry = RevocationEntry("user", user_id or "", now, None)
            what = f"every token of user {user_id} issued up to {_text(now)}, and any without iat"
        _record(entry, note)
        self.stdout.write(f"revoked {what}; open sockets end within a second")

    def _identity(self, token: str) -> Identity:
        """The identity in a token that may have expired.

        Raises:
            CommandError: The gateway would not accept the token anyway, or only part of it was copied.
        """
        relay: RelaySettings = settings.RELAY
        try:
            verifier = Verifier(relay)
        except ValueError as exc:
            raise CommandError(str(exc)) from exc
        try:
            if verifier.jwks is not None:
                verifier.jwks.load()
            return verifier.verify_expired(token)
        except TokenError as exc:
            raise CommandError(f"--token: not a token of this gateway, so there is nothing to revoke: {exc}") from exc
        except (OSError, ValueError) as exc:
            self.stderr.write(f"JWT_JWKS_URL: {exc}; the token's claims are used unverified")
            return _unverified(token, relay)


def _unverified(token: str, relay: RelaySettings) -> Identity:
    """The identity that a token claims, unverified: it must be possible to revoke while the issuer is down."""
    claims = Claims(relay.jwt_user_id_claim, relay.jwt_email_claim, relay.jwt_role_claim, relay.jwt_leeway)
    try:
        return claims.identity(jwt.decode(token, options={"verify_signature": False}), fingerprint(token))
    except (jwt.PyJWTError, TokenError, ValueError) as exc:
        raise CommandError("--token: this is not a readable token") from exc


def _record(entry: RevocationEntry, note: str) -> None:
    try:
        revocation.record(entry, note)
    except ValidationError as exc:
        raise CommandError("\n".join(f"{name}: {' '.join(said)}" for name, said in exc.message_dict.items())) from exc
    except db.Error as exc:
        raise CommandError(trouble(exc)) from exc


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") if moment < 2**37 else "the end of time"
