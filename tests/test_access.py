"""May they, and where to: `relay.access`, the only place that lets anyone in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from relay.access import UPGRADE_LOST, Ask, Denied, Grant, cross_site, decide, same_host
from relay.identity.model import NOBODY, Identification, Identity, Place, Presented
from relay.refusals import KINDS
from relay.routing.snapshot import Backend, Origin, Route, Snapshot, Url

APP = "https://app.example.com"
EVIL = "https://evil.test"


def backend(name: str, **rest: Any) -> Backend:
    return Backend(name, (Url.parse("http://10.0.0.7:9000"),), **rest)


SITE = Snapshot.build(
    [backend("main"), backend("off", enabled=False)],
    [
        Route("/public/", "http", "main", access="public"),
        Route("/api/", "http", "main"),
        Route("/staff/", "http", "main", access="roles", roles=("admin", "editor")),
        Route("/nobody/", "http", "main", access="roles"),
        Route("/off/", "http", "off"),
        Route("/gone/", "http", "never-was"),
        Route("/disabled/", "http", "main", enabled=False),
        Route("/get/", "http", "main", methods=("GET",)),
        Route("/v1/", "http", "main", upstream_path="/v2/"),
        Route("/ws", "websocket", "main"),
        Route("/ws/public", "websocket", "main", access="public"),
        Route("/ws/staff", "websocket", "main", access="roles", roles=("admin",)),
        Route("/ws/off", "websocket", "off", access="roles", roles=("admin",)),
    ],
    [Origin(APP), Origin("https://*.apps.example.com"), Origin("https://old.example.com", enabled=False)],
)


def identity(*roles: str) -> Identity:
    return Identity("7", "ann@example.com", ",".join(roles), roles, 2e9, None, "", "ab" * 32)


def known(place: Place, *roles: str) -> Identification:
    return Identification(identity(*roles), place)


def unknown(code: str, *presented: Presented) -> Identification:
    return Identification(None, code=code, detail="why", presented=presented)


def http(path: str, method: str = "GET", origin: str | None = None, host: str = "gw.example.com") -> Ask:
    return Ask("http", method, path.encode(), origin, host)


def handshake(path: str, origin: str | None = APP) -> Ask:
    return Ask("websocket", "GET", path.encode(), origin, "gw.example.com")


def outcome(ask: Ask, who: Identification, site: Snapshot = SITE) -> str:
    """The code of a refusal, or the user's id; ``-`` for nobody."""
    decision = decide(ask, site, who)
    if isinstance(decision, Denied):
        return decision.refusal.code
    return decision.identity.user_id if decision.identity else "-"


HEADER = known("header", "user")
COOKIE = known("cookie", "user")


@pytest.mark.parametrize(
    ("ask", "who", "expected"),
    [
        pytest.param(http("/api/x"), HEADER, "7", id="a token in the header"),
        pytest.param(http("/api/x"), COOKIE, "7", id="a token in the cookie"),
        pytest.param(http("/api/x"), known("query"), "7", id="a token in the query"),
        pytest.param(http("/api/x"), NOBODY, "no_token", id="no token"),
        pytest.param(http("/api/x"), unknown("invalid_token"), "invalid_token", id="a bad token"),
        pytest.param(http("/api/x"), unknown("expired_token"), "expired_token", id="an expired token"),
        pytest.param(http("/api/x"), unknown("revoked_token"), "revoked_token", id="a revoked token"),
        pytest.param(http("/api/x"), unknown("ambiguous_token"), "ambiguous_token", id="two tokens"),
        pytest.param(http("/nowhere"), HEADER, "no_route", id="no route"),
        pytest.param(http("/disabled/x"), HEADER, "no_route", id="a disabled route"),
        pytest.param(http("/get/x", "POST"), HEADER, "no_route", id="no route for the method"),
        pytest.param(http("/ws"), HEADER, "no_route", id="a request on a WebSocket route"),
        pytest.param(handshake("/api/x"), HEADER, "no_route", id="a handshake on an HTTP route"),
        pytest.param(http("/api/../staff/"), HEADER, "bad_path", id="an ambiguous path"),
        pytest.param(http("/off/x"), HEADER, "backend_disabled", id="a disabled backend"),
        pytest.param(http("/gone/x"), HEADER, "backend_disabled", id="a backend that is not there"),
        pytest.param(handshake("/ws"), HEADER, "7", id="a handshake from a listed origin"),
        pytest.param(handshake("/ws"), NOBODY, "no_token", id="a handshake without a token"),
        pytest.param(handshake("/ws"), unknown("invalid_ticket"), "invalid_ticket", id="a handshake with a bad ticket"),
        pytest.param(handshake("/ws", None), known("ticket"), "7", id="a ticket needs no origin here"),
    ],
)
def test_who_gets_in(ask: Ask, who: Identification, expected: str) -> None:
    """Contract, section 4: a protected route takes a good token only, and says what is wrong with another."""
    assert outcome(ask, who) == expected


@pytest.mark.parametrize(
    ("ask", "who", "first"),
    [
        pytest.param(handshake("//nowhere/../x", EVIL), NOBODY, "bad_path", id="path before route"),
        pytest.param(handshake("/nowhere", EVIL), NOBODY, "no_route", id="route before origin"),
        pytest.param(handshake("/ws/off", EVIL), NOBODY, "origin_not_allowed", id="origin before identity"),
        pytest.param(
            handshake("/ws/off", None), unknown("invalid_token"), "invalid_token", id="identity before its cookie"
        ),
        pytest.param(handshake("/ws/off", None), COOKIE, "origin_not_allowed", id="a cookie's origin before role"),
        pytest.param(handshake("/ws/off"), HEADER, "role_required", id="role before backend"),
        pytest.param(handshake("/ws/off"), known("header", "admin"), "backend_disabled", id="backend last"),
    ],
)
def test_what_is_judged_first(ask: Ask, who: Identification, first: str) -> None:
    """Path, route, origin, identity, role, backend: who may not enter learns nothing of what lies behind."""
    assert outcome(ask, who) == first


@pytest.mark.parametrize(
    ("route", "roles", "expected"),
    [
        pytest.param("/staff/", ("admin",), "7", id="one of them"),
        pytest.param("/staff/", ("user", "editor"), "7", id="one of several"),
        pytest.param("/staff/", ("user",), "role_required", id="another"),
        pytest.param("/staff/", (), "role_required", id="none"),
        pytest.param("/staff/", ("Admin",), "role_required", id="roles have a case"),
        pytest.param("/staff/", ("admin,editor",), "role_required", id="a string with a comma is one role"),
        pytest.param("/staff/", ("administrator",), "role_required", id="a longer name"),
        pytest.param("/nobody/", ("admin",), "role_required", id="a route without roles is for nobody"),
        pytest.param("/api/", (), "7", id="authenticated needs none"),
    ],
)
def test_any_of_the_routes_roles_will_do(route: str, roles: tuple[str, ...], expected: str) -> None:
    """Contract, section 4: any role of the token satisfies a route that lists it."""
    assert outcome(http(route), known("header", *roles)) == expected


@pytest.mark.parametrize(
    ("ask", "who", "expected"),
    [
        pytest.param(http("/public/x"), NOBODY, "-", id="no token"),
        pytest.param(http("/public/x"), HEADER, "7", id="a good one is told to the backend"),
        pytest.param(http("/public/x"), unknown("invalid_token"), "-", id="a bad token counts as none"),
        pytest.param(http("/public/x"), unknown("expired_token"), "-", id="an expired token counts as none"),
        pytest.param(http("/public/x"), unknown("ambiguous_token"), "-", id="two tokens count as none"),
        pytest.param(http("/public/x", "POST", EVIL), COOKIE, "-", id="a cross-site cookie counts as none"),
        pytest.param(http("/public/x", "POST", APP), COOKIE, "7", id="a cookie from a listed origin counts"),
        pytest.param(http("/public/x", "POST", EVIL), HEADER, "7", id="a header is never cross-site"),
        pytest.param(handshake("/ws/public", None), COOKIE, "-", id="a cookie without origin counts as none"),
        pytest.param(handshake("/ws/public"), unknown("invalid_ticket"), "-", id="a bad ticket counts as none"),
        pytest.param(
            handshake("/ws/public", EVIL), NOBODY, "origin_not_allowed", id="an unlisted origin never opens a socket"
        ),
    ],
)
def test_a_public_route_takes_everybody(ask: Ask, who: Identification, expected: str) -> None:
    """Contract, section 4: a bad, ambiguous or cross-site token counts as none; a handshake's origin counts always."""
    assert outcome(ask, who) == expected


@pytest.mark.parametrize(
    ("origin", "who", "expected"),
    [
        pytest.param(APP, COOKIE, "7", id="listed, cookie"),
        pytest.param("https://a.b.apps.example.com", COOKIE, "7", id="listed by a wildcard"),
        pytest.param(EVIL, COOKIE, "origin_not_allowed", id="unlisted, cookie"),
        pytest.param(EVIL, HEADER, "origin_not_allowed", id="unlisted, header"),
        pytest.param(EVIL, known("query"), "origin_not_allowed", id="unlisted, query"),
        pytest.param(EVIL, known("subprotocol"), "origin_not_allowed", id="unlisted, subprotocol"),
        pytest.param(EVIL, known("ticket"), "origin_not_allowed", id="unlisted, ticket"),
        pytest.param(
            "https://gw.example.com", COOKIE, "origin_not_allowed", id="the gateway's own host is not the list"
        ),
        pytest.param("https://old.example.com", HEADER, "origin_not_allowed", id="a disabled entry"),
        pytest.param("null", HEADER, "origin_not_allowed", id="null"),
        pytest.param("", HEADER, "origin_not_allowed", id="sent, but empty"),
        pytest.param(f"{APP}, {APP}", HEADER, "origin_not_allowed", id="sent twice"),
        pytest.param(None, COOKIE, "origin_not_allowed", id="missing, cookie"),
        pytest.param(None, HEADER, "7", id="missing, header"),
        pytest.param(None, known("query"), "7", id="missing, query"),
        pytest.param(None, known("subprotocol"), "7", id="missing, subprotocol"),
    ],
)
def test_the_origin_of_a_handshake(origin: str | None, who: Identification, expected: str) -> None:
    """Contract, section 4: one that is sent must be listed; only browsers send cookies, and they send Origin too."""
    assert outcome(handshake("/ws", origin), who) == expected


@pytest.mark.parametrize(
    ("method", "origin", "who", "expected"),
    [
        *(pytest.param(m, EVIL, COOKIE, "7", id=f"{m} is safe") for m in ("GET", "HEAD", "OPTIONS")),
        *(
            pytest.param(m, EVIL, COOKIE, "origin_not_allowed", id=f"{m} is unsafe")
            for m in ("POST", "PUT", "PATCH", "DELETE", "PURGE", "get")
        ),
        pytest.param("POST", None, COOKIE, "7", id="no Origin: no browser's cross-site request"),
        pytest.param("POST", APP, COOKIE, "7", id="a listed origin"),
        pytest.param("POST", "https://gw.example.com", COOKIE, "7", id="the request's own host"),
        pytest.param("POST", "http://gw.example.com", COOKIE, "7", id="the scheme is not compared"),
        pytest.param("POST", "http://gw.example.com:80", COOKIE, "7", id="its default port"),
        pytest.param("POST", "https://GW.example.com", COOKIE, "7", id="its host in capitals"),
        pytest.param(
            "POST", "https://gw.example.com:8443", COOKIE, "origin_not_allowed", id="another port of the host"
        ),
        pytest.param(
            "POST", "https://gw.example.com.evil.test", COOKIE, "origin_not_allowed", id="a host that continues"
        ),
        pytest.param(
            "POST", "https://evilgw.example.com", COOKIE, "origin_not_allowed", id="a host that begins earlier"
        ),
        pytest.param(
            "POST", "https://gw.example.com@evil.test", COOKIE, "origin_not_allowed", id="the host as a user name"
        ),
        pytest.param("POST", "ftp://gw.example.com", COOKIE, "origin_not_allowed", id="a scheme that is no page's"),
        pytest.param("POST", "null", COOKIE, "origin_not_allowed", id="null"),
        pytest.param("POST", "", COOKIE, "origin_not_allowed", id="an empty Origin"),
        pytest.param("POST", EVIL, HEADER, "7", id="a token in the header"),
        pytest.param("POST", EVIL, known("query"), "7", id="a token in the query"),
        pytest.param("POST", EVIL, NOBODY, "no_token", id="no token at all"),
    ],
)
def test_a_cross_site_request(method: str, origin: str | None, who: Identification, expected: str) -> None:
    """Contract, section 4: an unsafe method with a cookie's token needs a listed origin or the request's own host."""
    assert outcome(http("/api/x", method, origin), who) == expected


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        pytest.param("https://a.test", "a.test", True, id="no ports"),
        pytest.param("https://a.test", "a.test:443", True, id="the host names the default port"),
        pytest.param("http://a.test:8000", "a.test:8000", True, id="the same port"),
        pytest.param("http://a.test:8000", "a.test", False, id="a port on one side"),
        pytest.param("http://a.test", "a.test:8000", False, id="a port on the other"),
        pytest.param("http://[::1]:8000", "[::1]:8000", True, id="IPv6"),
        pytest.param("http://[::1]", "[::1]:80", True, id="IPv6 with its default port"),
        pytest.param("http://a.test", "", False, id="no host"),
        pytest.param("null", "null", False, id="null"),
        pytest.param("a.test", "a.test", False, id="no scheme"),
    ],
)
def test_an_origin_of_the_requests_own_host(origin: str, host: str, same: bool) -> None:
    """TLS may end in front of us, so the scheme says nothing; the port does."""
    assert same_host(origin, host) is same


def test_a_grant_says_where_to_and_for_whom() -> None:
    """The target is the raw path after `upstream_path`; the url's own prefix is added per url."""
    decision = decide(http("/v1/a%20b;x"), SITE, HEADER)
    assert isinstance(decision, Grant)
    assert (decision.route.path, decision.backend.name, decision.target) == ("/v1/", "main", b"/v2/a%20b;x")
    assert decision.identity == HEADER.identity


def test_a_refusal_knows_its_route() -> None:
    """`refuse_with` and the log need it; before there is one, there is none."""
    denied = decide(handshake("/ws", EVIL), SITE, NOBODY)
    assert isinstance(denied, Denied)
    assert denied.route is not None
    assert denied.route.path == "/ws"
    assert decide(http("/nowhere"), SITE, NOBODY).route is None


def details(*decisions: Grant | Denied) -> Iterable[str]:
    for decision in decisions:
        assert isinstance(decision, Denied)
        yield decision.refusal.detail


def test_a_refusal_says_what_was_compared_with_what() -> None:
    """Contract, section 4: the log line names both sides."""
    origin, empty, role, cookie, route, backend_off = details(
        decide(handshake("/ws", "https://app.exampel.com"), SITE, HEADER),
        decide(handshake("/ws", EVIL), Snapshot.build([], SITE.routes, []), HEADER),
        decide(http("/staff/"), SITE, HEADER),
        decide(handshake("/ws", None), SITE, COOKIE),
        decide(http("/nowhere", "POST"), SITE, HEADER),
        decide(http("/off/"), SITE, HEADER),
    )
    assert origin == "origin https://app.exampel.com is not on the list; nearest: https://app.example.com"
    assert empty == "origin https://evil.test is not on the list; it is empty"
    assert role == "the token's role is user; /staff/ requires admin or editor"
    assert cookie == "the token came from a cookie, and there is no Origin"
    assert route == "no http route matches POST '/nowhere'"
    assert backend_off == "backend off is disabled"


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        pytest.param(
            http("/ws/public"),
            f"the websocket route /ws/public does, but this came without Upgrade: {UPGRADE_LOST}",
            id="a GET",
        ),
        pytest.param(http("/ws", "POST"), "", id="no handshake is a POST"),
        pytest.param(handshake("/get/x"), "the http route /get/ does, but it accepts no handshakes", id="a handshake"),
        pytest.param(handshake("/disabled/x"), "", id="a disabled route"),
    ],
)
def test_a_path_of_the_other_kind_is_said(ask: Ask, said: str) -> None:
    """A proxy that does not pass Upgrade on turns a handshake into a GET; only the log can tell."""
    (detail,) = details(decide(ask, SITE, NOBODY))
    assert detail.partition("; ")[2] == said


def test_what_a_stranger_wrote_is_shown_in_part() -> None:
    """An Origin of 60 KB neither fills the log nor is compared at length with a long list."""
    many = Snapshot.build([], SITE.routes, [Origin(f"https://app{n}.example.com") for n in range(5000)])
    (detail,) = details(decide(handshake("/ws", "https://app" + "x" * 60_000), many, HEADER))
    assert len(detail) < 400
    (detail,) = details(decide(http("/nowhere", "X" * 60_000), SITE, HEADER))
    assert len(detail) < 400


def test_no_refusal_shows_a_token() -> None:
    """Details go to the log; the identification knows tokens, and they stay there."""
    who = unknown(
        "invalid_token", Presented("header", "TOKEN-7f3a", None, "invalid_token", "the signature matches no key")
    )
    for ask in (http("/api/x"), handshake("/ws", EVIL), http("/nowhere"), http("/staff/"), handshake("/ws", None)):
        decision = decide(ask, SITE, who)
        assert "TOKEN-7f3a" not in repr(decision)


def test_every_decision_is_a_grant_or_a_known_code() -> None:
    """All kinds of asking with all kinds of identification: nothing falls through, and nobody gets in unidentified."""
    people = [
        HEADER,
        COOKIE,
        known("ticket", "admin"),
        NOBODY,
        *(unknown(c) for c in ("invalid_token", "ambiguous_token")),
    ]
    for path in ("/public/x", "/api/x", "/staff/x", "/off/x", "/ws", "/ws/public", "/ws/staff", "/nowhere", "/a/../b"):
        for origin in (None, APP, EVIL, "null"):
            for who in people:
                for ask in (http(path, "POST", origin), http(path, "GET", origin), handshake(path, origin)):
                    decision = decide(ask, SITE, who)
                    if isinstance(decision, Denied):
                        assert decision.refusal.code in KINDS
                    else:
                        assert decision.identity is not None or decision.route.access == "public"
                        assert decision.backend.enabled


def test_cross_site_says_nothing_about_other_places() -> None:
    """It judges cookies only: whoever knows the token itself is no page that merely makes a browser send it."""
    for place in ("header", "query", "subprotocol", "ticket"):
        assert cross_site(http("/api/x", "POST", EVIL), SITE, known(place)) is None  # type: ignore[arg-type]
