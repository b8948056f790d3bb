"""The path that is judged must be the path that the backend reads. Pure.

A backend may decode twice, merge slashes, resolve dot segments or drop ``;parameters``; each of these can turn an
allowed path into another one. `check` refuses what can be read in two ways; `readings` gives the milder variants, which
are harmless unless they lead to another route.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_to_bytes

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_OVERLONG = re.compile(rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile(r"/{2,}")


def decode(raw: bytes) -> str:
    """The path that routes are matched against: percent-decoded once, as UTF-8.

    Bytes that are no UTF-8 stay distinct (surrogates), so that two different raw paths never become one.
    """
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape")


def check(raw: bytes) -> str | None:
    """Say what is wrong with a raw path (no query), or None.

    Refused: control characters, backslashes, encoded slashes and dot segments (``..;x`` too), each also doubly encoded,
    overlong UTF-8 (RFC 3629 §3: ``%c0%ae`` is no dot), and a fragment or a path that does not begin with a slash.
    """
    if not raw.startswith(b"/"):
        return "the path does not begin with a slash"
    # What nearly every request looks like can't be ambiguous; only the rest is worth a closer look.
    if b"%" not in raw and b"/." not in raw and raw.isascii() and b"\\" not in raw and b"#" not in raw:
        return "a control character" if _CONTROL.search(raw.decode()) else None
    if b"#" in raw:
        return "a fragment"
    once = unquote_to_bytes(raw)
    if _OVERLONG.search(once):
        return "overlong UTF-8"
    if once.count(b"/") != raw.count(b"/"):
        return "an encoded slash"
    text = once.decode("latin-1")
    for form, how in ((text, ""), (unquote(text, "latin-1"), "doubly encoded: ")):
        if _CONTROL.search(form):
            return how + "a control character"
        if "\\" in form:
            return how + "a backslash"
        if any(segment.partition(";")[0] in (".", "..") for segment in form.split("/")):
            return how + "a dot segment"
        if form.count("/") != raw.count(b"/"):
            return how + "an encoded slash"
    return None


def readings(path: str) -> list[str]:
    """The other paths that a lenient backend may read in a decoded one: slashes merged, ``;parameters`` dropped."""
    found = []
    if "//" in path:
        found.append(_SLASHES.sub("/", path))
    if ";" in path:
        found.append(_SLASHES.sub("/", _PARAMETERS.sub("", path)))
    return found


def after_segments(raw: bytes, slashes: int) -> bytes:
    """What follows the given number of slashes in a raw path; it is safe to count, as no slash hides in an escape."""
    return b"/".join(raw.split(b"/")[slashes:])
