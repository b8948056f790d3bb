"""The signature algorithms that tokens may use, and the keys that fit them (RFC 7518 §3.1). Pure."""

from __future__ import annotations

from typing import Any

from jwt.algorithms import get_default_algorithms
from jwt.exceptions import PyJWTError

HMAC = ("HS256", "HS384", "HS512")
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

SHORTEST_SECRET = 32
"""Bytes: a key must be no shorter than the hash of HS256 (RFC 7518 §3.2)."""

NOT_A_KEY = "not a key for this algorithm"

_KNOWN = get_default_algorithms()


def fault(algorithm: str, key: Any) -> str:
    """Why a key (PEM text or public key object) can't be used with an `ASYMMETRIC` algorithm; empty if it can."""
    try:
        return _KNOWN[algorithm].check_key_length(_KNOWN[algorithm].prepare_key(key)) or ""
    except (PyJWTError, ValueError, TypeError):
        return NOT_A_KEY
