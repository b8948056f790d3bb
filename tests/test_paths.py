"""Which paths can be read in one way only: `relay.routing.paths`, and what `relay.access.find_route` makes of them."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from relay.access import Ask, find_route
from relay.refusals import Refusal
from relay.routing import paths
from relay.routing.snapshot import Match, Route, Snapshot

LONG = "more than 8192 bytes with escapes, parameters or empty segments"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"/", id="the root"),
        pytest.param(b"/" + b"x" * 60_000, id="a long one that can be read in one way only"),
        pytest.param(b"/" + b"%25" * 2730, id="many escapes"),
        pytest.param(b"/api/users/7", id="plain"),
        pytest.param(b"/api/", id="a trailing slash"),
        pytest.param(b"//api//x", id="empty segments, judged by where they lead"),
        pytest.param(b"/a;v=1/b", id="path parameters, judged likewise"),
        pytest.param(b"/a%3Fb%23c", id="an encoded question mark and hash, judged likewise"),
        pytest.param(b"/caf%C3%A9", id="UTF-8"),
        pytest.param("/café".encode(), id="raw UTF-8"),
        pytest.param(b"/caf%E9", id="Latin-1"),
        pytest.param(b"/a%20b+c", id="a space and a plus"),
        pytest.param(b"/100%", id="a percent sign alone"),
        pytest.param(b"/100%25", id="an encoded percent sign"),
        pytest.param(b"/%zz/%4", id="broken escapes"),
        pytest.param(b"/.well-known/x", id="a hidden file"),
        pytest.param(b"/a/..b/c../...", id="dots among other signs, and three"),
        pytest.param(b"/a.b;..", id="dots in a parameter"),
        pytest.param(b"/%F0%9F%98%80", id="four bytes of UTF-8"),
        pytest.param(b"/~u/!$&'()*,=:@", id="every sign that needs no encoding"),
    ],
)
def test_a_path_with_one_reading_passes(raw: bytes) -> None:
    """What a browser or an API client honestly sends is not refused."""
    assert paths.check(raw) is None


@pytest.mark.parametrize(
    ("raw", "wrong"),
    [
        pytest.param(b"", "the path does not begin with a slash", id="empty"),
        pytest.param(b"*", "the path does not begin with a slash", id="asterisk"),
        pytest.param(b"api/x", "the path does not begin with a slash", id="relative"),
        pytest.param(b"http://h/x", "the path does not begin with a slash", id="absolute form"),
        pytest.param(b"/x#y", "a fragment", id="fragment"),
        pytest.param(b"/../x", "a dot segment", id="dot-dot in front"),
        pytest.param(b"/a/../b", "a dot segment", id="dot-dot inside"),
        pytest.param(b"/a/..", "a dot segment", id="dot-dot at the end"),
        pytest.param(b"/a/./b", "a dot segment", id="dot"),
        pytest.param(b"/a/.", "a dot segment", id="dot at the end"),
        pytest.param(b"/a/..;/b", "a dot segment", id="dot-dot with an empty parameter"),
        pytest.param(b"/a/..;x=1/b", "a dot segment", id="dot-dot with a parameter"),
        pytest.param(b"/a/.;x", "a dot segment", id="dot with a parameter"),
        pytest.param(b"/a/%2e%2e/b", "a dot segment", id="encoded dots"),
        pytest.param(b"/a/%2E./b", "a dot segment", id="one dot encoded, uppercase"),
        pytest.param(b"/a/.%2e/b", "a dot segment", id="the other dot encoded"),
        pytest.param(b"/a/%2e/b", "a dot segment", id="an encoded single dot"),
        pytest.param(b"/a/..%3bx/b", "a dot segment", id="an encoded semicolon behind dots"),
        pytest.param(b"/a/..%3fx/b", "a dot segment", id="an encoded question mark behind dots"),
        pytest.param(b"/a/..%23x/b", "a dot segment", id="an encoded hash behind dots"),
        pytest.param(b"/a/%252e%252e/b", "doubly encoded: a dot segment", id="doubly encoded dots"),
        pytest.param(b"/a/.%252e/b", "doubly encoded: a dot segment", id="one dot doubly encoded"),
        pytest.param(b"/a/%%32%65./b", "doubly encoded: a dot segment", id="an escape made of escapes"),
        pytest.param(b"/a/%2%65./b", "doubly encoded: a dot segment", id="half an escape made of an escape"),
        pytest.param(b"/a/..%253b/b", "doubly encoded: a dot segment", id="a doubly encoded semicolon behind dots"),
        pytest.param(b"/a\\b", "a backslash", id="backslash"),
        pytest.param(b"/a%5Cb", "a backslash", id="encoded backslash"),
        pytest.param(b"/a%5cb", "a backslash", id="encoded backslash, lowercase"),
        pytest.param(b"/a%255Cb", "doubly encoded: a backslash", id="doubly encoded backslash"),
        pytest.param(b"/a/..\\b", "a backslash", id="backslash behind dots"),
        pytest.param(b"/a%2Fb", "an encoded slash", id="encoded slash"),
        pytest.param(b"/a%2fb", "an encoded slash", id="encoded slash, lowercase"),
        pytest.param(b"/%2Fb", "an encoded slash", id="encoded slash in front"),
        pytest.param(b"/a%252Fb", "doubly encoded: an encoded slash", id="doubly encoded slash"),
        pytest.param(b"/a%2%46b", "doubly encoded: an encoded slash", id="a slash from half an escape"),
        pytest.param(b"/a\x00b", "a control character", id="NUL"),
        pytest.param(b"/a\x7fb", "a control character", id="DEL"),
        pytest.param(b"/a\tb", "a control character", id="tab"),
        pytest.param(b"/a%00b", "a control character", id="encoded NUL"),
        pytest.param(b"/a%0d%0aX-User-ID:%201", "a control character", id="encoded line end"),
        pytest.param(b"/a%7F", "a control character", id="encoded DEL"),
        pytest.param(b"/a%2500", "doubly encoded: a control character", id="doubly encoded NUL"),
        pytest.param(b"/a%250a", "doubly encoded: a control character", id="doubly encoded line feed"),
        pytest.param(b"/a/%c0%ae%c0%ae/b", "overlong UTF-8", id="overlong dots"),
        pytest.param(b"/a%c0%afb", "overlong UTF-8", id="overlong slash"),
        pytest.param(b"/a%e0%80%afb", "overlong UTF-8", id="overlong slash in three bytes"),
        pytest.param(b"/a%f0%80%80%afb", "overlong UTF-8", id="overlong slash in four bytes"),
        pytest.param(b"/a%f8%80%80%80%afb", "overlong UTF-8", id="overlong slash in five bytes"),
        pytest.param(b"/a%fc%80%80%80%80%afb", "overlong UTF-8", id="overlong slash in six bytes"),
        pytest.param(b"/a\xc0\xafb", "overlong UTF-8", id="overlong slash, raw"),
        pytest.param(b"/" + b"%25" * 2731, LONG, id="thousands of escapes"),
        pytest.param(b"/" + b";/" * 4096, LONG, id="thousands of parameters"),
        pytest.param(b"/" * 8193, LONG, id="thousands of empty segments"),
        pytest.param(b"/a%25c0%25afb", "doubly encoded: overlong UTF-8", id="overlong slash, doubly encoded"),
    ],
)
def test_a_path_with_two_readings_is_refused(raw: bytes, wrong: str) -> None:
    """Contract, section 3: dot segments, backslashes, encoded slashes and control characters, doubly encoded too."""
    assert paths.check(raw) == wrong


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        pytest.param(b"/api/x", "/api/x", id="plain"),
        pytest.param(b"/caf%C3%A9", "/café", id="UTF-8"),
        pytest.param(b"/a%2562", "/a%62", id="once only"),
        pytest.param(b"/a+b", "/a+b", id="a plus is no space in a path"),
        pytest.param(b"/%E9", "/\udce9", id="no UTF-8"),
        pytest.param(b"/%zz", "/%zz", id="a broken escape"),
    ],
)
def test_routes_are_matched_on_the_path_decoded_once(raw: bytes, path: str) -> None:
    """Bytes that are no UTF-8 stay apart instead of all becoming one replacement character."""
    assert paths.decode(raw) == path


@pytest.mark.parametrize(
    ("raw", "slashes", "rest"),
    [
        pytest.param(b"/api/x/y", 2, b"x/y", id="below a prefix"),
        pytest.param(b"/api/", 2, b"", id="the prefix with its slash"),
        pytest.param(b"/api", 2, b"", id="the prefix without its slash"),
        pytest.param(b"/a%70i/x%20y", 2, b"x%20y", id="the encoding of the rest stays"),
        pytest.param(b"/api//x", 2, b"/x", id="an empty segment stays"),
        pytest.param(b"/x/y", 1, b"x/y", id="below the root"),
    ],
)
def test_the_rest_of_a_raw_path_is_found_by_counting_slashes(raw: bytes, slashes: int, rest: bytes) -> None:
    """What `check` passes has no slash inside an escape, so raw and decoded path have the same segments."""
    assert paths.after_segments(raw, slashes) == rest


SITE = Snapshot.build(
    [],
    [
        Route("/public/", "http", "b", access="public"),
        Route("/admin/", "http", "b", access="roles", roles=("admin",)),
        Route("/public/keys", "http", "b", access="roles", roles=("admin",)),
        Route("/users/<int:id>", "http", "b"),
        Route("/ws", "websocket", "b"),
    ],
    [],
)


def ask(raw: bytes, kind: str = "http", method: str = "GET") -> Ask:
    return Ask(kind, method, raw, None, "gateway")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "other"),
    [
        pytest.param(b"//admin/x", "/admin/", id="no route as it is, one when merged"),
        pytest.param(b"/public//keys", "/public/keys", id="one route as it is, another when merged"),
        pytest.param(b"//h/admin/x", "/admin/", id="a URL parser takes the first segment for a host"),
        pytest.param(b"///h/admin/x", "/admin/", id="the same with three slashes"),
        pytest.param(b"/admin;x/y", "/admin/", id="no route as it is, one without the parameter"),
        pytest.param(b"/public/;x/keys", "/public/keys", id="a parameter that hides an empty segment"),
        pytest.param(b"/public/keys;x", "/public/keys", id="another route without the parameter"),
        pytest.param(b"/public/keys%3bx", "/public/keys", id="an encoded semicolon"),
        pytest.param(b"/public/keys%253bx", "/public/keys", id="a doubly encoded semicolon"),
        pytest.param(b"/public/keys%3Fx", "/public/keys", id="an encoded question mark"),
        pytest.param(b"/public/keys%23x", "/public/keys", id="an encoded hash"),
        pytest.param(b"/public/%256beys", "/public/keys", id="a doubly encoded letter"),
        pytest.param(b"/%2561dmin/x", "/admin/", id="no route as it is, one when decoded twice"),
        pytest.param(b"/users/7%3Bx", "/users/<int:id>", id="a placeholder without the parameter"),
        pytest.param(b"//x/%2561dmin;y//z", "/admin/", id="all at once"),
    ],
)
def test_a_path_that_a_lenient_backend_reads_as_another_route_is_refused(raw: bytes, other: str) -> None:
    """Contract, section 3: the backend must never read another path than the one that was judged."""
    found = find_route(ask(raw), SITE)
    assert isinstance(found, Refusal)
    assert found.code == "bad_path"
    assert found.detail.endswith(other)


@pytest.mark.parametrize(
    ("raw", "route"),
    [
        pytest.param(b"/public//x", "/public/", id="merged, it is the same route"),
        pytest.param(b"/public/x;v=1", "/public/", id="without the parameter, it is the same route"),
        pytest.param(b"/public/what%3F", "/public/", id="a question mark in a name"),
        pytest.param(b"/public/100%25", "/public/", id="a percent sign in a name"),
        pytest.param(b"/public//keysx", "/public/", id="no route's name, only its beginning"),
    ],
)
def test_a_lenient_reading_of_the_same_route_does_no_harm(raw: bytes, route: str) -> None:
    """Empty segments and parameters have honest uses; they pass where nothing depends on them."""
    found = find_route(ask(raw), SITE)
    assert isinstance(found, Match)
    assert found.route.path == route


def test_a_reading_is_judged_for_the_kind_and_method_that_were_asked() -> None:
    """`//ws` is no handshake's path as HTTP: without a route it is a plain 404."""
    found = find_route(ask(b"//ws"), SITE)
    assert isinstance(found, Refusal)
    assert found.code == "no_route"
    handshake = find_route(ask(b"//ws", "websocket"), SITE)
    assert isinstance(handshake, Refusal)
    assert handshake.code == "bad_path"


def test_a_plain_path_has_no_other_readings() -> None:
    """Nearly every request: nothing to try."""
    assert list(paths.readings("/api/users/7")) == []


def test_the_number_of_readings_is_bounded() -> None:
    """Each one costs a look at the routes; a stranger decides what the path is made of."""
    path = "//a/" + "%2561//;x?#%3b/" * 500
    assert len(list(paths.readings(path))) <= 31


def test_what_a_refused_path_logs_is_short() -> None:
    """A path may have 64 KiB, and a stranger may send many."""
    found = find_route(ask(b"//admin/" + b"x" * 60_000), SITE)
    assert isinstance(found, Refusal)
    assert len(found.detail) < 600
    nowhere = find_route(ask(b"/nowhere/" + b"%FF" * 20_000), SITE)
    assert isinstance(nowhere, Refusal)
    assert len(nowhere.detail) < 2000
    nowhere.detail.encode()  # no surrogate: a console could not print it


def lenient(raw: bytes, again: bool, tail: bool, parameters: bool, merged: bool, url: bool) -> str:
    """The path as a backend reads it that does all it can with a request target."""
    text = raw.decode("latin-1")
    if url:
        text = re.sub(r"\A//+[^/]*", "", text) or "/"
    path = unquote_to_bytes(text.encode("latin-1")).decode("utf-8", "surrogateescape")
    if again:
        path = unquote(path, errors="surrogateescape")
    if tail:
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    segments = path.split("/")
    if parameters:
        segments = [segment.split(";", 1)[0] for segment in segments]
    resolved: list[str] = []
    for segment in segments[1:]:
        if segment == "..":
            del resolved[-1:]
        elif segment != "." and not (merged and segment == ""):
            resolved.append(segment)
    if merged and segments[-1] in ("", ".", ".."):
        resolved.append("")
    return "/" + "/".join(resolved)


PIECES = ["/", "//", "admin", "public", "keys", "users", "7", "h", ".", "..", ";", ";x", "%", "?", "#", "\\", "é"]
ENCODED = [
    "%2f",
    "%2F",
    "%252f",
    "%5c",
    "%2e",
    "%252e",
    "%3b",
    "%253b",
    "%3f",
    "%23",
    "%61",
    "%2561",
    "%25",
    "%00",
    "%c0%ae",
]


@given(
    st.lists(st.sampled_from(PIECES + ENCODED), max_size=12),
    *(st.booleans() for _ in range(5)),
)
@example(["/", "%2561", "dmin", "/"], True, False, False, False, False)
@example(["//", "h", "/", "admin", "/"], False, False, False, False, True)
@example(["/", "public", "//", "keys"], False, False, False, True, False)
@example(["/", "public", "/", "keys", ";x"], False, False, True, False, False)
def test_no_lenient_backend_reads_another_route(
    pieces: list[str], again: bool, tail: bool, parameters: bool, merged: bool, url: bool
) -> None:
    """Whatever passes leads to the same route in the gateway and in a backend that decodes twice, merges, resolves …"""
    raw = "".join(pieces).encode()
    assume(b"?" not in raw)  # there the query begins
    judged = find_route(ask(raw), SITE)
    read = SITE.match("http", "GET", lenient(raw, again, tail, parameters, merged, url))
    if isinstance(judged, Match):
        assert read is None or read.route == judged.route
    elif judged.code == "no_route":
        assert read is None


@given(st.binary(max_size=60))
def test_any_bytes_are_judged_without_an_error(raw: bytes) -> None:
    """A request target comes from a stranger."""
    find_route(ask(b"/" + raw), SITE)
    paths.check(raw)
