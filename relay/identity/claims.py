"""From the claims of a verified token to an Identity. Pure.

The three claims become header fields of the backend's request, so they must arrive there as they were signed: no
control characters (RFC 9110 §5.5), no surrounding white space (a field loses it), nothing UTF-8 can't carry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from unicodedata import category

from relay.identity.errors import InvalidToken
from relay.identity.model import Identity


@dataclass(frozen=True, slots=True)
class Claims:
    """The names of the claims that identify a user.

    Attributes:
        leeway: Seconds for which a token stays valid after its ``exp``.
    """

    user_id: str = "user_id"
    email: str = "email"
    role: str = "role"
    leeway: float = 0

    def identity(self, claims: Mapping[str, Any], fingerprint: str) -> Identity:
        """Read the claims of a token whose signature, times, issuer and audience have been checked.

        Raises:
            InvalidToken: A claim can't be passed to a backend.
        """
        if claims.get("token_type") == "refresh":  # simplejwt's: long-lived, and only for getting new tokens
            raise InvalidToken("it is a refresh token")
        role, roles = _roles(self.role, claims.get(self.role))
        return Identity(
            user_id=_user_id(self.user_id, claims.get(self.user_id)),
            email=_text(self.email, claims.get(self.email)),
            role=role,
            roles=roles,
            # Whole seconds, as PyJWT compares them.
            expires_at=math.floor(_time("exp", claims.get("exp"))) + self.leeway,
            issued_at=None if claims.get("iat") is None else _time("iat", claims["iat"]),
            jti=_text("jti", claims.get("jti")),
            fingerprint=fingerprint,
        )


def _user_id(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    text = _text(name, value)
    if not text:
        raise InvalidToken(f"the claim {name} is missing or empty")
    return text


def _roles(name: str, value: Any) -> tuple[str, tuple[str, ...]]:
    """The role field for the backend, and the individual roles. A string is one role, whatever it contains.

    An element of a list must not be empty or contain a comma: joined, it would read as roles that nobody granted.
    """
    if not isinstance(value, list):
        role = _text(name, value)
        return role, (role,) if role else ()
    roles = tuple(_text(name, role) for role in value)
    if any(not role or "," in role for role in roles):
        raise InvalidToken(f"the claim {name} lists a role that is empty or contains a comma")
    return ",".join(roles), roles


def _text(name: str, value: Any) -> str:
    """A claim that a header field can carry unchanged; missing or null is empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidToken(f"the claim {name} is not a string")
    # Control characters and lone surrogates are not printable; other characters may not be either, and pass.
    if value != value.strip() or (not value.isprintable() and any(category(c) in ("Cc", "Cs") for c in value)):
        raise InvalidToken(f"the claim {name} has a control character, or white space around it")
    return value


def _time(name: str, value: Any) -> float:
    """A NumericDate (RFC 7519 §2): a JSON number of seconds, not a string or a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken(f"the claim {name} is not a number")
    if not -1e15 < value < 1e15:  # not NaN, not infinite, exact as a float
        raise InvalidToken(f"the claim {name} is not a valid time")
    return float(value)
