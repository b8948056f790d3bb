"""What a field of the configuration may hold: one rule for the admin, for `import_config` and for what is loaded.

Each function takes a value as an operator wrote it and gives back its normal form (blanks trimmed, lists without
repeats, origins in lowercase). It raises Django's `ValidationError` with one plain sentence that names the value and
the mend. What is parsed on the way of a request is judged by the same parser here: `Url`, `Rate`, `compile_path`,
`normalise_origin`. An empty value never comes here: whether one is allowed is the field's own matter.
"""

from __future__ import annotations

import math
import re
from ipaddress import IPv6Address
from typing import NoReturn

from django.core.exceptions import ValidationError
from httptools import HttpParserError, HttpRequestParser

from relay.routing import paths
from relay.routing.pattern import compile_path
from relay.routing.snapshot import Rate, Url, normalise_origin

YEAR = 365 * 86400.0
"""Seconds; a longer limit is a slip of the pen."""

LARGEST_COUNT = 2**31 - 1
"""What every database can hold in an integer."""

ANY_ORIGIN = "*"

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_VISIBLE_ASCII = re.compile(r"[!-~]+")
_TOKEN = re.compile(r"[A-Z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 §5.6.2, after upper()
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_PLACEHOLDER = re.compile(r"<[^<>]*>")
_TOKEN_LIKE = re.compile(r"eyJ[\w-]*\.[\w-]*\.[\w-]*")  # a JWS begins with {" (RFC 7515 §3.1)
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def _refuse(sentence: str) -> NoReturn:
    raise ValidationError(sentence)


def lines(text: str) -> tuple[str, ...]:
    """One value a line, blanks trimmed, empty lines left out."""
    return tuple(filter(None, map(str.strip, text.splitlines())))


def items(text: str) -> tuple[str, ...]:
    """Comma-separated values, blanks trimmed, empty ones left out."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def one_line(text: str) -> str:
    """Text that can stand in a header or a log line: no control character, no line end (RFC 9110 §5.5)."""
    text = text.strip()
    if found := _UNPRINTABLE.search(text):
        _refuse(f"{found[0]!r} is a control character or a line end; take it out")
    return text


def name(text: str) -> str:
    """A backend's name: it stands in log lines, metrics and `/health`."""
    text = one_line(text)
    if not _NAME.fullmatch(text):
        _refuse(f"{text!r} is no name: use letters, digits, - and _ only")
    return text


def url(text: str) -> str:
    """``scheme://host[:port][/prefix]``; see `Url.parse`."""
    text = one_line(text)
    try:
        parsed = Url.parse(text)
    except ValueError as exc:
        raise ValidationError(str(exc)) from exc
    if ":" in parsed.host and not _is_ipv6(parsed.host):
        _refuse(f"{text!r}: {parsed.host!r} is no IPv6 address")
    if ":" not in parsed.host and not _HOST.fullmatch(parsed.host):
        _refuse(f"{text!r}: {parsed.host!r} is no host name")
    if "//" in parsed.prefix:
        _refuse(f"{text!r} has an empty segment in its path prefix; write single slashes")
    return text


def _is_ipv6(host: str) -> bool:
    """Zone ids don't count: they mean something on one machine only, and not in a ``Host`` field (RFC 6874 §4)."""
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


def urls(text: str) -> str:
    """One url a line, each once, at least one."""
    found = [url(line) for line in lines(text)]
    if not found:
        _refuse("a backend needs at least one url, e.g. http://127.0.0.1:9000")
    for again in (u for i, u in enumerate(found) if u in found[:i]):
        _refuse(f"{again!r} is there twice; leave one")
    return "\n".join(found)


def route_path(text: str) -> str:
    """What a route matches, in Django's path syntax; compared with the decoded path of a request."""
    text = one_line(text)
    if not text.startswith("/"):
        _refuse(f"{text!r} must begin with a slash: '/{text}'")
    if found := re.search(r"[?#]", text):
        _refuse(f"{text!r} holds a {found[0]!r}; a route sees the path only: leave out the query and fragment")
    if found := _ESCAPE.search(text):
        _refuse(f"{text!r} holds {found[0]!r}; paths are compared decoded: write the character itself")
    if "//" in text:
        _refuse(f"{text!r} has an empty segment; write single slashes")
    _safe_path(text)
    if re.search(r"[<>{}]", _PLACEHOLDER.sub("", text)):
        _refuse(f"{text!r}: a placeholder is written <id>, or <int:id> for digits")
    if text.endswith("/*"):
        _refuse(f"{text!r}: a slash at the end makes a prefix; write '{text[:-1]}'")
    try:
        compile_path(text)
    except ValueError as exc:
        raise ValidationError(str(exc)) from exc
    return text


def upstream_path(text: str) -> str:
    """What the backend sees in place of the matched part; it goes on the wire as it is written."""
    text = one_line(text)
    if not text.startswith("/"):
        _refuse(f"{text!r} must begin with a slash: '/{text}'")
    if re.search(r"[?#<>]", text):
        _refuse(f"{text!r}: only a literal path is possible, without <…>, query or fragment")
    if "//" in text:
        _refuse(f"{text!r} has an empty segment; write single slashes")
    return _on_the_wire(text)


def health_path(text: str) -> str:
    """A path, with a query if need be, below the prefix of the backend's url."""
    text = one_line(text)
    if not text.startswith("/"):
        _refuse(f"{text!r} must begin with a slash: '/{text}'")
    if "#" in text:
        _refuse(f"{text!r} has a fragment; leave out everything from the #")
    return _on_the_wire(text)


def _on_the_wire(text: str) -> str:
    if not _VISIBLE_ASCII.fullmatch(text):
        _refuse(f"{text!r} can't be sent as it is; percent-encode what is not visible ASCII")
    _safe_path(text.partition("?")[0])
    return text


def _safe_path(text: str) -> None:
    """The rule for a request's path holds for the operator's too: it must not be readable in two ways."""
    if wrong := paths.check(text.encode()):
        _refuse(f"{text!r} has {wrong}; write the path that is meant")


def methods(text: str) -> str:
    """Methods in uppercase, each once, sorted: the normal form is part of a route's key."""
    found = {item.upper() for item in items(text)}
    for method in sorted(found):
        if not _TOKEN.fullmatch(method):
            _refuse(f"{method!r} is no method; write for example GET, POST")
        if method in ("TRACE", "CONNECT"):
            _refuse(f"{method} is never relayed; leave it out")
        if not is_parsed(method):
            _refuse(f"{method} is a method that the server does not know; leave it out")
    return ",".join(sorted(found))


def is_parsed(method: str) -> bool:
    """Whether llhttp knows it: what it doesn't is answered 400, whatever the routes say."""
    if not _TOKEN.fullmatch(method):
        return False
    try:
        HttpRequestParser(object()).feed_data(f"{method} / HTTP/1.1\r\n".encode())
    except HttpParserError:
        return False
    return True


def roles(text: str) -> str:
    """Roles as tokens name them, each once."""
    return ",".join(dict.fromkeys(items(one_line(text))))


def origin(text: str) -> str:
    """An allowed origin (RFC 6454 §6.2): ``scheme://host[:port]``, ``scheme://*.host`` or ``*`` for any."""
    text = one_line(text)
    if text == ANY_ORIGIN:
        return text
    return _origin(text, wildcard="*." if "://*." in text else "")


def _origin(text: str, wildcard: str = "") -> str:
    """As a browser sends it: lowercase, without the scheme's default port; `wildcard` stays in front of the host."""
    if re.search(r"[,;]|\s\S*://", text):
        _refuse("this is more than one origin; write each one by itself")
    if text.lower() == "null":
        _refuse("'null' is what sandboxed pages of any site send; it can't be allowed")
    scheme, separator, rest = text.partition("://")
    if not separator:
        _refuse(f"{text!r} has no scheme; write for example 'https://{text}'")
    if scheme.lower() in ("ws", "wss"):
        _refuse(f"{text!r}: browsers send the page's own scheme; write 'http{scheme[2:]}://{rest}'")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in authority:
        _refuse(f"'{scheme}://…@{authority.rpartition('@')[2]}' holds a user or password; leave it out")
    if authority != rest:
        _refuse(f"{text!r} is more than an origin; write '{scheme}://{authority}'")
    host_and_port = authority.removeprefix(wildcard)
    if "*" in host_and_port:
        _refuse(f"{text!r}: a * stands in front only, as in 'https://*.example.com'; '*' alone is any origin")
    normal = normalise_origin(f"{scheme}://{host_and_port}")
    if normal is None:
        _refuse(f"{text!r} is no origin; write for example 'https://app.example.com'")
    scheme, _, host_and_port = normal.partition("://")
    host, port = _split(host_and_port)
    if not (host.startswith("[") or _HOST.fullmatch(host)):
        _refuse(f"{text!r}: {host!r} is no host name")
    if port is not None and not 0 < port < 65536:
        _refuse(f"{text!r}: a port is between 1 and 65535")
    return f"{scheme}://{wildcard}{host_and_port}"


def _split(authority: str) -> tuple[str, int | None]:
    """Host, IPv6 in brackets, and port."""
    host, colon, port = authority.rpartition(":")
    return (host, int(port)) if colon and not port.endswith("]") else (authority, None)


def websocket_origin(text: str) -> str:
    """What a backend sees as ``Origin``: ``omit``, ``forward``, or always the same one."""
    text = one_line(text)
    if text.lower() in ("omit", "forward"):
        return text.lower()
    if "://" not in text:
        _refuse(f"{text!r}: write omit, forward or an origin like 'https://app.example.com'")
    return _origin(text)


def rate(text: str) -> str:
    """A rate as `Rate.parse` reads it, without blanks."""
    text = re.sub(r"\s", "", text)
    try:
        Rate.parse(text)
    except ValueError as exc:
        raise ValidationError(str(exc)) from exc
    return text


def size(number: int) -> int:
    """Bytes; 0 means no limit."""
    if number < 0:
        _refuse(f"{number} is below 0; use 0 for no limit")
    return number


def count(number: int) -> int:
    """How many; 0 means no limit."""
    if number > LARGEST_COUNT:
        _refuse(f"{number} is more than {LARGEST_COUNT}; use 0 for no limit")
    return size(number)


def seconds(number: float) -> float:
    """A time; 0 means none."""
    if not math.isfinite(number) or number < 0:
        _refuse(f"{number:g} is no time; use 0 for none, or seconds")
    if number > YEAR:
        _refuse(f"{number:g} s is more than a year; use 0 for no limit")
    return number


def some_seconds(number: float) -> float:
    """A time that can't be none: without it a dead backend would hold its clients for minutes."""
    if number == 0:
        _refuse("0 would fail every connection; use for example 5")
    return seconds(number)


def revoked_id(text: str) -> str:
    """A jti or a user's id. What is refused may be a token, so it is not repeated."""
    text = one_line(text)
    if _TOKEN_LIKE.fullmatch(text):
        _refuse("this is a token, and it is not kept as itself; choose the kind token")
    return text


def fingerprint(text: str) -> str:
    """A token's fingerprint (`relay.identity.model`). What is refused may be a token, so it is not repeated."""
    text = text.strip().lower()
    if not _FINGERPRINT.fullmatch(text):
        _refuse("this is no token, and no fingerprint of one (64 hex digits)")
    return text
