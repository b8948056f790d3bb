"""What crosses from one side to the other: `relay.forwarding`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import forwarding
from relay.access import Grant
from relay.entry import Arrival
from relay.forwarding import Forwarding
from relay.identity.model import NOBODY, Identification, Identity, Place, Presented
from relay.identity.places import Places
from relay.routing.snapshot import Backend, Route, Url
from relay.typing import RawHeaders

ANN = Identity("7", "ann@example.com", "admin,editor", ("admin", "editor"), 2e9, None, "", "ab" * 32)
TOKEN = "eyJ.good.token"
STALE = "eyJ.stale.token"

DIRECT = Arrival("req-1", "203.0.113.7", "203.0.113.7", False, "http", "gw.example.com", 80, 0.0)
PROXIED = Arrival("req-1", "203.0.113.7", "10.0.0.1", True, "https", "gw.example.com:8443", 8443, 0.0)
SET_BY_US = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-request-id"}
IDENTITY = {"x-user-id", "x-user-email", "x-user-role"}


def fields(*lines: str) -> RawHeaders:
    """Fields as ASGI gives them: ``Name: value`` with the name in lowercase, the value as Latin-1."""
    pairs = (line.partition(": ") for line in lines)
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, _, value in pairs]


def lines(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    return [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in headers]


def scope(*headers: str, kind: str = "http", query: bytes = b"") -> dict[str, Any]:
    return {"type": kind, "headers": fields(*headers), "query_string": query}


def grant(access: Any = "authenticated", who: Identity | None = ANN, kind: Any = "http", **backend: Any) -> Grant:
    urls = (Url.parse("http://10.0.0.9:9000/base"),)
    return Grant(Route("/x/", kind, "main", access=access), Backend("main", urls, **backend), who, b"/x/y")


def came(place: Place, value: str = TOKEN, *others: Presented) -> Identification:
    return Identification(ANN, place, presented=(Presented("header", value, ANN), *others))


PUBLIC = grant("public", None)
PROTECTED = grant()
ALICE = came("header")


def crossing(
    *headers: str,
    kind: str = "http",
    to: Grant = PROTECTED,
    who: Identification = ALICE,
    arrival: Arrival = DIRECT,
    rules: Forwarding | None = None,
) -> list[str]:
    """What of the client's fields crosses: without those that the gateway adds behind them."""
    sent = lines((rules or Forwarding()).request_headers(scope(*headers, kind=kind), arrival, to, who))
    ours = len(forwarding.forwarded(fields(*headers), arrival)) + (3 if to.identity else 0)
    return sent[: len(sent) - ours]


def added(*headers: str, to: Grant = PROTECTED, arrival: Arrival = DIRECT, kind: str = "http") -> dict[str, str]:
    """The gateway's own fields as the backend sees them; each of them once."""
    sent = lines(Forwarding().request_headers(scope(*headers, kind=kind), arrival, to, ALICE))
    pairs = [tuple(line.split(": ", 1)) for line in sent if line.split(": ")[0] in SET_BY_US | IDENTITY]
    assert len(pairs) == len({name for name, _ in pairs}), pairs
    return dict(pairs)


# Identity


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("to", [pytest.param(PROTECTED, id="protected"), pytest.param(PUBLIC, id="public")])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("X-User-ID", id="the name itself"),
        pytest.param("x-user-id", id="in lowercase"),
        pytest.param("X_User_ID", id="underscores"),
        pytest.param("X-User_ID", id="one underscore"),
        pytest.param("x.user.id", id="dots"),
        pytest.param("x user id", id="blanks"),
        pytest.param("x-user~id", id="a tilde"),
        pytest.param("x-user-id.", id="a dot behind"),
        pytest.param("x-user-id_", id="an underscore behind"),
        pytest.param("x-user-id ", id="a blank behind, as before the colon"),
        pytest.param("_x-user-id", id="an underscore in front"),
        pytest.param("x-user\xadid", id="non-ASCII"),
        pytest.param("X-User-Email", id="email"),
        pytest.param("X_USER_EMAIL", id="email, underscores"),
        pytest.param("X-User-Role", id="role"),
        pytest.param("x!user!role", id="role, exclamation marks"),
    ],
)
def test_no_client_can_say_who_it_is(kind: str, to: Grant, name: str) -> None:
    """Contract, section 5: any spelling of the identity's names is gone, on every route, HTTP and WebSocket."""
    assert crossing(f"{name}: 1", "accept: */*", kind=kind, to=to) == ["accept: */*"]


@pytest.mark.parametrize(
    "name", ["x-user", "x-userid", "x-user-id-2", "x-user-ids", "user-id", "x-x-user-id", "x-user-name", "x-user--id"]
)
def test_other_names_are_the_clients_own(name: str) -> None:
    """Only what a backend could take for the identity is removed."""
    assert crossing(f"{name}: 1") == [f"{name}: 1"]


def test_the_identity_comes_from_the_token() -> None:
    """All three, or none of them."""
    assert {k: v for k, v in added().items() if k in IDENTITY} == {
        "x-user-id": "7",
        "x-user-email": "ann@example.com",
        "x-user-role": "admin,editor",
    }
    assert IDENTITY.isdisjoint(added(to=PUBLIC))


def test_a_missing_email_or_role_is_an_empty_field() -> None:
    """Contract, section 2."""
    bare = Identity("7", "", "", (), 2e9, None, "", "ab" * 32)
    assert {"x-user-email": "", "x-user-role": ""}.items() <= added(to=grant(who=bare)).items()


def test_claims_outside_ascii_go_as_utf_8() -> None:
    """Contract, section 5."""
    ann = Identity("ä-7", "zoë@example.com", "größe", ("größe",), 2e9, None, "", "ab" * 32)
    sent = Forwarding().request_headers(scope(), DIRECT, grant(who=ann), ALICE)
    assert sent[-3:] == [
        (b"x-user-id", "ä-7".encode()),
        (b"x-user-email", "zoë@example.com".encode()),
        (b"x-user-role", "größe".encode()),
    ]


@pytest.mark.parametrize(
    "connection",
    ["X-User-ID", "x-user-id, X-User-Email, X-User-Role", "close, x-request-id, x-forwarded-for", "x_user_id"],
)
def test_connection_can_not_remove_what_the_gateway_sets(connection: str) -> None:
    """Contract, section 5: the fields that `Connection` names go before the identity is added."""
    assert added(f"Connection: {connection}").keys() == SET_BY_US | IDENTITY


@given(st.binary(min_size=1, max_size=14), st.sampled_from([DIRECT, PROXIED]))
def test_no_field_name_whatever_becomes_an_identity(name: bytes, arrival: Arrival) -> None:
    """As a WSGI server sees it: signs become underscores, letters uppercase."""
    headers = [(name.lower(), b"forged"), (b"x-user" + name.lower() + b"id", b"forged")]
    sent = Forwarding().request_headers({"type": "http", "headers": headers}, arrival, PUBLIC, NOBODY)
    seen = {name.decode("latin-1").upper().replace("-", "_") for name, value in sent if value == b"forged"}
    assert seen.isdisjoint({"X_USER_ID", "X_USER_EMAIL", "X_USER_ROLE", "X_FORWARDED_FOR", "X_REQUEST_ID"})


# End to end, or not


@pytest.mark.parametrize(
    ("sent", "crosses"),
    [
        pytest.param(["TE: trailers"], [], id="TE"),
        pytest.param(["Transfer-Encoding: chunked"], [], id="Transfer-Encoding: the client of the backend frames anew"),
        pytest.param(["Content-Length: 5"], [], id="Content-Length: likewise"),
        pytest.param(["Host: gw.example.com"], [], id="Host: likewise"),
        pytest.param(["Keep-Alive: timeout=5"], [], id="Keep-Alive"),
        pytest.param(["Proxy-Connection: keep-alive"], [], id="Proxy-Connection"),
        pytest.param(["Proxy-Authorization: Basic x"], [], id="Proxy-Authorization"),
        pytest.param(["Proxy-Authenticate: Basic"], [], id="Proxy-Authenticate"),
        pytest.param(["Trailer: Expires"], [], id="Trailer"),
        pytest.param(["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: x"], [], id="h2c"),
        pytest.param(["Upgrade: websocket"], [], id="Upgrade"),
        pytest.param(["Connection: close"], [], id="Connection"),
        pytest.param(["Connection: X-Hop", "X-Hop: 1"], [], id="named by Connection"),
        pytest.param(["X-Hop: 1", "Connection: close,\t x-hop ,"], [], id="named by Connection, untidily"),
        pytest.param(["Connection: a", "Connection: b", "A: 1", "B: 2", "C: 3"], ["c: 3"], id="on several lines"),
        pytest.param(["Connection: cookie", "Cookie: a=1"], [], id="a field of ours named by Connection"),
        pytest.param(["Connection: ", "A: 1"], ["a: 1"], id="an empty Connection names nothing"),
        pytest.param(['Connection: "x-hop", *', "X-Hop: 1"], ["x-hop: 1"], id="odd names in Connection match nothing"),
        pytest.param(["Transfer_Encoding: chunked", "Content_Length: 9"], [], id="framing in another spelling"),
        pytest.param(["Cookie_: a=1", "authorization.: Basic x"], [], id="what is judged, in another spelling"),
        pytest.param(["Sec_WebSocket_Protocol: bearer.x"], [], id="the handshake's in another spelling"),
        pytest.param(["x\x00y: 1", "a:b: 1", "\xe4: 1"], [], id="what is no field name"),
        pytest.param(["X: 1", "Y: 2", "X: 3"], ["x: 1", "y: 2", "x: 3"], id="order and repeats stay"),
        pytest.param(["X_Custom: 1", "x.y: 2"], ["x_custom: 1", "x.y: 2"], id="other names with other signs pass"),
        pytest.param(["A: \xff\xfe  b\t"], ["a: \xff\xfe  b\t"], id="values byte for byte"),
        pytest.param(["A: "], ["a: "], id="empty values"),
        pytest.param(
            ["traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate: a=1", "baggage: b=2"],
            ["traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate: a=1", "baggage: b=2"],
            id="traceparent",
        ),
        pytest.param(
            ["Origin: https://a.test", "Range: bytes=0-", "If-None-Match: x", "Expect: 100-continue"],
            ["origin: https://a.test", "range: bytes=0-", "if-none-match: x", "expect: 100-continue"],
            id="everything else",
        ),
        pytest.param([], [], id="nothing is invented"),
    ],
)
def test_only_end_to_end_fields_cross(sent: list[str], crosses: list[str]) -> None:
    """Contract, section 5; RFC 9110 §7.6.1."""
    assert crossing(*sent) == crosses


def test_a_handshake_is_written_anew() -> None:
    """Its own fields are between two neighbours; a subprotocol list may hold a token."""
    handshake = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Origin: https://a.test",
        "Sec-WebSocket-Key: x",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: chat, bearer.x",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "User-Agent: me",
    ]
    assert crossing(*handshake, kind="websocket") == ["user-agent: me"]


@pytest.mark.parametrize(
    ("sent", "crosses"),
    [
        pytest.param("chat, v2", ["sec-websocket-protocol: chat, v2"], id="none: untouched"),
        pytest.param(f"chat, bearer.{TOKEN}, v2", ["sec-websocket-protocol: chat, v2"], id="one of several"),
        pytest.param(f"Bearer.{TOKEN}", [], id="nothing else"),
    ],
)
def test_a_request_with_a_handshakes_field_carries_no_token_either(sent: str, crosses: list[str]) -> None:
    """Contract, section 4: a `bearer.` entry is never forwarded; a request may hold the field without an upgrade."""
    for to in (PROTECTED, PUBLIC, grant(forward_token=True)):
        assert crossing(f"Sec-WebSocket-Protocol: {sent}", to=to) == crosses


# Tokens


@pytest.mark.parametrize(
    ("sent", "crosses"),
    [
        pytest.param(["Authorization: Bearer x"], [], id="a Bearer field, valid or not"),
        pytest.param(["Authorization: bEARER x"], [], id="in any case"),
        pytest.param(["Authorization: Bearer\tx"], [], id="a tab behind the scheme"),
        pytest.param(["Authorization:   Bearer   x "], [], id="white space around"),
        pytest.param(["Authorization: Bearer"], [], id="without a token"),
        pytest.param(["Authorization: Bearer x", "Authorization: Bearer y"], [], id="two of them"),
        pytest.param(["Authorization: Basic x"], ["authorization: Basic x"], id="another scheme passes"),
        pytest.param(["Authorization: Bearerx y"], ["authorization: Bearerx y"], id="a scheme that begins like it"),
        pytest.param(["Cookie: auth_token=x"], [], id="the only cookie"),
        pytest.param(["Cookie: auth_token=x; a=1"], ["cookie: a=1"], id="the first cookie"),
        pytest.param(["Cookie: a=1; auth_token=x"], ["cookie: a=1"], id="the last cookie"),
        pytest.param(["Cookie: a=1; auth_token=x; b=2"], ["cookie: a=1; b=2"], id="between other cookies"),
        pytest.param(["Cookie: auth_token=x; a=1; auth_token=y"], ["cookie: a=1"], id="twice in one field"),
        pytest.param(["Cookie: auth_token=x", "Cookie: a=1", "Cookie: auth_token=y"], ["cookie: a=1"], id="on lines"),
        pytest.param(['Cookie: auth_token="x"; a="1"'], ['cookie: a="1"'], id="in quotes"),
        pytest.param(["Cookie: auth_token = x ;a=1"], ["cookie: a=1"], id="white space in the pair"),
        pytest.param(["Cookie: auth_token; a=1"], ["cookie: a=1"], id="without a value"),
        pytest.param(["Cookie:  a=1;b = 2 ; c=x=y;"], ["cookie:  a=1;b = 2 ; c=x=y;"], id="others byte for byte"),
        pytest.param(["Cookie: my_auth_token=x"], ["cookie: my_auth_token=x"], id="a name that ends like it"),
        pytest.param(["Cookie: auth_tokens=x; a=auth_token"], ["cookie: auth_tokens=x; a=auth_token"], id="and begins"),
        pytest.param(["Cookie: Auth_Token=x"], ["cookie: Auth_Token=x"], id="cookie names have a case"),
    ],
)
def test_no_token_reaches_the_backend_of_a_protected_route(sent: list[str], crosses: list[str]) -> None:
    """Contract, section 5: what stands in a token's place goes even where it is not valid; the rest stays."""
    assert crossing(*sent) == crosses
    assert crossing(*sent, kind="websocket", to=grant(kind="websocket")) == crosses


@pytest.mark.parametrize(
    ("sent", "crosses"),
    [
        pytest.param(f"token={TOKEN}", "", id="alone"),
        pytest.param("token=x&a=1", "a=1", id="first"),
        pytest.param("a=1&token=x", "a=1", id="last"),
        pytest.param("a=1&token=x&b=2", "a=1&b=2", id="between others"),
        pytest.param("token=x&a=1&token=y", "a=1", id="twice"),
        pytest.param("%74oken=x&a=1", "a=1", id="the name encoded"),
        pytest.param("tok%65n=%78", "", id="name and value encoded"),
        pytest.param("token&token=", "", id="without a value"),
        pytest.param("token=a=b", "", id="an equals sign in the value"),
        pytest.param("a=%20+%2B&b=;c&&d", "a=%20+%2B&b=;c&&d", id="the rest byte for byte"),
        pytest.param("a=1&&token=x&&b", "a=1&&&b", id="empty pairs stay"),
        pytest.param("Token=x&mytoken=y&tokens=z", "Token=x&mytoken=y&tokens=z", id="other names"),
        pytest.param("a=token=x", "a=token=x", id="inside another value"),
        pytest.param("token%20=x&+token=y&token%00=z", "token%20=x&+token=y&token%00=z", id="names with more in them"),
        pytest.param("a=%zz&%=1", "a=%zz&%=1", id="broken escapes"),
        pytest.param("ticket=x", "ticket=x", id="a ticket is none without a handshake"),
        pytest.param("", "", id="empty"),
    ],
)
def test_no_token_stays_in_the_query(sent: str, crosses: str) -> None:
    """Contract, section 5: the parameter goes, the rest stays byte for byte."""
    assert Forwarding().query(scope(query=sent.encode()), PROTECTED, ALICE) == (crosses.encode() or None)


@pytest.mark.parametrize(
    ("sent", "crosses"),
    [
        pytest.param(f"Authorization: Bearer {TOKEN}", [], id="the valid token goes"),
        pytest.param(
            "Authorization: Bearer theirs", ["authorization: Bearer theirs"], id="a token of the backend's own"
        ),
        pytest.param(f"Authorization: Bearer {STALE}", [f"authorization: Bearer {STALE}"], id="one that is not valid"),
        pytest.param("Authorization: Basic x", ["authorization: Basic x"], id="another scheme"),
        pytest.param(f"Cookie: auth_token={TOKEN}; a=1", ["cookie: a=1"], id="a copy in the cookie goes"),
        pytest.param(f'Cookie: a=1; auth_token="{TOKEN}"', ["cookie: a=1"], id="a copy in quotes goes"),
        pytest.param("Cookie: auth_token=eyJ%2Egood.token", [], id="an encoded copy goes"),
        pytest.param("Cookie: auth_token=theirs; a=1", ["cookie: auth_token=theirs; a=1"], id="a cookie of its own"),
    ],
)
def test_a_public_route_keeps_what_is_no_valid_token(sent: str, crosses: list[str]) -> None:
    """Contract, sections 4 and 5: only a valid token of ours goes, in every place where a copy of it stands."""
    who = came("header", TOKEN, Presented("cookie", STALE, None, "expired_token"))
    assert crossing(sent, to=grant("public"), who=who) == crosses


def test_a_public_route_loses_a_token_that_counts_as_none() -> None:
    """Ambiguous or cross-site, both are valid tokens, and no backend gets them."""
    other = Presented("cookie", "eyJ.other.token", ANN)
    two = Identification(None, code="ambiguous_token", presented=(Presented("header", TOKEN, ANN), other))
    sent = [f"Authorization: Bearer {TOKEN}", "Cookie: auth_token=eyJ.other.token; a=1"]
    assert crossing(*sent, to=PUBLIC, who=two) == ["cookie: a=1"]
    cross_site = Identification(ANN, "cookie", presented=(Presented("cookie", TOKEN, ANN),))
    assert crossing(f"Cookie: auth_token={TOKEN}", to=PUBLIC, who=cross_site) == []


@pytest.mark.parametrize(
    ("sent", "crosses"),
    [
        pytest.param(f"token={TOKEN}&a=1", "a=1", id="the valid token goes"),
        pytest.param("token=eyJ%2Egood%2Etoken&a=1", "a=1", id="an encoded copy goes"),
        pytest.param("token=reset-my-password", "token=reset-my-password", id="a parameter of the backend's own"),
        pytest.param(f"token={STALE}", f"token={STALE}", id="one that is not valid"),
    ],
)
def test_a_public_routes_query_keeps_what_is_no_valid_token(sent: str, crosses: str) -> None:
    """Contract, section 4: a bad token counts as none."""
    who = came("header", TOKEN, Presented("query", STALE, None, "expired_token"))
    assert Forwarding().query(scope(query=sent.encode()), PUBLIC, who) == (crosses.encode() or None)


def test_forward_token_leaves_every_copy_where_it_was() -> None:
    """Contract, section 5: all but the subprotocol entry."""
    to = grant(forward_token=True, kind="websocket")
    sent = [f"Authorization: Bearer {TOKEN}", f"Cookie: a=1; auth_token={TOKEN}"]
    offer = f"Sec-WebSocket-Protocol: chat, bearer.{TOKEN}"
    assert crossing(*sent, offer, kind="websocket", to=to) == [
        f"authorization: Bearer {TOKEN}",
        f"cookie: a=1; auth_token={TOKEN}",
    ]
    query = f"token={TOKEN}&a=1".encode()
    assert Forwarding().query(scope(query=query, kind="websocket"), to, ALICE) == query
    assert forwarding.subprotocols(scope(offer, kind="websocket")) == ["chat"]


@pytest.mark.parametrize(
    "to", [pytest.param(PROTECTED, id="as usual"), pytest.param(grant(forward_token=True), id="forward_token")]
)
@pytest.mark.parametrize(
    ("sent", "crosses"),
    [
        pytest.param("ticket=abc&x=1", "x=1", id="first"),
        pytest.param("x=1&%74icket=abc", "x=1", id="the name encoded"),
        pytest.param("ticket=abc&ticket=", "", id="twice"),
        pytest.param("tickets=2&my_ticket=3", "tickets=2&my_ticket=3", id="other names"),
    ],
)
def test_no_ticket_reaches_a_backend(to: Grant, sent: str, crosses: str) -> None:
    """Contract, section 6: the parameter goes before the backend sees the query, used or not, on every route."""
    used = Identification(ANN, "ticket")
    unused = Identification(None, code="invalid_ticket")
    asked = scope(query=sent.encode(), kind="websocket")
    assert Forwarding().query(asked, to, used) == (crosses.encode() or None)
    assert Forwarding().query(asked, PUBLIC, unused) == (crosses.encode() or None)


def test_places_follow_the_settings() -> None:
    """Another name is the token's place then, and an empty one turns the place off."""
    named = Forwarding(cookie="sid", query_param="access_token")
    assert crossing("Cookie: auth_token=x; sid=y", rules=named) == ["cookie: auth_token=x"]
    assert named.query(scope(query=b"token=x&access_token=y"), PROTECTED, ALICE) == b"token=x"
    off = Forwarding(cookie="", query_param="")
    assert crossing("Cookie: auth_token=x; =y", rules=off) == ["cookie: auth_token=x; =y"]
    assert off.query(scope(query=b"token=x&=y&"), PROTECTED, ALICE) == b"token=x&=y&"


COPIES = st.sampled_from(
    [
        "Authorization: Bearer {}",
        "Authorization: bearer \t {} ",
        "Cookie: auth_token={}",
        "Cookie: a=1;auth_token={} ; b=2",
        'Cookie: a=1; auth_token="{}"; auth_token={}',
        "Sec-WebSocket-Protocol: bearer.{}",
        "Sec-WebSocket-Protocol: chat,BEARER.{} , v2",
    ]
)
PAIRS = st.sampled_from(["token={}", "a=1", "%74oken={}", "token=", "b=%26", ""])


@given(st.lists(COPIES, max_size=6), st.lists(PAIRS, max_size=6), st.sampled_from(["http", "websocket"]), st.booleans())
def test_whatever_the_gateway_finds_as_a_token_does_not_cross(
    copies: list[str], pairs: list[str], kind: str, public: bool
) -> None:
    """What was found in a place is out of it afterwards: looking again finds nothing, and the text is nowhere."""
    asked = scope(
        *(c.replace("{}", TOKEN) for c in copies), kind=kind, query="&".join(pairs).replace("{}", TOKEN).encode()
    )
    places, to = Places(), grant("public" if public else "authenticated")
    who = Identification(ANN, "header", presented=tuple(Presented(p, v, ANN) for p, v in places.find(asked)))
    headers, query = Forwarding().request_headers(asked, DIRECT, to, who), Forwarding().query(asked, to, who)
    assert list(places.find({"type": kind, "headers": headers, "query_string": query or b""})) == []
    assert TOKEN.encode() not in (query or b"") + b"".join(value for _, value in headers)


# The way here


@pytest.mark.parametrize(
    ("sent", "chain"),
    [
        pytest.param([], "10.0.0.1", id="nothing before it"),
        pytest.param(["X-Forwarded-For: 203.0.113.7"], "203.0.113.7, 10.0.0.1", id="one"),
        pytest.param(["X-Forwarded-For: 1.1.1.1, 203.0.113.7"], "1.1.1.1, 203.0.113.7, 10.0.0.1", id="several"),
        pytest.param(
            ["X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2"], "1.1.1.1, 2.2.2.2, 10.0.0.1", id="lines"
        ),
        pytest.param(["X-Forwarded-For: "], "10.0.0.1", id="an empty one"),
    ],
)
def test_a_trusted_proxys_chain_is_continued(sent: list[str], chain: str) -> None:
    """Contract, section 5: appended to a trusted proxy's."""
    assert added(*sent, arrival=PROXIED)["x-forwarded-for"] == chain


def test_the_way_here_as_a_trusted_proxy_tells_it() -> None:
    """Scheme, host, port and request id are the arrival's, each once, whatever lines there were."""
    sent = ["X-Forwarded-Proto: gopher", "X-Forwarded-Host: a, b", "X-Forwarded-Port: 1", "X-Request-ID: theirs"]
    assert {k: v for k, v in added(*sent, arrival=PROXIED).items() if k not in IDENTITY} == {
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "gw.example.com:8443",
        "x-forwarded-port": "8443",
        "x-request-id": "req-1",
    }


@pytest.mark.parametrize(
    "field",
    [
        "X-Forwarded-For: 1.1.1.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Port: 1",
        "X-Forwarded-Prefix: /x",
        "X-Forwarded-User: root",
        "X-Forwarded: for=1.1.1.1",
        "X_Forwarded_For: 1.1.1.1",
        "x.forwarded.user: root",
        "Forwarded: for=1.1.1.1",
        "forwarded_: for=1.1.1.1",
        "X-Request-ID: theirs",
        "X_Request_ID: theirs",
    ],
)
def test_a_strangers_forwarding_fields_are_replaced(field: str) -> None:
    """Contract, section 5: an untrusted peer's are removed in any spelling before ours are set."""
    assert crossing(field) == []
    assert {k: v for k, v in added(field).items() if k not in IDENTITY} == {
        "x-forwarded-for": "203.0.113.7",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "gw.example.com",
        "x-forwarded-port": "80",
        "x-request-id": "req-1",
    }


@pytest.mark.parametrize(
    ("field", "passes"),
    [
        ("Forwarded: for=1.1.1.1", True),
        ("X-Forwarded-Prefix: /x", True),
        ("X-Forwarded-User: ann", True),
        ("X_Forwarded_User: root", False),
        ("X-Forwarded_User: root", False),
        ("X_Forwarded_For: 1.1.1.1", False),
        ("X_Request_ID: x", False),
        ("X-User-ID: 1", False),
    ],
)
def test_a_trusted_proxys_other_fields_pass_as_it_spells_them(field: str, passes: bool) -> None:
    """Another spelling is not the proxy's: a client wrote it, and the proxy did not know it for the same."""
    assert crossing(field, arrival=PROXIED) == ([field.lower()] if passes else [])


def test_a_unix_socket_adds_no_address() -> None:
    """There is none; an empty element would be no address either (RFC 7239 §5.2)."""
    socket = Arrival("req-1", "", "", False, "http", "", 80, 0.0)
    assert {k: v for k, v in added(arrival=socket).items() if k not in IDENTITY} == {
        "x-forwarded-proto": "http",
        "x-forwarded-port": "80",
        "x-request-id": "req-1",
    }


# Where to


@pytest.mark.parametrize(
    ("offers", "real"),
    [
        pytest.param(["chat"], ["chat"], id="one"),
        pytest.param(["chat, v2.chat ,v1"], ["chat", "v2.chat", "v1"], id="several"),
        pytest.param(["chat", "v2"], ["chat", "v2"], id="on several lines"),
        pytest.param(["chat, bearer.x"], ["chat"], id="without the token"),
        pytest.param(["bearer.x, chat, bearer.y"], ["chat"], id="without any token"),
        pytest.param(["BEARER.x, Bearer.y"], [], id="in any case"),
        pytest.param(["bearer."], [], id="an empty token"),
        pytest.param(["bearer, bearer-x, mybearer.x"], ["bearer", "bearer-x", "mybearer.x"], id="other names"),
        pytest.param(["", " , ,"], [], id="empty entries"),
    ],
)
def test_only_real_subprotocols_are_offered(offers: list[str], real: list[str]) -> None:
    """Contract, section 4: a `bearer.` entry is neither echoed nor forwarded."""
    asked = scope(*(f"Sec-WebSocket-Protocol: {offer}" for offer in offers), kind="websocket")
    assert forwarding.subprotocols(asked) == real


@pytest.mark.parametrize(
    ("rule", "sent", "seen"),
    [
        pytest.param("omit", ["Origin: https://a.test"], None, id="omit"),
        pytest.param("forward", ["Origin: https://a.test"], b"https://a.test", id="forward"),
        pytest.param("forward", [], None, id="forward, none sent"),
        pytest.param("https://fixed.test", ["Origin: https://a.test"], b"https://fixed.test", id="fixed"),
        pytest.param("https://fixed.test", [], b"https://fixed.test", id="fixed, none sent"),
    ],
)
def test_the_origin_that_the_backend_sees(rule: str, sent: list[str], seen: bytes | None) -> None:
    """Contract, section 3: `omit`, `forward` or a fixed one; the seed's bare 403 came from forwarding it."""
    assert forwarding.websocket_origin(scope(*sent, kind="websocket"), grant(websocket_origin=rule)) == seen


def test_the_host_that_the_backend_sees() -> None:
    """Its own, or with `forward_host` the client's; its own as well where the client named none."""
    url = Url.parse("http://[::1]:9000/base")
    assert forwarding.host(url, PROTECTED, DIRECT) == b"[::1]:9000"
    assert forwarding.host(url, grant(forward_host=True), DIRECT) == b"gw.example.com"
    nameless = Arrival("req-1", "", "", False, "http", "", 80, 0.0)
    assert forwarding.host(url, grant(forward_host=True), nameless) == b"[::1]:9000"


@pytest.mark.parametrize(
    ("url", "path", "query", "target"),
    [
        pytest.param("http://a", b"/x", None, b"/x", id="as it is"),
        pytest.param("http://a", b"/x", b"", b"/x?", id="an empty query"),
        pytest.param("http://a/base/", b"/x", None, b"/base/x", id="below the url's prefix"),
        pytest.param("http://a/base", b"/", None, b"/base/", id="its root"),
        pytest.param("http://a", b"/x", b"a=1&b=%20", b"/x?a=1&b=%20", id="with a query"),
        pytest.param("http://a/base", b"/caf%C3%A9;v=1", b"?", b"/base/caf%C3%A9;v=1??", id="byte for byte"),
    ],
)
def test_the_request_target(url: str, path: bytes, query: bytes | None, target: bytes) -> None:
    """Contract, section 3: the url's prefix, the path, the query."""
    to = Grant(PROTECTED.route, PROTECTED.backend, None, path)
    assert forwarding.target(Url.parse(url), to, query) == target


# The way back


@pytest.mark.parametrize(
    ("sent", "crosses"),
    [
        pytest.param(
            ["Set-Cookie: a=1; Path=/", "Set-Cookie: b=2, c"],
            ["set-cookie: a=1; Path=/", "set-cookie: b=2, c"],
            id="Set-Cookie lines apart",
        ),
        pytest.param(
            ["Access-Control-Allow-Origin: *", "Access-Control-Allow-Credentials: true", "Access-Control-Max-Age: 1"],
            [],
            id="CORS is the gateway's alone",
        ),
        pytest.param(["X-Request-ID: theirs"], [], id="the request id is the gateway's"),
        pytest.param(["Connection: X-Hop, close", "X-Hop: 1", "Keep-Alive: timeout=5"], [], id="hop by hop"),
        pytest.param(
            ["Upgrade: h2c", "Trailer: X", "Transfer-Encoding: chunked", "TE: x"], [], id="upgrade and framing"
        ),
        pytest.param(["Proxy-Authenticate: Basic"], [], id="Proxy-Authenticate"),
        pytest.param(
            ["Content-Length: 5", "Content-Encoding: br"], ["content-length: 5", "content-encoding: br"], id="length"
        ),
        pytest.param(["Location: http://10.0.0.9/x"], ["location: http://10.0.0.9/x"], id="Location is not rewritten"),
        pytest.param(["Vary: Accept", "Server: a", "Date: b"], ["vary: Accept", "server: a", "date: b"], id="the rest"),
        pytest.param(["A: \xff ", "A: "], ["a: \xff ", "a: "], id="values byte for byte, repeats apart"),
        pytest.param([], [], id="nothing is invented"),
    ],
)
def test_what_of_the_answer_reaches_the_client(sent: list[str], crosses: list[str]) -> None:
    """Contract, sections 4 and 5."""
    assert lines(forwarding.response_headers(fields(*sent))) == crosses


@given(st.lists(st.tuples(st.binary(max_size=12), st.binary(max_size=20)), max_size=8), st.binary(max_size=30))
def test_any_bytes_cross_or_do_not_without_an_error(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    """Fields and query come from a stranger."""
    named = [(name, value) for name, value in headers] + [
        (n, v) for n in (b"cookie", b"authorization") for _, v in headers
    ]
    asked = {"type": "websocket", "headers": named, "query_string": query}
    for to in (PROTECTED, PUBLIC):
        Forwarding().request_headers(asked, PROXIED, to, ALICE)
        Forwarding().query(asked, to, ALICE)
    forwarding.response_headers(named)
