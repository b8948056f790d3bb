"""The last line of defence against a secret in the log. Pure.

Nothing of ours puts a token, a ticket or a cookie value into a record; what libraries write about a request
(at DEBUG, in a ``repr``, in the text of an exception) can't be known beforehand. So every text is searched for
what secrets look like before it becomes a line:

- a JWT anywhere: base64url parts with dots, the first beginning as ``{"`` does in base64url (RFC 7519 §3.1);
- what follows ``Bearer`` or ``bearer.`` (RFC 6750 §2.1, and our subprotocol entry);
- the value of a parameter, cookie or key by a secret's name: ``token=…``, ``"ticket": "…"``, ``('token', '…')``;
- what follows the name of a field that holds credentials: ``Cookie:``, ``Set-Cookie:``, ``Authorization:``.

It rather takes a harmless word too many than leaves a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"

SECRET_NAMES = ("token", "ticket", "previous", "secret", "password", "sessionid", "csrftoken")
"""Names of parameters, cookies and keys whose value is a secret, also as the end of a name: ``auth_token``."""

# No word boundaries: in the repr of bytes, the "n" of a line end stands before a field's name.
_JWT = re.compile(r"ey[A-Z][A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.?[A-Za-z0-9_-]*")
_BEARER = re.compile(r"(bearer(?:\.|\s+|%20|\+))[^\s\"',;&\\]+", re.IGNORECASE)
_CREDENTIALS = re.compile(r"((?:cookie|authorization)(?:\s*[:=]\s*|['\"]\s*[:,]\s*)b?['\"]?)[^'\"\r\n]+", re.IGNORECASE)
_HINTS = ("=", "'", '\\"', "eyj", "eyi", "eya", "bearer", "cookie", "authorization")
"""Without any of them in lowercase JSON, no pattern of ours matches; ordinary lines have none."""


class Masker:
    """Replaces whatever looks like a secret by ``***``.

    Args:
        names: Further names of secrets: the configured cookie and query parameter.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        secret = "|".join(sorted(re.escape(name) for name in {*SECRET_NAMES, *names} if name))
        self._named = re.compile(rf"((?:{secret})(?:=|['\"]\s*[:,=]\s*b?['\"]))[^&;\s\"'<>\\]+", re.IGNORECASE)

    def text(self, text: str) -> str:
        """The text without its secrets."""
        text = _JWT.sub(MASK, text)
        text = _CREDENTIALS.sub(rf"\1{MASK}", text)
        text = _BEARER.sub(rf"\1{MASK}", text)
        return self._named.sub(rf"\1{MASK}", text)


def suspects(line: str) -> bool:
    """Whether a line of JSON could hold a secret: a quick look, so that an ordinary line costs next to nothing."""
    lower = line.lower()
    for hint in _HINTS:  # noqa: SIM110  (any() takes twice the time, and this is done for every line)
        if hint in lower:
            return True
    return False
