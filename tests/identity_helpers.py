"""Tokens, keys and settings for tests of who gets in."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from relay.identity.model import Identity
from relay.settings import RelaySettings

SECRET = "a secret of sixty-four bytes, long enough for each of the hashes!"
OTHER_SECRET = "another secret of sixty-four bytes, and not the one that counts!!"
HOUR = 3600


def relay_settings(**changes: Any) -> RelaySettings:
    """Settings with `SECRET`, or with what is given instead."""
    if not {"jwt_secret", "jwt_public_key", "jwt_jwks_url"} & changes.keys():
        changes["jwt_secret"] = SECRET
    return RelaySettings(**changes)


class FromNow(float):
    """A time of a claim, as seconds from the moment when the token is made: tables are written long before they run."""


def claims(**changes: Any) -> dict[str, Any]:
    """What a token of the seed says, good for an hour; a claim that is given as ``...`` is left out."""
    now = int(time.time())
    changes = {name: now + value if isinstance(value, FromNow) else value for name, value in changes.items()}
    facts = {"user_id": 1, "email": "a@example.com", "role": "user", "exp": now + HOUR, "iat": now - 1} | changes
    return {name: value for name, value in facts.items() if value is not ...}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    """A signed token with `claims`."""
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def part(value: Any) -> str:
    """One part of a token: base64url of JSON, or of bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def handmade(header: Any, payload: Any, secret: str = SECRET) -> str:
    """A token with any header and payload, well signed by HS256."""
    signed = f"{part(header)}.{part(payload)}"
    return f"{signed}.{part(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def identity(**changes: Any) -> Identity:
    """An identity as the seed's token gives it."""
    facts: dict[str, Any] = {
        "user_id": "1",
        "email": "a@example.com",
        "role": "user",
        "roles": ("user",),
        "expires_at": time.time() + HOUR,
        "issued_at": time.time() - 1,
        "jti": "",
        "fingerprint": "f" * 64,
    }
    return Identity(**facts | changes)


@cache
def private_key(kind: str, name: str = "") -> Any:
    """A private key; the same one for the same kind (``RSA``, a curve, ``Ed25519``) and name."""
    match kind:
        case "RSA":
            return rsa.generate_private_key(65537, 2048)
        case "RSA-1024":
            return rsa.generate_private_key(65537, 1024)
        case "Ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return ec.generate_private_key(
                {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}[kind]()
            )


def public_pem(private: Any) -> str:
    """Its public key in PEM."""
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(private: Any, algorithm: str, **fields: Any) -> dict[str, Any]:
    """Its public key as an entry of a JWKS."""
    return get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True) | fields
