"""One moment's configuration: which route, which target, which origin (`relay.routing.snapshot`)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

import pytest
from django.urls.converters import get_converters
from hypothesis import given
from hypothesis import strategies as st

from relay.routing import paths, pattern
from relay.routing import snapshot as module
from relay.routing.pattern import compile_path
from relay.routing.snapshot import Origin, Rate, Route, Snapshot, Url, normalise_origin


def http(path: str, **rest: Any) -> Route:
    return Route(path, "http", "main", **rest)


def site(*routes: Route) -> Snapshot:
    return Snapshot.build([], routes, [])


def found(routes: Iterable[str], path: str) -> str | None:
    """The path of the route that a path leads to, whatever order the routes are configured in."""
    both = {
        match.route.path if (match := site(*map(http, order)).match("http", "GET", path)) else None
        for order in (list(routes), list(routes)[::-1])
    }
    assert len(both) == 1, "the order of the configuration decides"
    return both.pop()


@pytest.mark.parametrize(
    ("route", "path", "matches"),
    [
        pytest.param("/api/", "/api/x", True, id="prefix: below it"),
        pytest.param("/api/", "/api/", True, id="prefix: itself"),
        pytest.param("/api/", "/api", True, id="prefix: without its slash"),
        pytest.param("/api/", "/apix", False, id="prefix: it ends at a segment"),
        pytest.param("/api/", "/ap", False, id="prefix: no shorter path"),
        pytest.param("/api/", "/x/api/", False, id="prefix: from the beginning"),
        pytest.param("/api/", "/API/x", False, id="prefix: letters have a case"),
        pytest.param("/api/", "/api//", True, id="prefix: an empty segment below it"),
        pytest.param("/api/", "//api/", False, id="prefix: no empty segment before it"),
        pytest.param("/", "/", True, id="root: itself"),
        pytest.param("/", "/x/y", True, id="root: everything"),
        pytest.param("/api", "/api", True, id="exact: itself"),
        pytest.param("/api", "/api/", False, id="exact: no slash behind it"),
        pytest.param("/api", "/api/x", False, id="exact: nothing below it"),
        pytest.param("/a.b", "/axb", False, id="exact: a dot is a dot"),
        pytest.param("/a+(b)", "/a+(b)", True, id="exact: every sign means itself"),
        pytest.param("/café", "/café", True, id="exact: outside ASCII"),
        pytest.param("/u/<int:id>", "/u/7", True, id="int"),
        pytest.param("/u/<int:id>", "/u/-7", False, id="int: no sign"),
        pytest.param("/u/<int:id>", "/u/7x", False, id="int: to the end of the path"),
        pytest.param("/u/<int:id>", "/u/", False, id="int: not empty"),
        pytest.param("/u/<int:id>", "/u/٧", False, id="int: ASCII digits"),
        pytest.param("/u/<name>", "/u/Ann%20é", True, id="no converter is str"),
        pytest.param("/u/<str:name>", "/u/a/b", False, id="str: one segment"),
        pytest.param("/u/<str:name>", "/u/", False, id="str: not empty"),
        pytest.param("/u/<slug:s>", "/u/a-b_1", True, id="slug"),
        pytest.param("/u/<slug:s>", "/u/a.b", False, id="slug: no dot"),
        pytest.param("/u/<uuid:u>", "/u/0185e6c5-4a43-7c8e-a0b1-3f2d1c9e8b7a", True, id="uuid"),
        pytest.param("/u/<uuid:u>", "/u/0185E6C5-4A43-7C8E-A0B1-3F2D1C9E8B7A", False, id="uuid: lowercase, as Django"),
        pytest.param("/u/<uuid:u>", "/u/0185e6c5-4a43-7c8e-a0b1-3f2d1c9e8b7", False, id="uuid: not shorter"),
        pytest.param("/f/<path:p>", "/f/a/b/c", True, id="path: several segments"),
        pytest.param("/f/<path:p>", "/f/", False, id="path: not empty"),
        pytest.param("/f/<path:p>/edit", "/f/a/b/edit", True, id="path: a literal behind it"),
        pytest.param("/f/<path:p>/edit", "/f/a/edit/b", False, id="path: the literal ends it"),
        pytest.param("/u/<int:id>/", "/u/7", True, id="placeholder in a prefix, without its slash"),
        pytest.param("/u/<int:id>/", "/u/7/x", True, id="placeholder in a prefix, below it"),
        pytest.param("/u/<int:id>/", "/u/7x", False, id="placeholder in a prefix ends at a segment"),
        pytest.param("/u/<int:id>/posts", "/u/7/posts", True, id="literal behind a placeholder"),
        pytest.param("/u/v<int:a>.<int:b>", "/u/v1.22", True, id="two in one segment"),
        pytest.param("/u/v<int:a>.<int:b>", "/u/v1.", False, id="two in one segment: both are needed"),
        pytest.param("/u/<slug:a>-<slug:b>", "/u/a-b-c", True, id="two that can hold what parts them"),
        pytest.param("/u/<slug:a>-<slug:b>", "/u/-", False, id="two that can hold what parts them: neither empty"),
        pytest.param("/u/<str:name>.<str:ext>", "/u/a.tar.gz", True, id="name and extension"),
        pytest.param("/<path:a>/x/<path:b>", "/1/x/2/x/3", True, id="two paths"),
        pytest.param("/<path:a>/x/<path:b>", "/1/x", False, id="two paths: both are needed"),
        pytest.param("/u/<int:a><int:b>", "/u/12", True, id="two without anything between them"),
        pytest.param("/u/<int:a><int:b>", "/u/1", False, id="two without anything between them: neither empty"),
    ],
)
def test_a_route_matches_in_django_path_syntax(route: str, path: str, matches: bool) -> None:
    """Contract, section 3: a trailing slash is a prefix that ends at a segment, otherwise exact."""
    assert (found([route], path) == route) is matches


def test_converters_are_those_of_django() -> None:
    """Theirs is the syntax that operators know; if Django changes one, this says so."""
    assert {name: c.pattern for name, c in pattern._CONVERTERS.items()} == {
        name: converter.regex for name, converter in get_converters().items()
    }


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        pytest.param("/u/<word:x>", "'word'", id="unknown converter"),
        pytest.param("/u/<int:x>/<int:x>", "used once", id="a name twice"),
        pytest.param("/u/<int:1x>", "must be a valid name", id="no name"),
        pytest.param("/u/<int: x>", "must be a valid name", id="white space"),
    ],
)
def test_a_path_that_django_would_not_take_is_an_error(path: str, sentence: str) -> None:
    """The sentence goes to the operator as it is."""
    with pytest.raises(ValueError, match=sentence):
        compile_path(path)


@pytest.mark.parametrize("order", [["int", "slug", "str", "path"], ["uuid", "slug", "str", "path"]])
def test_of_two_placeholders_the_narrower_wins(order: list[str]) -> None:
    """Whatever they are called: a public ``<path:…>`` must not open what another one guards."""
    value = {"int": "7", "uuid": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"}[order[0]]
    for names in (("a", "b"), ("b", "a")):
        for narrow, wide in itertools.pairwise(order):
            paths = [f"/u/<{wide}:{names[0]}>", f"/u/<{narrow}:{names[1]}>"]
            snapshot = Snapshot.build([], [Route(path, "http", "main") for path in paths], [])
            match = snapshot.match("http", "GET", f"/u/{value}")
            assert match is not None
            assert match.route.path == paths[1]


@pytest.mark.parametrize(
    ("routes", "path", "winner"),
    [
        pytest.param(["/a/", "/a"], "/a", "/a", id="exact before prefix"),
        pytest.param(["/a/b/c/", "/a/<str:x>/c"], "/a/b/c", "/a/<str:x>/c", id="exact, with a placeholder, too"),
        pytest.param(["/", "/a/", "/a/b/"], "/a/b/c", "/a/b/", id="more segments before fewer"),
        pytest.param(["/", "/a/", "/a/b/"], "/a/x", "/a/", id="the longest that matches"),
        pytest.param(["/", "/a/", "/a/b/"], "/x", "/", id="the root catches the rest"),
        pytest.param(["/a/<int:x>", "/a/7"], "/a/7", "/a/7", id="literal before placeholder"),
        pytest.param(["/<str:x>/b/", "/a/<str:y>/"], "/a/b/", "/a/<str:y>/", id="the first literal segment counts"),
        pytest.param(["/a/<str:x>/c/", "/a/b/"], "/a/b/c", "/a/<str:x>/c/", id="more segments before literal"),
        pytest.param(["/a/v<int:x>/", "/a/<str:x>/", "/a/v1/"], "/a/v1/", "/a/v1/", id="literal before partly literal"),
        pytest.param(["/<path:x>", "/"], "/a/b", "/<path:x>", id="an exact path converter before a prefix"),
    ],
)
def test_the_most_specific_route_wins(routes: list[str], path: str, winner: str) -> None:
    """Contract, section 3: exact before prefix, more segments before fewer, literal before ``<…>``."""
    assert found(routes, path) == winner


@pytest.mark.parametrize(
    ("methods", "method", "index"),
    [
        pytest.param([(), ("GET",)], "GET", 1, id="with methods before without"),
        pytest.param([(), ("GET",)], "POST", 0, id="a method that is not listed falls to the route without"),
        pytest.param([("GET",), ("POST",)], "POST", 1, id="the same path once per method"),
        pytest.param([("GET",)], "HEAD", 0, id="GET includes HEAD"),
        pytest.param([("GET",), ("HEAD",)], "HEAD", 1, id="a HEAD that is named comes first"),
        pytest.param([("HEAD",)], "GET", None, id="HEAD does not include GET"),
        pytest.param([("GET",)], "OPTIONS", None, id="GET includes nothing else"),
        pytest.param([("GET", "POST")], "PUT", None, id="no route for the method"),
        pytest.param([("GET",)], "get", None, id="methods have a case"),
        pytest.param([()], "PURGE", 0, id="no methods: all, known or not"),
    ],
)
def test_a_route_serves_its_methods(methods: list[tuple[str, ...]], method: str, index: int | None) -> None:
    """Contract, section 3: empty means all, ``GET`` includes ``HEAD``, and no route for the method is no route."""
    routes = [http("/x", methods=m) for m in methods]
    for order in (routes, routes[::-1]):
        match = site(*order).match("http", method, "/x")
        assert (match and match.route) == (None if index is None else routes[index])


def test_a_less_specific_route_takes_the_methods_that_the_other_does_not() -> None:
    """The prefix gets what the exact route leaves."""
    routes = site(http("/x/y", methods=("POST",)), http("/x/"), http("/x/<str:z>", methods=("PUT",)))
    served = {m: match.route.path for m in ("GET", "POST", "PUT") if (match := routes.match("http", m, "/x/y"))}
    assert served == {"GET": "/x/", "POST": "/x/y", "PUT": "/x/<str:z>"}


def test_a_disabled_route_is_none() -> None:
    """The next one that matches takes its place."""
    routes = site(http("/x/y", enabled=False), http("/x/"))
    match = routes.match("http", "GET", "/x/y")
    assert match is not None
    assert match.route.path == "/x/"
    assert site(http("/x", enabled=False)).match("http", "GET", "/x") is None


def test_a_handshake_finds_no_http_route_and_the_reverse() -> None:
    """The same path may be both, each with a route of its own."""
    routes = site(http("/both"), Route("/both", "websocket", "other"), Route("/ws", "websocket", "main"))
    assert routes.match("http", "GET", "/ws") is None
    assert [m.route.backend for kind in ("http", "websocket") if (m := routes.match(kind, "GET", "/both"))] == [  # type: ignore[arg-type]
        "main",
        "other",
    ]


@pytest.mark.parametrize(
    ("route", "upstream", "raw", "target"),
    [
        pytest.param("/api/", "", b"/api/a%20b;x/", b"/api/a%20b;x/", id="unchanged without upstream_path"),
        pytest.param("/api/", "/v2/", b"/api/x", b"/v2/x", id="prefix replaced"),
        pytest.param("/api/", "/v2", b"/api/x", b"/v2/x", id="joined with one slash where there is none"),
        pytest.param("/api/", "/v2/", b"/api/", b"/v2/", id="the prefix alone"),
        pytest.param("/api/", "/v2", b"/api/", b"/v2/", id="the client's trailing slash stays"),
        pytest.param("/api/", "/v2/", b"/api", b"/v2", id="the prefix without its slash"),
        pytest.param("/api/", "/", b"/api/x/y", b"/x/y", id="prefix removed"),
        pytest.param("/api/", "/", b"/api", b"/", id="prefix removed, nothing left"),
        pytest.param("/api/", "/", b"/api/", b"/", id="prefix removed, its slash left"),
        pytest.param("/", "/app/", b"/x", b"/app/x", id="prefix added"),
        pytest.param("/", "/app/", b"/", b"/app/", id="prefix added to the root"),
        pytest.param("/api/", "/v2/", b"/%61pi/caf%C3%A9/%7Eu", b"/v2/caf%C3%A9/%7Eu", id="encoding of the rest kept"),
        pytest.param("/café/", "/c/", b"/caf%C3%A9/x", b"/c/x", id="a prefix that was encoded"),
        pytest.param("/api/", "/v2/", b"/api//x", b"/v2/x", id="exactly one slash at the joint"),
        pytest.param("/api/", "/v2/", b"/api/x/", b"/v2/x/", id="a trailing slash stays"),
        pytest.param("/u/<int:id>/", "/me/", b"/u/7/posts", b"/me/posts", id="placeholder in the prefix"),
        pytest.param("/u/<int:id>/", "/me/", b"/u/7", b"/me", id="placeholder at the end of the prefix"),
        pytest.param("/<path:p>/x/", "/y/", b"/a/x/b/x/c", b"/y/c", id="a path converter takes what it can"),
        pytest.param("/ws", "/socket", b"/ws", b"/socket", id="exact replaced"),
        pytest.param("/u/<int:id>", "/me", b"/u/7", b"/me", id="exact with a placeholder replaced"),
        pytest.param("/ws", "", b"/w%73", b"/w%73", id="exact unchanged"),
    ],
)
def test_the_backends_path(route: str, upstream: str, raw: bytes, target: bytes) -> None:
    """Contract, sections 3 and 5: as the client sent it, unless `upstream_path` replaces what matched."""
    match = site(http(route, upstream_path=upstream)).match("http", "GET", paths.decode(raw))
    assert match is not None
    assert match.target(raw) == target


def test_a_thousand_routes_are_looked_up_not_tried() -> None:
    """Literal routes lie in a table: only the path's own parents are looked at, however many routes there are."""
    index = module._Index.build([http(f"/api/{n}/") for n in range(1000)])
    assert [c.route.path for c in index.candidates("/api/700/x/y")] == ["/api/700/"]
    assert index.patterns == ()
    assert site(*(http(f"/api/{n}/") for n in range(1000))).match("http", "GET", "/api/1000/") is None


def test_a_deep_path_is_looked_at_no_deeper_than_the_routes() -> None:
    """A path of 32,000 segments costs what one of three does."""
    looked_up: list[str] = []

    class Counting(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            looked_up.append(key)
            return super().get(key, default)

    built = module._Index.build([http("/a/b/"), http("/")])
    index = module._Index(built.exact, Counting(built.prefixes), built.patterns, built.depth)
    assert [c.route.path for c in index.candidates("/a" * 32_000)] == ["/"]
    assert looked_up == ["/a/a", "/a", ""]


@pytest.mark.parametrize(
    ("route", "path"),
    [
        pytest.param("/<slug:a>-<slug:b>-<slug:c>-<slug:d>", "/" + "-" * 60_000 + "!", id="slugs parted by a dash"),
        pytest.param("/<path:a>/x/<path:b>/x/<path:c>/y", "/x" * 30_000, id="several paths"),
        pytest.param("/<int:a><int:b><int:c><int:d>", "/" + "1" * 60_000 + "x", id="numbers without anything between"),
        pytest.param("/<str:a>.<str:b>.<str:c>", "/" + "." * 60_000 + "/x", id="strings parted by a dot"),
    ],
)
def test_no_path_keeps_the_matching_busy(route: str, path: str) -> None:
    """Matching is linear: a regular expression would need hours for these, before anyone is authenticated."""
    assert compile_path(route).end(path) is None


@given(
    st.lists(
        st.sampled_from(["/", "a", "-", "1", "<int:%>", "<slug:%>", "<str:%>", "<path:%>"]), min_size=1, max_size=6
    ),
    st.text("/a-1.", max_size=8),
)
def test_matching_agrees_with_djangos_regular_expressions(pieces: list[str], rest: str) -> None:
    """The linear matching of placeholders finds what a backtracking one finds."""
    route = "/" + "".join(piece.replace("%", f"n{n}") for n, piece in enumerate(pieces))
    pattern = compile_path(route)
    body = "".join(
        part if n % 2 else re.escape(part)
        for n, part in enumerate(re.split(r"<(\w+):\w+>", route.removesuffix("/")))
        for part in [get_converters()[part].regex if n % 2 else part]
    )
    path = "/" + rest
    expected = re.match(body + (r"(?=/|\Z)" if pattern.is_prefix else r"\Z"), path)
    end = pattern.end(path)
    assert (end is not None) == (expected is not None)
    if expected is not None and pattern.is_prefix:
        assert end == expected.end()


def origins(*allowed: str) -> Snapshot:
    return Snapshot.build([], [], [Origin(o) for o in allowed])


@pytest.mark.parametrize(
    ("rule", "origin", "allowed"),
    [
        pytest.param("https://app.example.com", "https://app.example.com", True, id="the same"),
        pytest.param("https://app.example.com", "HTTPS://App.Example.COM", True, id="in any case"),
        pytest.param("https://app.example.com", "https://app.example.com:443", True, id="the default port named"),
        pytest.param("https://app.example.com:443", "https://app.example.com", True, id="the rule names it"),
        pytest.param("HTTPS://App.example.com", "https://app.example.com", True, id="the rule in capitals"),
        pytest.param("http://app.example.com", "http://app.example.com:80", True, id="http's default port"),
        pytest.param("https://app.example.com", "https://app.example.com:80", False, id="the other default port"),
        pytest.param("https://app.example.com", "http://app.example.com", False, id="another scheme"),
        pytest.param("https://app.example.com", "https://app.example.com:8443", False, id="another port"),
        pytest.param("https://app.example.com:8443", "https://app.example.com:8443", True, id="the same port"),
        pytest.param("https://app.example.com:8443", "https://app.example.com", False, id="a port is missing"),
        pytest.param("http://localhost:3000", "http://localhost:3000", True, id="a name without dots"),
        pytest.param("http://localhost:3000", "http://127.0.0.1:3000", False, id="an address is no name"),
        pytest.param("http://[::1]:3000", "http://[::1]:3000", True, id="IPv6"),
        pytest.param("http://[2001:DB8::1]", "http://[2001:db8::1]", True, id="IPv6 in any case"),
        pytest.param("http://[::1]", "http://[::1]:3000", False, id="IPv6 with another port"),
        pytest.param("https://app.example.com", "https://app.example.com.evil.com", False, id="it continues"),
        pytest.param("https://app.example.com", "https://evilapp.example.com", False, id="it begins earlier"),
        pytest.param("https://app.example.com", "https://app.example.com@evil.com", False, id="as the user name"),
        pytest.param("https://app.example.com", "https://evil.com@app.example.com", False, id="with a user name"),
        pytest.param("https://app.example.com", "https://app.example.com/", False, id="a trailing slash"),
        pytest.param("https://app.example.com", "https://app.example.com/x", False, id="a path"),
        pytest.param("https://app.example.com", "https://app.example.com?", False, id="a query"),
        pytest.param("https://app.example.com", "https://app.example.com#", False, id="a fragment"),
        pytest.param("https://app.example.com", "https://app.example.com:", False, id="an empty port"),
        pytest.param("https://app.example.com", "https://app.example.com:٤٤٣", False, id="a port outside ASCII"),
        pytest.param("https://app.example.com", "https://app.example.com.", False, id="a trailing dot"),
        pytest.param("https://app.example.com", "https:app.example.com", False, id="no slashes"),
        pytest.param("https://app.example.com", "https:\\\\app.example.com", False, id="backslashes"),
        pytest.param("https://app.example.com", "//app.example.com", False, id="no scheme"),
        pytest.param("https://app.example.com", "app.example.com", False, id="a bare host"),
        pytest.param("https://app.example.com", " https://app.example.com", False, id="a blank in front"),
        pytest.param("https://app.example.com", "https://app.example.com\t", False, id="a tab behind"),
        pytest.param("https://app.example.com", "https://app.example.com, https://evil.com", False, id="two of them"),
        pytest.param("https://app.example.com", "https://evil.com https://app.example.com", False, id="and a blank"),
        pytest.param("https://app.example.com", "", False, id="empty"),
        pytest.param("https://app.example.com", "null", False, id="null"),
        pytest.param("https://app.example.com", "https://app.example.com\x85", False, id="a Latin-1 control character"),
        pytest.param("https://kapp.example.com", "https://\u212aapp.example.com", False, id="a Kelvin sign for a K"),
        pytest.param("https://app.example.com", "https://" + "a" * 600 + ".example.com", False, id="too long"),
        pytest.param("https://*.example.com", "https://app.example.com", True, id="wildcard: one level"),
        pytest.param("https://*.example.com", "https://a.b.c.example.com", True, id="wildcard: any depth"),
        pytest.param("https://*.example.com", "https://app.example.com:443", True, id="wildcard: the default port"),
        pytest.param("https://*.example.com:443", "https://app.example.com", True, id="wildcard: the rule names it"),
        pytest.param("https://*.example.com", "https://example.com", False, id="wildcard: not the domain itself"),
        pytest.param("https://*.example.com", "https://.example.com", False, id="wildcard: not an empty name"),
        pytest.param("https://*.example.com", "https://evilexample.com", False, id="wildcard: a dot before the domain"),
        pytest.param("https://*.example.com", "https://app.example.com.evil.com", False, id="wildcard: it continues"),
        pytest.param("https://*.example.com", "http://app.example.com", False, id="wildcard: another scheme"),
        pytest.param("https://*.example.com", "https://app.example.com:8443", False, id="wildcard: another port"),
        pytest.param("https://*.example.com:8443", "https://app.example.com:8443", True, id="wildcard: with a port"),
        pytest.param("https://*.example.com:8443", "https://app.example.com", False, id="wildcard: a port is wanted"),
        pytest.param("https://*.example.com", "https://evil.com/.example.com", False, id="wildcard: in a path"),
        pytest.param("https://*.example.com", "https://evil.com#.example.com", False, id="wildcard: in a fragment"),
        pytest.param("https://*.example.com", "https://evil.com?.example.com", False, id="wildcard: in a query"),
        pytest.param("https://*.example.com", "https://evil.com\\.example.com", False, id="wildcard: in a backslash"),
        pytest.param("https://*.example.com", "https://evil.com:80.example.com", False, id="wildcard: behind a port"),
        pytest.param("https://*.example.com", "https://evil.com@x.example.com", False, id="wildcard: a user name"),
        pytest.param("https://*.example.com", "https://evil.com x.example.com", False, id="wildcard: behind a blank"),
        pytest.param("*", "https://anything.test", True, id="any origin"),
        pytest.param("*", "null", False, id="any origin but null"),
        pytest.param("*", "", False, id="any origin but an empty one"),
        pytest.param("*", "*", False, id="any origin is no origin itself"),
        pytest.param("null", "null", False, id="null is never allowed, whatever the list says"),
    ],
)
def test_an_origin_is_compared_whole(rule: str, origin: str, allowed: bool) -> None:
    """Contract, sections 3 and 4: scheme, host and port; `https://*.…` is any depth, never the domain itself."""
    assert origins(rule).allows(origin) is allowed


def test_no_origins_allow_none() -> None:
    """An empty list is closed, and a disabled entry is none."""
    assert not origins().allows("https://app.example.com")
    disabled = Snapshot.build([], [], [Origin("https://app.example.com", enabled=False), Origin("*", enabled=False)])
    assert not disabled.allows("https://app.example.com")


@given(st.text(max_size=40))
def test_only_what_the_rule_names_is_allowed(text: str) -> None:
    """Whatever stands around an allowed origin makes it another."""
    listed = origins("https://app.example.com")
    for origin in (
        f"https://app.example.com{text}",
        f"{text}https://app.example.com",
        f"https://{text}app.example.com",
    ):
        normal = normalise_origin(origin)
        assert listed.allows(origin) is (normal == "https://app.example.com")


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        pytest.param("50/s", Rate(50, 1, 50), id="per second"),
        pytest.param("100/m", Rate(100, 60, 100), id="per minute"),
        pytest.param("1000/h;burst=20", Rate(1000, 3600, 20), id="per hour, with a burst"),
        pytest.param("50/s; burst=100", Rate(50, 1, 100), id="a blank does not matter"),
    ],
)
def test_a_rate_is_read(text: str, rate: Rate) -> None:
    """The burst is the count unless it is named."""
    assert Rate.parse(text) == rate


@pytest.mark.parametrize(
    "text", ["", "50", "50/d", "s", "-1/s", "1.5/s", "50/s;burst", "50/s burst=", "0/s", "1/s;burst=0", "1" * 10 + "/s"]
)
def test_what_is_no_rate_is_an_error(text: str) -> None:
    """The sentence quotes what was written."""
    with pytest.raises(ValueError, match=r"rate|nothing"):
        Rate.parse(text)


@pytest.mark.parametrize(
    ("text", "parts", "authority"),
    [
        pytest.param("http://app:9000", ("http", "app", 9000, ""), "app:9000", id="host and port"),
        pytest.param("http://app", ("http", "app", 80, ""), "app", id="http's port"),
        pytest.param("https://app", ("https", "app", 443, ""), "app", id="https' port"),
        pytest.param("https://app:443", ("https", "app", 443, ""), "app", id="the default port named"),
        pytest.param("https://app:80", ("https", "app", 80, ""), "app:80", id="the other default port"),
        pytest.param("HTTP://App", ("http", "app", 80, ""), "app", id="in any case"),
        pytest.param("http://app/base/v1/", ("http", "app", 80, "/base/v1"), "app", id="a prefix without its slash"),
        pytest.param("http://app/", ("http", "app", 80, ""), "app", id="a slash is no prefix"),
        pytest.param("http://[::1]:9000", ("http", "::1", 9000, ""), "[::1]:9000", id="IPv6"),
        pytest.param("http://[::1]", ("http", "::1", 80, ""), "[::1]", id="IPv6 without a port"),
        pytest.param("http://app/a%20b", ("http", "app", 80, "/a%20b"), "app", id="an encoded prefix"),
    ],
)
def test_a_backends_url_is_taken_apart(text: str, parts: tuple[str, str, int, str], authority: str) -> None:
    """Its authority is the backend's own Host (RFC 9110 §7.2)."""
    url = Url.parse(text)
    assert (url.scheme, url.host, url.port, url.prefix) == parts
    assert url.authority == authority
    assert url.origin == f"{url.scheme}://{authority}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("app:9000", "must begin with", id="no scheme"),
        pytest.param("ws://app", "must begin with", id="ws is no scheme here"),
        pytest.param("http://", "has no host", id="no host"),
        pytest.param("http:///x", "has no host", id="a path, no host"),
        pytest.param("http://app:0", "port 0", id="port 0"),
        pytest.param("http://app:99999", "is not a valid url", id="a port too high"),
        pytest.param("http://app:x", "is not a valid url", id="a port that is no number"),
        pytest.param("http://[::1", "is not a valid url", id="a bracket too few"),
        pytest.param("http://app?x=1", "query", id="a query"),
        pytest.param("http://app/#x", "fragment", id="a fragment"),
        pytest.param("http://app/?", "query", id="an empty query"),
        pytest.param("http://ap p", "a space", id="a space"),
        pytest.param("http://app\r\nX-User-ID: 1", "a space", id="a line break"),
        pytest.param("http://app\\x", "backslash", id="a backslash"),
        pytest.param("http://bücher.example", "non-ASCII", id="a host outside ASCII"),
        pytest.param("http://app/é", "non-ASCII", id="a prefix outside ASCII"),
        pytest.param("http://app/../x", "dot segment", id="a prefix with a dot segment"),
        pytest.param("http://app/%2e%2e/x", "dot segment", id="a prefix with an encoded dot segment"),
        pytest.param("", "must begin with", id="nothing"),
    ],
)
def test_what_is_no_url_is_an_error(text: str, why: str) -> None:
    """The sentence says why."""
    with pytest.raises(ValueError, match=why):
        Url.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://me:hunter2@app",
        "http://me:hunter2@app:x/",
        "http://me:hunter2@",
        "http://me:hunter2@a b",
        "ftp://me:hunter2@app",
        "http://me:hunter2\\@app",
        "http://me:hunter2@app/../x",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(text: str) -> None:
    """Whatever else is wrong with the url: the sentence goes to logs and pages."""
    with pytest.raises(ValueError, match="password") as refused:
        Url.parse(text)
    assert "hunter2" not in str(refused.value)


def test_backends_are_found_by_name() -> None:
    """The mapping can't be changed: a request is judged by one snapshot from beginning to end."""
    one = module.Backend("one", (Url.parse("http://app"),))
    snapshot = Snapshot.build([one], [], [], revision=7)
    assert snapshot.backends == {"one": one}
    assert snapshot.revision == 7
    with pytest.raises(TypeError):
        snapshot.backends["two"] = one  # type: ignore[index]


def test_equal_configurations_are_equal() -> None:
    """What has not changed must not end a socket; a route's key is what a TOML file knows it by."""
    assert site(http("/a")) == site(http("/a"))
    assert site(http("/a")) != site(http("/a", access="public"))
    assert http("/a", methods=("GET",)).key == ("http", "/a", ("GET",))
