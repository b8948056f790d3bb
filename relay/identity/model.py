"""What the gateway knows about the one who asks. Pure data: nothing here awaits, logs or touches a database."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

TokenPlace = Literal["header", "cookie", "query", "subprotocol"]
"""Where a token was found, in the order in which the places count."""

Place = Literal["header", "cookie", "query", "subprotocol", "ticket", ""]
"""Where an identity came from: a token's place, a ticket, or nowhere."""


def fingerprint(token: str) -> str:
    """SHA-256, in hex, of a JWT without its signature.

    What is signed is the token. A signature can be another and as good: of ECDSA's (r, s) there is always
    (r, n - s), and with it a revoked token would come back under another name.
    """
    return hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified user, as one token states it.

    Attributes:
        user_id: Never empty; an integer claim in decimal.
        email: Empty if the token has none.
        role: What the backend gets as ``X-User-Role``: one role as it is, a list comma-joined.
        roles: The same, one by one: what a route's roles are compared with.
        expires_at: Unix time after which nothing is allowed any more: ``exp`` plus ``JWT_LEEWAY``.
        issued_at: ``iat`` as Unix time, None without one.
        jti: The token's id, empty without one.
        fingerprint: Names the token without giving it away; see `fingerprint`.
    """

    user_id: str
    email: str
    role: str
    roles: tuple[str, ...]
    expires_at: float
    issued_at: float | None
    jti: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Presented:
    """One token that came with a request, and what became of it.

    Attributes:
        value: The token itself: needed to take it out of what is forwarded; not part of the ``repr``.
        identity: Who it names, None if it does not count.
        code: Why it does not count: ``invalid_token``, ``expired_token`` or ``revoked_token``; empty if valid.
        detail: The same for the log, without the token.
        unknown_key: Whether a newer JWKS could still make it valid.
        judged: False where there were too many to look at: it counts for nobody, and goes nowhere.
    """

    place: TokenPlace
    value: str
    identity: Identity | None = None
    code: str = ""
    detail: str = ""
    unknown_key: bool = False
    judged: bool = True

    def __repr__(self) -> str:
        return f"Presented(place={self.place!r}, valid={self.identity is not None}, code={self.code!r})"


@dataclass(frozen=True, slots=True)
class Identification:
    """The outcome for one request or handshake, as it stands in ``scope["identity"]``.

    Attributes:
        identity: Who asks, None if nobody could be named.
        place: Where the identity came from; cross-site rules depend on it. Empty without an identity.
        code: Why there is none: ``no_token``, ``invalid_token``, ``expired_token``, ``revoked_token``,
            ``ambiguous_token``, ``invalid_ticket`` or, for a ticket, ``database_unavailable``; empty with an identity.
        detail: The same for the log; never holds a token or a ticket.
        presented: Every token looked at, valid or not, in the order of the places.
    """

    identity: Identity | None
    place: Place = ""
    code: str = ""
    detail: str = ""
    presented: tuple[Presented, ...] = ()


NOBODY = Identification(None, code="no_token", detail="no token in any place")
"""The identification of a request that presents nothing."""
