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
        "End the access of one token, or of every token that a user has been given up to now. "
        "Every process on this database follows within a second, and closes the open sockets."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument(
            "--token", help="the token; - reads it from standard input, out of sight of the shell's history"
        )
        what.add_argument("--jti", help="the id of the token")
        what.add_argument("--user-id", help="every token of this user with iat up to now, or without iat")
        parser.add_argument("--note", default="", help="why, for the list in the admin")

    def handle(self, *, token: str | None, jti: str | None, user_id: str | None, note: str, **options: Any) -> None:
        for option, value in (("--jti", jti), ("--user-id", user_id)):
            if value is not None and not value.strip():
                raise CommandError(f"{option}: it is empty; is the variable set that it comes from?")
        now = time.time()
        if token is not None:
            identity = self._identity(sys.stdin.read().strip() if token == STDIN else token)
            what = f"a token of user {identity.user_id} ({identity.fingerprint[:12]}…)"
            if identity.expires_at <= now:
                self.stdout.write(f"nothing to revoke: {what} has expired at {_text(identity.expires_at)}")
                return
            entry = revocation.of_token(identity, now)
            what += f", which lives until {_text(identity.expires_at)}"
        elif jti is not None:
            entry = RevocationEntry("jti", jti, now, None)
            what = f"the token with the jti {jti}"
        else:
            entry = RevocationEntry("user", user_id or "", now, None)
            what = f"every token of user {user_id} issued up to {_text(now)}, and any without iat"
        _record(entry, note)
        self.stdout.write(f"revoked {what}; open sockets end within a second")

    def _identity(self, token: str) -> Identity:
        """Whose the token is and how long it lives, though it may have expired.

        Raises:
            CommandError: It opens nothing here anyway, or it was cut while it was copied.
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
            raise CommandError(f"--token: no token of ours, so there is nothing to revoke: {exc}") from exc
        except (OSError, ValueError) as exc:
            self.stderr.write(f"JWT_JWKS_URL: {exc}; the token is taken for what it says, unverified")
            return _unverified(token, relay)


def _unverified(token: str, relay: RelaySettings) -> Identity:
    """What a token says of itself: a revocation must be possible while its issuer is down."""
    claims = Claims(relay.jwt_user_id_claim, relay.jwt_email_claim, relay.jwt_role_claim, relay.jwt_leeway)
    try:
        return claims.identity(jwt.decode(token, options={"verify_signature": False}), fingerprint(token))
    except (jwt.PyJWTError, TokenError, ValueError) as exc:
        raise CommandError("--token: it is no token that can be read") from exc


def _record(entry: RevocationEntry, note: str) -> None:
    try:
        revocation.record(entry, note)
    except ValidationError as exc:
        raise CommandError("\n".join(f"{name}: {' '.join(said)}" for name, said in exc.message_dict.items())) from exc
    except db.Error as exc:
        raise CommandError(trouble(exc)) from exc


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds") if moment < 2**37 else "the end of time"
