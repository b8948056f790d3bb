"""Where tokens travel: ``Authorization``, the cookie, the query parameter, the subprotocol list. Pure.

Every copy counts, and each is read as a backend would read it (unquoted, percent-decoded): a token that the gateway
overlooks would reach a backend unjudged. The code that removes tokens from a request uses the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import unquote_to_bytes

from relay.identity.model import TokenPlace
from relay.typing import Scope

Found = tuple[TokenPlace, str]
"""A token as it was sent, and where."""

TICKET = b"ticket"
"""The query parameter of a handshake that carries a ticket."""

_SUBPROTOCOL = b"bearer."
_COOKIES = SimpleCookie()  # only to decode quoted values; it stores nothing


@dataclass(frozen=True, slots=True)
class Places:
    """The places, with their configured names; an empty name turns a place off."""

    cookie: str = "auth_token"
    query_param: str = "token"
    _cookie: bytes = field(init=False, repr=False)
    _query_param: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_cookie", self.cookie.encode())
        object.__setattr__(self, "_query_param", self.query_param.encode())

    def find(self, scope: Scope) -> list[Found]:
        """Every token in a request or handshake, in order of precedence.

        Repeated fields, pairs, parameters and entries are all read; an empty value is not a token.
        """
        in_headers: list[Found] = []
        in_cookies: list[Found] = []
        in_subprotocols: list[Found] = []
        websocket = scope["type"] == "websocket"
        for name, value in scope["headers"]:
            if name == b"authorization":
                in_headers += [("header", token)] if (token := bearer(value)) else []
            elif name == b"cookie":
                if self._cookie and self._cookie in value:
                    in_cookies += [("cookie", token) for token in cookies(value, self._cookie) if token]
            elif websocket and name == b"sec-websocket-protocol":
                in_subprotocols += [("subprotocol", token) for token in subprotocol_tokens(value) if token]
        found = in_headers + in_cookies
        if query := scope["query_string"]:
            found += [("query", token) for token in parameters(query, self._query_param) if token]
        return found + in_subprotocols


def bearer(value: bytes) -> str | None:
    """The token in an ``Authorization`` value, possibly empty; None for schemes other than Bearer (RFC 6750 §2.1)."""
    scheme, *rest = value.split(None, 1)[:2] or [b""]
    if scheme.lower() != b"bearer":
        return None
    return rest[0].strip().decode("latin-1") if rest else ""


def cookies(value: bytes, name: bytes) -> Iterator[str]:
    """The values of all pairs with this name in a ``Cookie`` field (RFC 6265 §5.4)."""
    for pair in value.split(b";"):
        key, _, raw = pair.partition(b"=")
        if key.strip() == name:
            yield cookie_value(raw)


def cookie_value(raw: bytes) -> str:
    """A cookie's value without the quotes and escapes that Python, Go or Node backends remove (RFC 6265 §4.1.1)."""
    text = raw.strip().decode("latin-1")
    if text.startswith('"'):
        text = _COOKIES.value_decode(text)[0]
    return unquote_to_bytes(text).decode("latin-1") if "%" in text else text


def parameters(query: bytes, name: bytes) -> Iterator[str]:
    """The values of all parameters with this name, however it is encoded; none for an empty name."""
    if not name or (name not in query and b"%" not in query):
        return
    for pair in query.split(b"&"):
        key, _, raw = pair.partition(b"=")
        if form_decoded(key) == name:
            yield form_decoded(raw).decode("latin-1")


def form_decoded(text: bytes) -> bytes:
    """A name or value of a query as backends read it: ``+`` is a space (WHATWG URL §5.1)."""
    return unquote_to_bytes(text.replace(b"+", b" "))


def subprotocol_tokens(value: bytes) -> Iterator[str]:
    """The tokens in ``bearer.<token>`` entries, the prefix in upper or lower case: none may reach a backend."""
    for entry in value.split(b","):
        entry = entry.strip()
        if entry[: len(_SUBPROTOCOL)].lower() == _SUBPROTOCOL:
            yield entry[len(_SUBPROTOCOL) :].decode("latin-1")
