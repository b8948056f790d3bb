"""The keys that tokens are verified with: one `Key` per key and algorithm, through simplejwt's `TokenBackend`.

A key is only ever used with its own algorithm: a token's header selects among the pinned ones, and never decides how a
key is read (RFC 8725 §3.1). So ``none`` can't be requested, and a public key can't be taken for an HMAC secret.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jwt
from jwt.exceptions import InvalidJTIError
from jwt.warnings import InsecureKeyLengthWarning
from rest_framework_simplejwt.backends import TokenBackend

from relay.identity.algorithms import HMAC, fault
from relay.identity.errors import ExpiredToken, InvalidToken, WrongKey

if TYPE_CHECKING:
    from relay.settings import RelaySettings

NEVER = float("inf")

# The length of a secret is checked once (`gatewaysite.env`, relay.W001); PyJWT would warn for each token.
warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)

_MOST_KEYS = 64  # of a JWKS are read; real ones have two to ten


class Key(TokenBackend):
    """A key with its algorithm, and the issuer, audience and leeway that its tokens are checked against.

    Args:
        key: The secret for HMAC, otherwise a PEM text or a public key object.
        kid: Its id in a JWKS; None: it may match any token.
        until: Unix time from which it no longer verifies anything.

    Raises:
        ValueError: The key can't be used with this algorithm.
    """

    def __init__(
        self, algorithm: str, key: Any, settings: RelaySettings, kid: str | None = None, until: float = NEVER
    ) -> None:
        symmetric = algorithm in HMAC
        super().__init__(
            algorithm,
            signing_key=key if symmetric else None,
            verifying_key="" if symmetric else key,
            audience=settings.jwt_audience or None,
            issuer=settings.jwt_issuer or None,
            leeway=settings.jwt_leeway,
        )
        self.kid, self.until = kid, until
        if not symmetric and (why := fault(algorithm, key)):
            raise ValueError(why)

    def claims(self, token: str, *, now: bool = True) -> dict[str, Any]:
        """The claims of a valid token that this key signed.

        Like simplejwt's ``decode``, but ``exp`` is required, and ``sub`` may be an integer, as the user id may.

        Args:
            now: Whether it must be valid right now; if not, it may have expired.

        Raises:
            WrongKey: The signature is not from this key.
            ExpiredToken: Only ``exp`` has passed.
            InvalidToken: Anything else is wrong.
        """
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self.get_verifying_key(token),
                algorithms=[self.algorithm],
                audience=self.audience,
                issuer=self.issuer,
                leeway=self.get_leeway(),
                options={
                    "require": ["exp"],
                    "verify_exp": now,
                    "verify_aud": self.audience is not None,
                    "verify_sub": False,
                },
            )
        except jwt.InvalidSignatureError as exc:
            raise WrongKey("the signature matches no key") from exc
        except jwt.PyJWTError as exc:
            raise self._explained(token, exc) from exc
        return claims

    def _explained(self, token: str, exc: jwt.PyJWTError) -> InvalidToken | ExpiredToken:
        """Our error for PyJWT's, with the values compared; PyJWT checks claims only after the signature."""
        match exc:
            case jwt.ExpiredSignatureError():
                return ExpiredToken(f"exp passed {_distance(token, 'exp')} s ago")
            case jwt.ImmatureSignatureError():
                name = "iat" if "iat" in str(exc) else "nbf"
                return InvalidToken(f"{name} lies {_distance(token, name)} s in the future")
            case jwt.InvalidIssuerError():
                return InvalidToken(f"iss is {_claim(token, 'iss')!r:.100}, JWT_ISSUER is {self.issuer!r}")
            case jwt.InvalidAudienceError():
                return InvalidToken(f"aud is {_claim(token, 'aud')!r:.100}, JWT_AUDIENCE is {self.audience!r}")
            case jwt.MissingRequiredClaimError():
                return InvalidToken(f"the claim {exc.claim} is missing")
            case InvalidJTIError():
                return InvalidToken("the claim jti is not a string")
            case _:
                return InvalidToken("it is not a well-formed JWT, or a time in it is not a number")


def _claim(token: str, name: str) -> Any:
    return jwt.decode(token, options={"verify_signature": False}).get(name)


def _distance(token: str, name: str) -> str:
    """Seconds between a time in a token and now, cut to 20 digits for absurd values."""
    return str(abs(int(_claim(token, name)) - int(time.time())))[:20]


def configured(settings: RelaySettings) -> tuple[Key, ...]:
    """The keys that the settings themselves contain, current before previous.

    Raises:
        ValueError: An HMAC algorithm is combined with a public key or a JWKS (RFC 8725 §3.1), or the PEM can't be used
            with any of the algorithms.
    """
    algorithms = settings.jwt_algorithms
    if settings.jwt_public_key or settings.jwt_jwks_url:
        if not set(algorithms).isdisjoint(HMAC):
            raise ValueError("JWT_ALGORITHMS: an HMAC algorithm can't be combined with a public key or JWKS")
        keys = tuple(usable(algorithms, settings.jwt_public_key, settings)) if settings.jwt_public_key else ()
        if settings.jwt_public_key and not keys:
            raise ValueError(f"JWT_PUBLIC_KEY: not a public key for {', '.join(algorithms)}")
        return keys
    until = NEVER if settings.jwt_previous_until is None else settings.jwt_previous_until
    secrets = [(settings.jwt_secret, NEVER), (settings.jwt_previous_secret, until)]
    return tuple(
        Key(algorithm, secret, settings, until=end)
        for secret, end in secrets
        for algorithm in algorithms
        if secret and algorithm in HMAC
    )


def usable(algorithms: Iterable[str], key: Any, settings: RelaySettings, kid: str | None = None) -> Iterator[Key]:
    """One `Key` for each of the algorithms that the asymmetric key can be used with."""
    for algorithm in algorithms:
        if algorithm not in HMAC:
            try:
                yield Key(algorithm, key, settings, kid)
            except ValueError:
                continue


def published(document: Any, settings: RelaySettings) -> tuple[Key, ...]:
    """The public signature keys of a JWKS that fit a pinned algorithm (RFC 7517 §4); others are skipped (§5).

    Raises:
        ValueError: It is not a JWKS, or contains no such key.
    """
    entries = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise ValueError("the answer is not a JWKS")
    keys = tuple(key for entry in entries[:_MOST_KEYS] for key in _of_entry(entry, settings))
    if not keys:
        raise ValueError(f"none of its {len(entries)} keys can be used with {', '.join(settings.jwt_algorithms)}")
    return keys


def _of_entry(entry: Any, settings: RelaySettings) -> Iterator[Key]:
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP") or "d" in entry:
        return  # symmetric, unknown, or a private key that should never have been published
    operations, kid = entry.get("key_ops"), entry.get("kid")
    if entry.get("use", "sig") != "sig" or "verify" not in (operations if isinstance(operations, list) else ["verify"]):
        return
    pinned = [a for a in settings.jwt_algorithms if a not in HMAC and entry.get("alg", a) == a]
    for algorithm in pinned:
        try:
            public = jwt.PyJWK(entry, algorithm).key
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            continue
        yield from usable([algorithm], public, settings, kid if isinstance(kid, str) else None)


def candidates(keys: Iterable[Key], algorithm: str, kid: str | None, now: float) -> list[Key]:
    """The keys that may have signed a token with this header (RFC 7515 §4.1.4).

    A ``kid`` missing on either side matches any.
    """
    return [
        key
        for key in keys
        if key.algorithm == algorithm and now < key.until and (kid is None or key.kid is None or key.kid == kid)
    ]
