"""Make sure that the path we judge is the path that the backend reads. Pure.

A backend may decode twice, merge slashes, resolve dot segments, drop ``;parameters`` or take the path for a whole URL;
each of these can turn an allowed path into another one. `check` refuses what has no legitimate use; `readings` gives
the milder variants, which are harmless unless they match another route.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, unquote_to_bytes

PLACEHOLDER = re.compile(r"<(?:(?P<converter>[^>:]+):)?(?P<name>[^>]+)>")
"""A placeholder in a route's path, in Django's syntax."""

LONGEST = 8192
"""Bytes of a path that needs several readings; nginx, by default, accepts no longer path at all."""

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_OVERLONG = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]|\xf8[\x80-\x87]|\xfc[\x80-\x83]")
_VARIED_RAW = re.compile(rb"//|[;%]")
_VARIED = re.compile(r"//|[;%?#]")
_DOT_SEGMENT = re.compile(rb"/\.\.?(?![^/;?#])")
_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile(r"/{2,}")
_AUTHORITY = re.compile(r"\A//+[^/]*")
_TAIL = re.compile(r"[?#].*", re.DOTALL)


def shape(path: str) -> str:
    """A route's path without the names of its placeholders: two routes of one shape match the same paths."""
    return PLACEHOLDER.sub(lambda found: f"<{found[1] or 'str'}>", path)


def decode(raw: bytes) -> str:
    """The path that routes are matched against: percent-decoded once, as UTF-8.

    Bytes that are not UTF-8 stay distinct (surrogates), so two different raw paths never become the same.
    """
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape")


def check(raw: bytes) -> str | None:
    """What is wrong with a raw path (without query), or None.

    Refused: control characters, backslashes, encoded slashes and dot segments (``..;x`` too), each also doubly encoded,
    overlong UTF-8 (RFC 3629 §3: ``%c0%ae`` is not a dot), a fragment, a path that does not begin with a slash, and one
    whose readings would take long to compute.
    """
    if not raw.startswith(b"/"):
        return "the path does not begin with a slash"
    if b"#" in raw:
        return "a fragment"
    if len(raw) > LONGEST and _VARIED_RAW.search(raw):
        return f"more than {LONGEST} bytes with escapes, parameters or empty segments"
    slashes = raw.count(b"/")
    if wrong := _wrong(raw, slashes):
        return wrong
    # The usual case: nothing to decode.
    if b"%" not in raw:
        return None
    once = unquote_to_bytes(raw)
    if wrong := _wrong(once, slashes):
        return wrong
    wrong = _wrong(unquote_to_bytes(once), slashes) if b"%" in once else None
    return wrong and f"doubly encoded: {wrong}"


def _wrong(form: bytes, slashes: int) -> str | None:
    if _CONTROL.search(form):
        return "a control character"
    if b"\\" in form:
        return "a backslash"
    if form.count(b"/") != slashes:
        return "an encoded slash"
    if _DOT_SEGMENT.search(form):
        return "a dot segment"
    if not form.isascii() and _OVERLONG.search(form):
        return "overlong UTF-8"
    return None


def readings(path: str) -> Iterable[str]:
    """The other paths that a lenient backend may read a decoded path as, after `check`; at most 31.

    The backend may take a leading ``//name`` for a host (as a URL parser does), decode once more, end the path at an
    encoded ``?`` or ``#``, drop ``;parameters`` and merge slashes: any combination, in this order.
    """
    if not _VARIED.search(path):
        return ()
    found = {path}
    for step in (_without_authority, _decoded, _without_tail, _without_parameters, _merged):
        found |= {step(reading) for reading in found}
    return found - {path}


def _without_authority(path: str) -> str:
    return _AUTHORITY.sub("", path, count=1) or "/"


def _decoded(path: str) -> str:
    return unquote(path, errors="surrogateescape")


def _without_tail(path: str) -> str:
    return _TAIL.sub("", path, count=1)


def _without_parameters(path: str) -> str:
    return _PARAMETERS.sub("", path)


def _merged(path: str) -> str:
    return _SLASHES.sub("/", path)


def after_segments(raw: bytes, slashes: int) -> bytes:
    """What follows the given number of slashes in a raw path; `check` made sure that no slash hides in an escape."""
    return b"/".join(raw.split(b"/")[slashes:])
