"""The last line of defence against secrets in the log. Pure.

Our own code never logs a token, a ticket or a cookie value, but what libraries log about a request (at DEBUG, in a
``repr``, in an exception's text) can't be predicted. So every text is searched for anything that looks like a secret
before it becomes a line:

- a JWT anywhere: base64url parts with dots, the first beginning as ``{"`` does in base64url (RFC 7519 §3.1);
- whatever follows ``Bearer`` or ``bearer.`` (RFC 6750 §2.1, and our subprotocol entry);
- the value of a parameter, cookie or key with a secret's name: ``token=…``, ``"ticket": "…"``, ``('token', '…')``;
- whatever follows the name of a field with credentials: ``Cookie:``, ``Set-Cookie:``, ``Authorization:``.

When in doubt, it masks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "***"

SECRET_NAMES = ("token", "ticket", "previous", "secret", "password", "sessionid", "csrftoken")
"""Names, or endings of names (``auth_token``), of parameters, cookies and keys whose value is a secret."""

# No word boundaries: in the repr of bytes, the "n" of a "\n" comes right before a field's name.
# Every pattern takes time proportional to the text, whose content a stranger decides.
_WORD = re.compile(r"[A-Za-z0-9_.-]+")
_JWT = re.compile(r"ey[AIJ]")
_BEARER = re.compile(r"(bearer(?:\.|\s+|%20|\+))[^\s\"',;&\\]+", re.IGNORECASE)
_CREDENTIALS = re.compile(r"((?:cookie|authorization)(?:\s*[:=]\s*|['\"]\s*[:,]\s*)b?['\"]?)[^'\"\r\n]+", re.IGNORECASE)


class Masker:
    """Replaces whatever looks like a secret with ``***``.

    Args:
        names: More names of secrets: the configured cookie and query parameter.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        own = "|".join(re.escape(name) for name in names if name)
        secret = "|".join(SECRET_NAMES) + (rf"|(?<![\w-])(?:{own})" if own else "")
        self._named = re.compile(rf"((?:{secret})(?:=|['\"]\s*[:,=]\s*b?['\"]))[^&;\s\"'<>\\]+", re.IGNORECASE)

    def text(self, text: str) -> str:
        """The text without its secrets; each pattern is tried only if the text contains its hint."""
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
    """Whether a line of JSON could contain a secret: if not, no pattern matches it.

    Every line is checked, and ordinary ones must cost almost nothing: what is quick to find comes first.
    """
    if "=" in line or "'" in line or "\\" in line or _JWT.search(line):
        return True
    lower = line.lower()
    return "cookie" in lower or "bearer" in lower or "authorization" in lower
