"""Why a token does not count; ``code`` is the contract's, ``str()`` is for the log and never holds the token.

::

    TokenError
    ├── InvalidToken        invalid_token
    │   ├── WrongKey        not signed with the key that was tried
    │   └── UnknownKey      signed with a key that the JWKS, when last fetched, did not have
    └── ExpiredToken        expired_token   valid except for its exp
"""

from __future__ import annotations


class TokenError(Exception):
    """A token that does not count."""

    code = "invalid_token"


class InvalidToken(TokenError):
    """Malformed, badly signed, not for us, or with claims that no backend could trust."""


class WrongKey(InvalidToken):
    """The signature does not match this key; another key may match."""


class UnknownKey(InvalidToken):
    """No known key matches; the issuer may have a new one."""


class ExpiredToken(TokenError):
    """The signature is valid, but ``exp`` plus the leeway has passed."""

    code = "expired_token"
