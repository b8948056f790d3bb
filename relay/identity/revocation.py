"""Which tokens no longer count, though they have not expired.

Each process keeps the list in memory and checks it for every request and handshake; it is updated from the database
(`relay.routing.watch`). A revoked token or jti is kept until the token would have expired. A revoked user is kept
permanently: the lifetime of tokens issued earlier is unknown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from relay import database
from relay.identity.model import Identity
from relay.models import Revocation
from relay.routing.watch import RevocationEntry

_SWEEP = 60.0  # s between removals of expired entries


def revokes(entry: RevocationEntry, identity: Identity | None) -> bool:
    """Whether a revocation applies to an identity; never to None."""
    if identity is None:
        return False
    match entry.kind:
        case "token":
            return entry.value == identity.fingerprint
        case "jti":
            return bool(identity.jti) and entry.value == identity.jti
        case _:
            return entry.value == identity.user_id and _before(identity, entry.revoked_at)


def _before(identity: Identity, revoked_at: float) -> bool:
    """Whether a user's token was issued before the revocation; one without ``iat`` may have been."""
    return identity.issued_at is None or identity.issued_at <= revoked_at


class Revocations:
    """All revocations in force. For the event loop's thread only.

    Args:
        clock: Unix time.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tokens: dict[str, float] = {}  # fingerprint → when the token expires
        self._jtis: dict[str, float] = {}
        self._users: dict[str, float] = {}  # user id → revoked up to
        self._sweep_at = 0.0

    def add(self, entries: Iterable[RevocationEntry]) -> None:
        """Put revocations in force. Repeats are harmless; of two for the same user, the later counts."""
        for entry in entries:
            until = float("inf") if entry.expires_at is None else entry.expires_at
            if entry.kind == "user":
                self._users[entry.value] = max(entry.revoked_at, self._users.get(entry.value, 0.0))
            else:
                names = self._tokens if entry.kind == "token" else self._jtis
                names[entry.value] = max(until, names.get(entry.value, 0.0))
        if (now := self._clock()) >= self._sweep_at:
            self._sweep_at = now + _SWEEP
            for names in (self._tokens, self._jtis):
                for value in [value for value, until in names.items() if until <= now]:
                    del names[value]

    def check(self, identity: Identity) -> str | None:
        """Why the identity no longer counts, for the log; None if it still does."""
        if identity.fingerprint in self._tokens:
            return "the token was revoked"
        if identity.jti and identity.jti in self._jtis:
            return "its jti was revoked"
        revoked_at = self._users.get(identity.user_id)
        if revoked_at is not None and _before(identity, revoked_at):
            return f"user {identity.user_id} was revoked" + ("" if identity.issued_at else ", and the token has no iat")
        return None


def of_token(identity: Identity, now: float) -> RevocationEntry:
    """The revocation of an identity's token."""
    return RevocationEntry("token", identity.fingerprint, now, identity.expires_at)


def record(entry: RevocationEntry, note: str = "") -> None:
    """Write a revocation to the database: every process puts it in force within a second.

    Raises:
        django.core.exceptions.ValidationError: The value is not valid for its kind.
        django.db.Error: The database can't be written.
    """
    row = Revocation(
        kind=entry.kind,
        value=entry.value,
        revoked_at=_moment(entry.revoked_at),
        expires_at=None if entry.expires_at is None else _moment(entry.expires_at),
        note=note,
    )
    row.full_clean()
    row.save()


async def record_in_thread(entry: RevocationEntry, note: str = "") -> None:
    """Like `record`, from the event loop.

    Raises:
        relay.database.DatabaseUnavailable: It was not written.
    """
    await database.in_thread(record, entry, note)


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError):  # an exp beyond the year 9999
        return datetime.max.replace(tzinfo=UTC)
