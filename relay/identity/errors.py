"""Why a token does not count; ``code`` is the contract's, ``str()`` is for the log and never holds the token.

::

    TokenError
    ├── InvalidToken        invalid_token
    │   ├── WrongKey        signed with another key than the one that was tried
    │   └── UnknownKey      signed with a key that the JWKS, as it was last fetched, does not have
    └── ExpiredToken        expired_token   good in all but its exp
"""

from __future__ import annotations


class TokenError(Exception):
    """A token that does not count."""

    code = "invalid_token"


class InvalidToken(TokenError):
    """Malformed, badly signed, not for us, or with claims that no backend could trust."""


class WrongKey(InvalidToken):
    """The signature is not of this key; another one may fit."""


class UnknownKey(InvalidToken):
    """No key at hand fits; the issuer may have a new one."""


class ExpiredToken(TokenError):
    """The signature is good, and ``exp`` plus the leeway has passed."""

    code = "expired_token"
