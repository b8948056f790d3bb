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
# Every pattern takes time in proportion to the text: a stranger decides what it holds.
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_JWT = re.compile(r"ey[AIJ]")
_BEARER = re.compile(r"(bearer(?:\.|\s+|%20|\+))[^\s\"',;&\\]+", re.IGNORECASE)
_CREDENTIALS = re.compile(r"((?:cookie|authorization)(?:\s*[:=]\s*|['\"]\s*[:,]\s*)b?['\"]?)[^'\"\r\n]+", re.IGNORECASE)
_HINTS = ("=", "'", "\\", "bearer", "cookie", "authorization")
_JWT_HINTS = ("eyj", "eyi", "eya")
"""Without any of them in lowercase JSON, no pattern of ours matches; ordinary lines have none."""


class Masker:
    """Replaces whatever looks like a secret by ``***``.

    Args:
        names: Further names of secrets: the configured cookie and query parameter.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        own = "|".join(re.escape(name) for name in names if name)
        secret = "|".join(SECRET_NAMES) + (rf"|(?<![\w-])(?:{own})" if own else "")
        self._named = re.compile(rf"((?:{secret})(?:=|['\"]\s*[:,=]\s*b?['\"]))[^&;\s\"'<>\\]+", re.IGNORECASE)

    def text(self, text: str) -> str:
        """The text without its secrets; each pattern is tried only where its mark is in the text."""
        lower = text.lower()
        if "ey" in lower:
            text = _WORD.sub(_without_jwt, text)
        if "cookie" in lower or "authorization" in lower:
            text = _CREDENTIALS.sub(rf"\1{MASK}", text)
        if "bearer" in lower:
            text = _BEARER.sub(rf"\1{MASK}", text)
        if "=" in lower or "'" in lower or '"' in lower:
            text = self._named.sub(rf"\1{MASK}", text)
        return text


def _without_jwt(word: re.Match[str]) -> str:
    begins = _JWT.search(word[0])
    if begins is None or "." not in word[0][begins.end() :]:
        return word[0]
    return word[0][: begins.start()] + MASK


def suspects(line: str) -> bool:
    """Whether a line of JSON could hold a secret: a quick look, so that an ordinary line costs next to nothing."""
    lower = line.lower()
    for hint in _HINTS:
        if hint in lower:
            return True
    return "ey" in lower and any(hint in lower for hint in _JWT_HINTS)
