"""Verify tokens, and decide which of several counts. Nothing here waits for the database or the network.

A token is verified once and cached until it expires, as a browser sends the same one with every request. Whatever can
change in between is checked every time: its expiry, the end of the previous secret, the keys of a JWKS and, outside
this cache, revocation.
"""

from __future__ import annotations

import json
import re
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from relay.identity.claims import Claims
from relay.identity.errors import ExpiredToken, InvalidToken, UnknownKey, WrongKey
from relay.identity.jwks import Jwks
from relay.identity.keys import Key, candidates, configured
from relay.identity.model import NOBODY, Identification, Identity, Presented, fingerprint

if TYPE_CHECKING:
    from relay.settings import RelaySettings

LONGEST = 8192  # characters of a token; no server takes a longer header line
REMEMBERED = 8192  # verified tokens, about 1.5 KiB each

# Three base64url parts without padding (RFC 7515 §2): another spelling of the same bytes would be a second token.
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Verifier:
    """Verifies tokens according to the settings. For one thread at a time.

    Args:
        clock: Unix time.

    Attributes:
        jwks: Where keys are fetched, or None.

    Raises:
        ValueError: The configured key can't be used with the algorithms.
    """

    def __init__(self, settings: RelaySettings, clock: Callable[[], float] = time.time) -> None:
        self._algorithms = settings.jwt_algorithms
        self._claims = Claims(
            settings.jwt_user_id_claim, settings.jwt_email_claim, settings.jwt_role_claim, settings.jwt_leeway
        )
        self._keys = configured(settings)
        self._clock = clock
        self._verified: dict[str, tuple[Identity, float]] = {}  # the least recently used first
        self.jwks = Jwks(settings, self._verified.clear) if settings.jwt_jwks_url else None

    def verify(self, token: str) -> Identity:
        """The identity that a valid token names.

        Raises:
            InvalidToken, ExpiredToken: The token does not count.
            UnknownKey: The JWKS as last fetched has no key for it.
        """
        now = self._clock()
        known = self._verified.pop(token, None)
        if known is None:
            identity, key = self._read(token, now)
            known = identity, min(identity.expires_at, key.until)
            if len(self._verified) >= REMEMBERED:
                del self._verified[next(iter(self._verified))]
        elif now >= known[1]:
            return self._read(token, now)[0]  # raises, most likely
        self._verified[token] = known
        return known[0]

    def verify_expired(self, token: str) -> Identity:
        """Like `verify`, but a token that is valid except for its ``exp`` counts as well."""
        return self._read(token, self._clock(), expired=True)[0]

    def _read(self, token: str, now: float, *, expired: bool = False) -> tuple[Identity, Key]:
        if len(token) > LONGEST:
            raise InvalidToken(f"it has {len(token)} characters, more than {LONGEST}")
        compact = _COMPACT.fullmatch(token)
        if compact is None:
            raise InvalidToken("it is not in JWS compact form")
        algorithm, kid = _header(compact[1])
        if algorithm not in self._algorithms:
            raise InvalidToken(f"alg is {algorithm[:40]!r}, JWT_ALGORITHMS is {','.join(self._algorithms)}")
        keys = self._keys + self.jwks.keys if self.jwks is not None else self._keys
        for key in candidates(keys, algorithm, kid, now):
            try:
                claims = key.claims(token, now=not expired)
            except WrongKey:
                continue
            identity = self._claims.identity(claims, fingerprint(token))
            if now >= identity.expires_at and not expired:
                raise ExpiredToken(f"exp passed {now - identity.expires_at:.0f} s ago")
            return identity, key
        if self.jwks is not None:
            raise UnknownKey(f"no key of the JWKS matches; kid is {(kid or '')[:100]!r}")
        raise InvalidToken("the signature matches no key")


@lru_cache(maxsize=256)  # all tokens of an issuer begin alike
def _header(segment: str) -> tuple[str, str | None]:
    """``alg`` and ``kid`` of a JOSE header.

    Raises:
        InvalidToken: It is malformed, or lists extensions that must be understood (``crit``, RFC 7515 §4.1.11):
            none are supported.
    """
    try:
        header = json.loads(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError) as exc:
        raise InvalidToken("its header is not JSON") from exc
    if not isinstance(header, dict):
        raise InvalidToken("its header is not a JSON object")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise InvalidToken("alg or kid in its header is not a string")
    if "crit" in header or "b64" in header:
        raise InvalidToken("its header asks for extensions (crit)")
    return algorithm, kid


def choose(presented: Sequence[Presented]) -> Identification:
    """Which token counts (contract, section 4).

    The first valid one; none if two different ones are valid. If none is valid, the first one's error is reported.
    """
    if not presented:
        return NOBODY
    first = next((p for p in presented if p.identity is not None), None)
    if first is None or first.identity is None:
        return Identification(None, code=presented[0].code, detail=_where(presented[0]), presented=tuple(presented))
    for other in presented:
        if other.identity is not None and other.identity.fingerprint != first.identity.fingerprint:
            detail = f"different valid tokens in {first.place} and {other.place}"
            return Identification(None, code="ambiguous_token", detail=detail, presented=tuple(presented))
    return Identification(first.identity, first.place, presented=tuple(presented))


def _where(presented: Presented) -> str:
    return f"token in {presented.place}: {presented.detail}"
