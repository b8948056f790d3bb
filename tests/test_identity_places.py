"""Where tokens are found: `relay.identity.places`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.identity.places import Places, bearer, cookie_value


def scope(*headers, query=b"", kind="http"):
    return {"type": kind, "headers": list(headers), "query_string": query}


def authorization(value):
    return (b"authorization", value)


def cookie(value):
    return (b"cookie", value)


def offer(value):
    return (b"sec-websocket-protocol", value)


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        pytest.param(scope(), [], id="nothing"),
        pytest.param(scope(authorization(b"Bearer abc")), [("header", "abc")], id="Authorization"),
        pytest.param(scope(authorization(b"bEaReR abc")), [("header", "abc")], id="scheme in any case"),
        pytest.param(scope(authorization(b"  Bearer \t abc \t")), [("header", "abc")], id="white space around it"),
        pytest.param(scope(authorization(b"Bearer\tabc")), [("header", "abc")], id="a tab after the scheme"),
        pytest.param(scope(authorization(b"Bearer")), [], id="Bearer without a token"),
        pytest.param(scope(authorization(b"Bearer ")), [], id="Bearer with nothing"),
        pytest.param(scope(authorization(b"")), [], id="an empty Authorization"),
        pytest.param(scope(authorization(b"Basic abc")), [], id="another scheme"),
        pytest.param(scope(authorization(b"Bearerabc")), [], id="a scheme that begins like it"),
        pytest.param(scope(authorization(b"Bearer a b")), [("header", "a b")], id="two words are one bad token"),
        pytest.param(
            scope(authorization(b"Basic x"), authorization(b"Bearer a"), authorization(b"Bearer b")),
            [("header", "a"), ("header", "b")],
            id="every Authorization line",
        ),
        pytest.param(scope((b"proxy-authorization", b"Bearer abc")), [], id="not Proxy-Authorization"),
        pytest.param(scope(cookie(b"auth_token=abc")), [("cookie", "abc")], id="cookie"),
        pytest.param(scope(cookie(b"x=1;auth_token=abc;  y=2")), [("cookie", "abc")], id="among other cookies"),
        pytest.param(scope(cookie(b"auth_token = abc ")), [("cookie", "abc")], id="white space in the pair"),
        pytest.param(scope(cookie(b'auth_token="abc"')), [("cookie", "abc")], id="a quoted value"),
        pytest.param(scope(cookie(rb'auth_token="\141bc"')), [("cookie", "abc")], id="an octal escape"),
        pytest.param(scope(cookie(b"auth_token=%61bc")), [("cookie", "abc")], id="a percent-encoded value"),
        pytest.param(scope(cookie(b"auth_token=a=b")), [("cookie", "a=b")], id="an equals sign in the value"),
        pytest.param(scope(cookie(b"auth_token=")), [], id="a cleared cookie"),
        pytest.param(scope(cookie(b'auth_token=""')), [], id="a cleared and quoted cookie"),
        pytest.param(scope(cookie(b"auth_token")), [], id="a cookie without a value"),
        pytest.param(scope(cookie(b"Auth_Token=abc")), [], id="cookie names have a case"),
        pytest.param(scope(cookie(b"xauth_token=abc; auth_tokenx=abc")), [], id="longer cookie names"),
        pytest.param(scope(cookie(b"x=auth_token=abc")), [], id="inside another cookie's value"),
        pytest.param(
            scope(cookie(b"auth_token=a; auth_token=b"), cookie(b"auth_token=c")),
            [("cookie", "a"), ("cookie", "b"), ("cookie", "c")],
            id="every pair on every line",
        ),
        pytest.param(scope(query=b"token=abc"), [("query", "abc")], id="query"),
        pytest.param(scope(query=b"a=1&token=abc&b=2"), [("query", "abc")], id="among other parameters"),
        pytest.param(scope(query=b"%74oken=%61bc"), [("query", "abc")], id="percent-encoded name and value"),
        pytest.param(scope(query=b"token=a+b"), [("query", "a b")], id="a plus is a space"),
        pytest.param(scope(query=b"token=a%2Bb"), [("query", "a+b")], id="an encoded plus is a plus"),
        pytest.param(scope(query=b"token=a%3Db"), [("query", "a=b")], id="an encoded equals sign"),
        pytest.param(scope(query=b"token=%2561bc"), [("query", "%61bc")], id="decoded once"),
        pytest.param(scope(query=b"token=%zz"), [("query", "%zz")], id="a broken escape stays"),
        pytest.param(scope(query=b"token=&token"), [], id="an empty parameter"),
        pytest.param(scope(query=b"Token=abc&xtoken=abc&token%20=abc"), [], id="other parameter names"),
        pytest.param(scope(query=b"token=a&token=b"), [("query", "a"), ("query", "b")], id="every parameter"),
        pytest.param(scope(offer(b"bearer.abc"), kind="websocket"), [("subprotocol", "abc")], id="subprotocol"),
        pytest.param(
            scope(offer(b"chat, bearer.a"), offer(b" BEARER.b,v2"), kind="websocket"),
            [("subprotocol", "a"), ("subprotocol", "b")],
            id="every entry of every line in any case",
        ),
        pytest.param(scope(offer(b"bearer., bearer, bearerx.a"), kind="websocket"), [], id="entries that are none"),
        pytest.param(scope(offer(b"bearer.abc")), [], id="no subprotocols over HTTP"),
        pytest.param(
            scope(
                offer(b"bearer.d"),
                cookie(b"auth_token=b"),
                authorization(b"Bearer a"),
                query=b"token=c",
                kind="websocket",
            ),
            [("header", "a"), ("cookie", "b"), ("query", "c"), ("subprotocol", "d")],
            id="places in their order, not the fields'",
        ),
    ],
)
def test_every_token_is_found_in_the_order_of_the_places(request_, found):
    """Contract §4: Authorization, cookie, query parameter, subprotocol."""
    assert Places().find(request_) == found


@pytest.mark.parametrize(
    ("places", "found"),
    [
        pytest.param(Places("session", "jwt"), [("cookie", "a"), ("query", "b")], id="renamed"),
        pytest.param(Places("", "jwt"), [("query", "b")], id="no cookie"),
        pytest.param(Places("session", ""), [("cookie", "a")], id="no query parameter"),
        pytest.param(Places("", ""), [], id="neither"),
    ],
)
def test_settings_name_the_places_and_turn_them_off(places, found):
    """Contract §2: JWT_COOKIE and JWT_QUERY_PARAM; empty turns the place off, a nameless cookie is not meant by it."""
    ask = scope(cookie(b"session=a; =x; auth_token=y"), query=b"jwt=b&=x&token=y")
    assert places.find(ask) == found


@given(st.binary(), st.binary(), st.binary(), st.binary())
def test_no_bytes_break_the_search(one, two, three, query):
    """Whatever a client sends is read somehow: an exception would be a 500 for everybody behind that client."""
    ask = scope(authorization(b"Bearer " + one), cookie(b"auth_token=" + two), offer(three), query=b"token=" + query)
    for place, value in Places().find({**ask, "type": "websocket"}):
        assert place in ("header", "cookie", "query", "subprotocol")
        assert value


@given(st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", min_size=1))
def test_a_token_reads_the_same_in_every_place(text):
    """A JWT needs no quoting or encoding anywhere (RFC 7515 §2), so none changes it."""
    token = text.encode()
    ask = scope(
        authorization(b"Bearer " + token),
        cookie(b"auth_token=" + token),
        offer(b"bearer." + token),
        query=b"token=" + token,
        kind="websocket",
    )
    assert [value for _, value in Places().find(ask)] == [text] * 4


def test_readers_tell_another_scheme_from_an_empty_token():
    """None: not ours to judge; empty: ours, with nothing in it."""
    assert bearer(b"Digest x") is None
    assert bearer(b"Bearer") == ""
    assert cookie_value(b' "a b" ') == "a b"
