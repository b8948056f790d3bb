"""What the gateway knows about a client. Pure data: nothing here awaits, logs or uses the database."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

TokenPlace = Literal["header", "cookie", "query", "subprotocol"]
"""Where a token was found, in order of precedence."""

Place = Literal["header", "cookie", "query", "subprotocol", "ticket", ""]
"""Where an identity came from: a token's place, a ticket, or nowhere."""


def fingerprint(token: str) -> str:
    """SHA-256, in hex, of a JWT without its signature.

    One token can have several valid signatures: with ECDSA, (r, n - s) is as good as (r, s). If the signature were
    included, a revoked token could come back under another fingerprint.
    """
    return hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified user, according to one token.

    Attributes:
        user_id: Never empty; an integer claim in decimal.
        email: Empty if the token has none.
        role: What the backend gets as ``X-User-Role``: a single role unchanged, a list comma-joined.
        roles: The individual roles, which are compared with a route's.
        expires_at: Unix time when the token stops being valid: ``exp`` plus ``JWT_LEEWAY``.
        issued_at: ``iat`` as Unix time; None if there is none.
        jti: The token's id; empty if there is none.
        fingerprint: Identifies the token without revealing it; see `fingerprint`.
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
    """One token that came with a request, and the verdict on it.

    Attributes:
        value: The token itself, needed to remove it from what is forwarded; not part of the ``repr``.
        identity: The user it names; None if it does not count.
        code: Why it does not count: ``invalid_token``, ``expired_token`` or ``revoked_token``; empty if valid.
        detail: The reason for the log, without the token.
        unknown_key: Whether a newer JWKS could still make it valid.
        judged: False if there were too many tokens to verify: it identifies nobody, and is not forwarded.
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
    """The result for one request or handshake, stored in ``scope["identity"]``.

    Attributes:
        identity: The client's identity; None if there is none.
        place: Where the identity came from; cross-site rules depend on it. Empty without an identity.
        code: Why there is none: ``no_token``, ``invalid_token``, ``expired_token``, ``revoked_token``,
            ``ambiguous_token``, ``invalid_ticket`` or, for a ticket, ``database_unavailable``; empty with an identity.
        detail: The reason for the log; never contains a token or a ticket.
        presented: Every token found, valid or not, in order of precedence.
    """

    identity: Identity | None
    place: Place = ""
    code: str = ""
    detail: str = ""
    presented: tuple[Presented, ...] = ()


NOBODY = Identification(None, code="no_token", detail="no token in any place")
"""The identification of a request without any token."""
