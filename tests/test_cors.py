"""relay.http.cors, as tables."""

from __future__ import annotations

import pytest

from relay.http import cors
from relay.routing.snapshot import Origin, Snapshot

ALLOWED = "https://app.example.com"
SNAPSHOT = Snapshot.build([], [], [Origin(ALLOWED), Origin("https://*.wild.example")])


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        pytest.param(ALLOWED, True, id="on the list"),
        pytest.param("https://a.b.wild.example", True, id="any depth of subdomain"),
        pytest.param("https://wild.example", False, id="a wildcard is not its own parent"),
        pytest.param("https://evil.example", False, id="not on the list"),
        pytest.param("null", False, id="null never is"),
        pytest.param(f"{ALLOWED}, https://evil.example", False, id="two origins are none"),
        pytest.param(None, False, id="no origin"),
    ],
)
def test_who_may_read_an_answer(origin, allowed):
    """Exactly one Access-Control-Allow-Origin, with that origin; everybody's answer varies."""
    fields = cors.share([(b"content-type", b"text/plain")], origin, SNAPSHOT)
    expected = [(b"content-type", b"text/plain"), (b"vary", b"Origin")]
    if allowed:
        expected += [
            (b"access-control-allow-origin", str(origin).encode()),
            (b"access-control-allow-credentials", b"true"),
        ]
    assert fields == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([], [b"Origin"], id="none yet"),
        pytest.param([b"Accept-Encoding"], [b"Accept-Encoding, Origin"], id="beside others"),
        pytest.param([b"origin, Accept"], [b"origin, Accept"], id="there already, in any case"),
        pytest.param([b"Accept,ORIGIN"], [b"Accept,ORIGIN"], id="there already, at the end"),
        pytest.param([b"*"], [b"*"], id="varies by everything"),
        pytest.param([b"X-Origin"], [b"X-Origin, Origin"], id="a name that only ends like it"),
        pytest.param([b"A", b"B"], [b"A", b"B, Origin"], id="two lines"),
        pytest.param([b"origin", b"B"], [b"origin", b"B"], id="two lines, in the first"),
        pytest.param([b""], [b"Origin"], id="an empty one"),
        pytest.param([b"A, "], [b"A, Origin"], id="a comma too many"),
    ],
)
def test_origin_is_in_vary_once(before, after):
    """RFC 9110 §12.5.5: a cache must not give one origin's answer to another; the backend's own members stay."""
    fields = [(b"x-first", b"1"), *((b"vary", value) for value in before), (b"x-last", b"1")]
    assert [value for name, value in cors.vary_by_origin(fields) if name == b"vary"] == after


def test_the_fields_of_an_answer_are_not_changed_in_place():
    """The list may be a backend's, and logged later."""
    fields = [(b"vary", b"Accept")]
    cors.share(fields, ALLOWED, SNAPSHOT)
    assert fields == [(b"vary", b"Accept")]


ORIGIN_FIELD = (b"origin", ALLOWED.encode())
METHOD_FIELD = (b"access-control-request-method", b"PUT")


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        pytest.param("OPTIONS", [ORIGIN_FIELD, METHOD_FIELD], True, id="a preflight"),
        pytest.param("OPTIONS", [ORIGIN_FIELD], False, id="no method is asked for"),
        pytest.param("OPTIONS", [METHOD_FIELD], False, id="no origin asks"),
        pytest.param("GET", [ORIGIN_FIELD, METHOD_FIELD], False, id="another method"),
    ],
)
def test_what_is_a_preflight(method, fields, expected):
    """Fetch standard, §3.2.2: any other OPTIONS is the backend's."""
    assert cors.is_preflight(method, fields) is expected


def test_a_preflight_gets_what_it_asks_for():
    """Contract, section 4: the method and the headers asked for."""
    asked = [ORIGIN_FIELD, METHOD_FIELD, (b"access-control-request-headers", b"authorization,x-a")]
    assert cors.preflight_fields(asked) == [
        (b"access-control-allow-methods", b"PUT"),
        (b"access-control-max-age", b"600"),
        (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        (b"access-control-allow-headers", b"authorization,x-a"),
    ]


def test_a_preflight_that_asks_for_no_headers_gets_none():
    """A simple PUT."""
    assert b"access-control-allow-headers" not in dict(cors.preflight_fields([ORIGIN_FIELD, METHOD_FIELD]))
