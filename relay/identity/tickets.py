"""Tickets: valid for one handshake, for half a minute, on one path, from one origin.

A browser can't set ``Authorization`` on a WebSocket, and a token in the URL ends up in histories and logs; a used
ticket there is worthless. The database has only its SHA-256, and only the process that deletes the row can use it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

from relay import database
from relay.identity.model import Identity
from relay.models import Ticket

LIFETIME = 30  # s
LONGEST_PATH = 2000  # characters
LONGEST_ORIGIN = 300  # characters

_FORM = re.compile(r"[A-Za-z0-9_-]{43}")  # 256 random bits in base64url


class InvalidTicket(Exception):
    """A ticket that can't be used; ``str()`` says why, for the log, without the ticket."""


class Tickets:
    """Issues and redeems tickets; database calls run in threads.

    Args:
        clock: Unix time.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    async def issue(self, identity: Identity, path: str, origin: str) -> str:
        """A fresh ticket for an identity.

        Args:
            path: The only path it opens, decoded.
            origin: The only ``Origin`` that may use it; empty: only a handshake without one.

        Raises:
            relay.database.DatabaseUnavailable: The ticket could not be stored.
        """
        ticket = secrets.token_urlsafe(32)
        expires_at = datetime.fromtimestamp(self._clock() + LIFETIME, UTC)
        row = Ticket(digest=_digest(ticket), identity=asdict(identity), path=path, origin=origin, expires_at=expires_at)
        await database.in_thread(row.save, force_insert=True)
        return ticket

    async def redeem(self, ticket: str, path: str, origin: str) -> Identity:
        """The identity for a ticket, which is used up.

        A wrong path or origin uses it up as well: a stolen ticket is dead.

        Raises:
            InvalidTicket: The ticket can't be used.
            relay.database.DatabaseUnavailable: The ticket could not be looked up.
        """
        if not _FORM.fullmatch(ticket):
            raise InvalidTicket("it does not have the form of a ticket")
        row = await database.in_thread(_take, _digest(ticket))
        if row is None:
            raise InvalidTicket("unknown, or already used")
        if row.expires_at.timestamp() <= self._clock():
            raise InvalidTicket(f"expired at {row.expires_at:%H:%M:%S}")
        if row.path != path:
            raise InvalidTicket(f"it is for {row.path}, and was used on {path[:200]}")
        if row.origin != origin:
            raise InvalidTicket(f"it is for origin {row.origin or '(none)'}, and came from {origin[:200] or '(none)'}")
        identity = Identity(**{**row.identity, "roles": tuple(row.identity["roles"])})
        if identity.expires_at <= self._clock():
            raise InvalidTicket("its token has expired")
        return identity


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()


def _take(digest: str) -> Ticket | None:
    """Read and delete a row; of several concurrent attempts, only the one that deletes it gets it."""
    row = Ticket.objects.filter(digest=digest).first()
    return row if row is not None and Ticket.objects.filter(pk=row.pk).delete()[0] else None
