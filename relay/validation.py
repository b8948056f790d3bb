"""What a configuration field may hold: one rule for the admin, for `import_config` and for rows that are loaded.

Each function takes a value as an operator wrote it and returns its normal form (blanks trimmed, lists without
repeats, origins in lowercase). It raises Django's `ValidationError` with one plain sentence that names the value and
the fix. Values are judged by the parsers that requests use: `Url`, `Rate`, `compile_path`, `normalise_origin`.
Empty values never get here: whether one is allowed is up to the field.
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
"""Seconds; a longer limit is taken for a typing error."""

LARGEST_COUNT = 2**31 - 1
"""The largest integer that every supported database can store."""

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
    """One value per line, blanks trimmed, empty lines left out."""
    return tuple(filter(None, map(str.strip, text.splitlines())))


def items(text: str) -> tuple[str, ...]:
    """Comma-separated values, blanks trimmed, empty ones left out."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def one_line(text: str) -> str:
    """Text that fits in a header or a log line: no control character, no line break (RFC 9110 §5.5)."""
    text = text.strip()
    if found := _UNPRINTABLE.search(text):
        _refuse(f"{found[0]!r} is a control character or a line break; remove it")
    return text


def name(text: str) -> str:
    """A backend's name: it appears in log lines, metrics and `/health`."""
    text = one_line(text)
    if not _NAME.fullmatch(text):
        _refuse(f"{text!r} is not a valid name; use only letters, digits, - and _")
    return text


def url(text: str) -> str:
    """``scheme://host[:port][/prefix]``; see `Url.parse`."""
    text = one_line(text)
    try:
        parsed = Url.parse(text)
    except ValueError as exc:
        raise ValidationError(str(exc)) from exc
    if ":" in parsed.host and not _is_ipv6(parsed.host):
        _refuse(f"{text!r}: {parsed.host!r} is not a valid IPv6 address")
    if ":" not in parsed.host and not _HOST.fullmatch(parsed.host):
        _refuse(f"{text!r}: {parsed.host!r} is not a valid host name")
    if "//" in parsed.prefix:
        _refuse(f"{text!r} has an empty segment in its path prefix; write single slashes")
    return text


def _is_ipv6(host: str) -> bool:
    """Zone ids are not accepted: they mean nothing outside one machine, nor in a ``Host`` field (RFC 6874 §4)."""
    try:
        return IPv6Address(host).scope_id is None
    except ValueError:
        return False


def urls(text: str) -> str:
    """One url per line, without repeats, at least one."""
    found = [url(line) for line in lines(text)]
    if not found:
        _refuse("a backend needs at least one url, e.g. http://127.0.0.1:9000")
    for again in (u for i, u in enumerate(found) if u in found[:i]):
        _refuse(f"{again!r} is listed twice; keep one")
    return "\n".join(found)


def route_path(text: str) -> str:
    """What a route matches, in Django's path syntax; it is compared with a request's decoded path."""
    text = one_line(text)
    if not text.startswith("/"):
        _refuse(f"{text!r} must begin with a slash: '/{text}'")
    if found := re.search(r"[?#]", text):
        _refuse(f"{text!r} contains {found[0]!r}; a route matches the path only: remove the query or fragment")
    if found := _ESCAPE.search(text):
        _refuse(f"{text!r} contains {found[0]!r}; paths are compared decoded: write the character itself")
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
    """What the backend sees in place of the matched part; it is sent exactly as written."""
    text = one_line(text)
    if not text.startswith("/"):
        _refuse(f"{text!r} must begin with a slash: '/{text}'")
    if re.search(r"[?#<>]", text):
        _refuse(f"{text!r}: only a literal path is possible, without <…>, query or fragment")
    if "//" in text:
        _refuse(f"{text!r} has an empty segment; write single slashes")
    return _on_the_wire(text)


def health_path(text: str) -> str:
    """A path, optionally with a query, below the path prefix of the backend's url."""
    text = one_line(text)
    if not text.startswith("/"):
        _refuse(f"{text!r} must begin with a slash: '/{text}'")
    if "#" in text:
        _refuse(f"{text!r} has a fragment; remove the # and what follows")
    return _on_the_wire(text)


def _on_the_wire(text: str) -> str:
    if not _VISIBLE_ASCII.fullmatch(text):
        _refuse(f"{text!r} can't be sent as it is; percent-encode what is not visible ASCII")
    _safe_path(text.partition("?")[0])
    return text


def _safe_path(text: str) -> None:
    """An operator's path follows the rule for a request's: it must not be open to two readings."""
    if wrong := paths.check(text.encode()):
        _refuse(f"{text!r} has {wrong}; write the path that you mean")


def methods(text: str) -> str:
    """Methods in uppercase, sorted, without repeats: the normal form is part of a route's key."""
    found = {item.upper() for item in items(text)}
    for method in sorted(found):
        if not _TOKEN.fullmatch(method):
            _refuse(f"{method!r} is not a method; write for example GET, POST")
        if method in ("TRACE", "CONNECT"):
            _refuse(f"{method} is never relayed; remove it")
        if not is_parsed(method):
            _refuse(f"{method} is a method that the server does not know; remove it")
    return ",".join(sorted(found))


def is_parsed(method: str) -> bool:
    """Whether llhttp knows the method; any other gets a 400, whatever the routes say."""
    if not _TOKEN.fullmatch(method):
        return False
    try:
        HttpRequestParser(object()).feed_data(f"{method} / HTTP/1.1\r\n".encode())
    except HttpParserError:
        return False
    return True


def roles(text: str) -> str:
    """Roles as tokens name them, without repeats."""
    return ",".join(dict.fromkeys(items(one_line(text))))


def origin(text: str) -> str:
    """An allowed origin (RFC 6454 §6.2): ``scheme://host[:port]``, ``scheme://*.host`` or ``*`` for any."""
    text = one_line(text)
    if text == ANY_ORIGIN:
        return text
    return _origin(text, wildcard="*." if "://*." in text else "")


def _origin(text: str, wildcard: str = "") -> str:
    """The origin as browsers send it: lowercase, without the default port; `wildcard` stays in front of the host."""
    if re.search(r"[,;]|\s\S*://", text):
        _refuse("this is more than one origin; enter them one at a time")
    if text.lower() == "null":
        _refuse("'null' is what a sandboxed page of any site sends; it can't be allowed")
    scheme, separator, rest = text.partition("://")
    if not separator:
        _refuse(f"{text!r} has no scheme; write for example 'https://{text}'")
    if scheme.lower() in ("ws", "wss"):
        _refuse(f"{text!r}: browsers send the page's own scheme; write 'http{scheme[2:]}://{rest}'")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if "@" in authority:
        _refuse(f"'{scheme}://…@{authority.rpartition('@')[2]}' contains a user or password; remove it")
    if authority != rest:
        _refuse(f"{text!r} is more than an origin; write '{scheme}://{authority}'")
    host_and_port = authority.removeprefix(wildcard)
    if "*" in host_and_port:
        _refuse(f"{text!r}: a * can only come first, as in 'https://*.example.com'; '*' alone is any origin")
    normal = normalise_origin(f"{scheme}://{host_and_port}")
    if normal is None:
        _refuse(f"{text!r} is not a valid origin; write for example 'https://app.example.com'")
    scheme, _, host_and_port = normal.partition("://")
    host, port = _split(host_and_port)
    if not (host.startswith("[") or _HOST.fullmatch(host)):
        _refuse(f"{text!r}: {host!r} is not a valid host name")
    if port is not None and not 0 < port < 65536:
        _refuse(f"{text!r}: the port must be between 1 and 65535")
    return f"{scheme}://{wildcard}{host_and_port}"


def _split(authority: str) -> tuple[str, int | None]:
    """Host (IPv6 stays in brackets) and port."""
    host, colon, port = authority.rpartition(":")
    return (host, int(port)) if colon and not port.endswith("]") else (authority, None)


def websocket_origin(text: str) -> str:
    """What a backend sees as ``Origin``: ``omit``, ``forward``, or a fixed origin."""
    text = one_line(text)
    if text.lower() in ("omit", "forward"):
        return text.lower()
    if "://" not in text:
        _refuse(f"{text!r}: write omit, forward or an origin like 'https://app.example.com'")
    return _origin(text)


def rate(text: str) -> str:
    """A rate that `Rate.parse` accepts, without blanks."""
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
    """A number of things; 0 means no limit."""
    if number > LARGEST_COUNT:
        _refuse(f"{number} is more than {LARGEST_COUNT}; use 0 for no limit")
    return size(number)


def seconds(number: float) -> float:
    """A time limit; 0 means none."""
    if not math.isfinite(number) or number < 0:
        _refuse(f"{number:g} is not a time; write seconds, or 0 for no limit")
    if number > YEAR:
        _refuse(f"{number:g} s is more than a year; use 0 for no limit")
    return number


def some_seconds(number: float) -> float:
    """A time limit that can't be 0: without one, a dead backend would keep clients waiting for minutes."""
    if number == 0:
        _refuse("0 would fail every connection; use for example 5")
    return seconds(number)


def revoked_id(text: str) -> str:
    """A jti or a user's id. A refused value may be a token, so the message does not repeat it."""
    text = one_line(text)
    if _TOKEN_LIKE.fullmatch(text):
        _refuse("this is a token, which is never stored as such; choose the kind token")
    return text


def fingerprint(text: str) -> str:
    """A token's fingerprint (`relay.identity.model`). A refused value may be a token, so it is not repeated."""
    text = text.strip().lower()
    if not _FINGERPRINT.fullmatch(text):
        _refuse("this is neither a token nor the fingerprint of one (64 hex digits)")
    return text
