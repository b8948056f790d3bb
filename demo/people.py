"""The demo's users and their tokens: the seed's claims, signed with the demo's own secret."""

import time
from dataclasses import dataclass
from typing import Any

import jwt
from django.conf import settings

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a token.

    Attributes:
        lifetime: Seconds from now until the token's `exp`; negative if that has passed.
        forged: The token is signed with a secret that is not the gateway's.
    """

    user_id: int
    email: str
    role: str
    lifetime: float = 5 * MINUTE
    forged: bool = False


PEOPLE = {
    "ada": Person(1, "ada@example.com", "user"),
    "grace": Person(2, "grace@example.com", "admin"),
    "bo": Person(3, "bo@example.com", "user", lifetime=15),
    "yesterday": Person(1, "ada@example.com", "user", lifetime=-24 * 60 * MINUTE),
    "eve": Person(2, "grace@example.com", "admin", forged=True),
}
"""The users, by the names that the page uses."""


def claims_of(person: Person, lifetime: float | None = None) -> dict[str, Any]:
    """Return the token's claims; `lifetime`, in seconds, overrides the person's own."""
    now = int(time.time())
    expires_at = now + int(person.lifetime if lifetime is None else lifetime)
    return {
        "user_id": person.user_id,
        "email": person.email,
        "role": person.role,
        "exp": expires_at,
        "iat": min(now, expires_at),
    }


def token_of(person: Person, claims: dict[str, Any]) -> str:
    secret = settings.RELAY.jwt_secret
    return jwt.encode(claims, secret[::-1] if person.forged else secret, algorithm="HS256")
