"""relay.validation: what a field of the configuration may hold, and what the refusal says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import strategies as st

from relay import validation
from relay.routing.pattern import compile_path
from relay.routing.snapshot import Rate, Snapshot, Url


def refusal(rule: Callable[[str], object], text: str) -> str:
    """What the rule says against a text."""
    with pytest.raises(ValidationError) as caught:
        rule(text)
    (sentence,) = caught.value.messages
    return sentence


@pytest.mark.parametrize(
    ("rule", "written", "normal"),
    [
        pytest.param(validation.name, " main-1_B ", "main-1_B", id="a name keeps its case"),
        pytest.param(validation.url, " http://127.0.0.1:9000 ", "http://127.0.0.1:9000", id="a url is trimmed"),
        pytest.param(validation.url, "https://h/prefix/", "https://h/prefix/", id="a url with a path prefix"),
        pytest.param(validation.url, "http://[::1]:9000", "http://[::1]:9000", id="a url with an IPv6 address"),
        pytest.param(validation.url, "http://my_service:80", "http://my_service:80", id="a Compose service's name"),
        pytest.param(validation.urls, "http://a\r\n\r\n http://b \r\n", "http://a\nhttp://b", id="one url a line"),
        pytest.param(validation.route_path, "/", "/", id="everything"),
        pytest.param(validation.route_path, "/api/users/<int:id>", "/api/users/<int:id>", id="a converter"),
        pytest.param(validation.route_path, "/f/<path:rest>", "/f/<path:rest>", id="a placeholder over segments"),
        pytest.param(validation.route_path, "/bücher/", "/bücher/", id="a path as people read it"),
        pytest.param(
            validation.route_path, "/a.b/.well-known/", "/a.b/.well-known/", id="a dot that is no dot segment"
        ),
        pytest.param(validation.upstream_path, "/v1/%C3%BC", "/v1/%C3%BC", id="an upstream path, percent-encoded"),
        pytest.param(validation.health_path, "/up?full=1", "/up?full=1", id="a health path with a query"),
        pytest.param(validation.methods, "post, get,POST,", "GET,POST", id="methods in one order, each once"),
        pytest.param(validation.methods, "m-search", "M-SEARCH", id="a method few know"),
        pytest.param(validation.roles, " b , a,b", "b,a", id="roles keep their order"),
        pytest.param(validation.roles, "Büro Süd", "Büro Süd", id="a role with a blank"),
        pytest.param(validation.origin, "HTTPS://App.Example.com:443", "https://app.example.com", id="a default port"),
        pytest.param(validation.origin, "http://localhost:05173", "http://localhost:5173", id="a port as browsers do"),
        pytest.param(validation.origin, "https://*.Example.com:8443", "https://*.example.com:8443", id="a wildcard"),
        pytest.param(validation.origin, "*", "*", id="any origin"),
        pytest.param(validation.origin, "capacitor://localhost", "capacitor://localhost", id="an app's own scheme"),
        pytest.param(validation.origin, "http://[::1]:3000", "http://[::1]:3000", id="an IPv6 origin"),
        pytest.param(validation.websocket_origin, " Omit", "omit", id="no origin for the backend"),
        pytest.param(validation.websocket_origin, "forward", "forward", id="the client's origin for the backend"),
        pytest.param(validation.websocket_origin, "https://H:443", "https://h", id="a fixed origin for the backend"),
        pytest.param(validation.rate, " 50 / s ; burst=100", "50/s;burst=100", id="a rate without its blanks"),
        pytest.param(validation.one_line, " für alle ", "für alle", id="a note"),
        pytest.param(validation.fingerprint, "AB" * 32, "ab" * 32, id="a fingerprint in lowercase"),
        pytest.param(validation.revoked_id, " 42 ", "42", id="a user's id"),
    ],
)
def test_a_value_is_brought_into_its_normal_form(rule: Callable[[str], str], written: str, normal: str) -> None:
    """What operators write in several ways is kept in one, and that one stays as it is."""
    assert rule(written) == normal
    assert rule(normal) == normal


@pytest.mark.parametrize(
    ("rule", "text", "said"),
    [
        pytest.param(
            validation.name,
            "my backend",
            "'my backend' is not a valid name; use only letters, digits, - and _",
            id="blank",
        ),
        pytest.param(validation.name, "größe", "use only letters", id="a letter outside ASCII"),
        pytest.param(validation.url, "ftp://x", "'ftp://x' must begin with http:// or https://", id="another scheme"),
        pytest.param(validation.url, "127.0.0.1:9000", "must begin with http:// or https://", id="no scheme"),
        pytest.param(validation.url, "ws://x", "must begin with http:// or https://", id="a WebSocket scheme"),
        pytest.param(validation.url, "http://", "has no host", id="no host"),
        pytest.param(validation.url, "http://:9000", "has no host", id="a port only"),
        pytest.param(validation.url, "http://h:0", "port 0", id="port 0"),
        pytest.param(validation.url, "http://h:65536", "is not a valid url", id="a port out of range"),
        pytest.param(validation.url, "http://h:http", "is not a valid url", id="a port that is no number"),
        pytest.param(validation.url, "http://h/?a=1", "query or fragment", id="a query"),
        pytest.param(validation.url, "http://h/#a", "query or fragment", id="a fragment"),
        pytest.param(validation.url, "http://h h", "has a space", id="a space"),
        pytest.param(validation.url, "http://h\\x", "a backslash", id="a backslash"),
        pytest.param(validation.url, "http://bücher.example", "xn--", id="a name outside ASCII"),
        pytest.param(validation.url, "http://h/ü", "non-ASCII", id="a prefix outside ASCII"),
        pytest.param(validation.url, "http://h/a/../b", "a dot segment", id="a prefix with dots"),
        pytest.param(validation.url, "http://h/a//b", "an empty segment", id="a prefix with an empty segment"),
        pytest.param(validation.url, "http://-h", "'-h' is not a valid host name", id="a host that begins with a dash"),
        pytest.param(validation.url, "http://a..b", "is not a valid host name", id="a host with an empty label"),
        pytest.param(validation.url, "http://a%2fb", "is not a valid host name", id="a host with an escape"),
        pytest.param(validation.url, "http://[::g]", "is no", id="a broken IPv6 address"),
        pytest.param(validation.url, "http://[::1%25eth0]", "not a valid IPv6 address", id="a zone id"),
        pytest.param(validation.urls, "http://a\nhttp://a", "'http://a' is listed twice; keep one", id="a url twice"),
        pytest.param(validation.urls, "http://a\nb", "'b' must begin with http://", id="the second of two urls"),
        pytest.param(validation.urls, " \n ", "at least one url", id="lines without a url"),
        pytest.param(validation.route_path, "api/", "'api/' must begin with a slash: '/api/'", id="no slash in front"),
        pytest.param(validation.route_path, "/a?b", "remove the query", id="a query in a path"),
        pytest.param(validation.route_path, "/a#b", "remove the query or fragment", id="a fragment in a path"),
        pytest.param(validation.route_path, "/a//b", "write single slashes", id="an empty segment in a path"),
        pytest.param(validation.route_path, "/a/../b", "a dot segment", id="a dot segment in a path"),
        pytest.param(validation.route_path, "/a/..;x/b", "a dot segment", id="a dot segment with a parameter"),
        pytest.param(validation.route_path, "/a\\b", "a backslash", id="a backslash in a path"),
        pytest.param(validation.route_path, "/a%20b", "paths are compared decoded", id="an escape in a path"),
        pytest.param(validation.route_path, "/a\tb", "a control character", id="a tab in a path"),
        pytest.param(validation.route_path, "/a/\ud800", "a control character", id="a lone surrogate in a path"),
        pytest.param(validation.route_path, "/<int:id", "written <id>", id="an open placeholder"),
        pytest.param(validation.route_path, "/a>b", "written <id>", id="a placeholder that only ends"),
        pytest.param(validation.route_path, "/users/{id}", "written <id>", id="another router's placeholder"),
        pytest.param(validation.route_path, "/api/*", "write '/api/'", id="another router's prefix"),
        pytest.param(
            validation.route_path, "/<integer:id>", "converter 'integer'; known are int,", id="no such converter"
        ),
        pytest.param(
            validation.route_path, "/<int:>", "'int:' must be a valid name", id="a placeholder without a name"
        ),
        pytest.param(
            validation.route_path, "/<int:1d>", "'1d' must be a valid name", id="a placeholder that is no name"
        ),
        pytest.param(validation.route_path, "/<a>/<int:a>", "used once", id="a placeholder's name twice"),
        pytest.param(validation.upstream_path, "v1", "'v1' must begin with a slash: '/v1'", id="upstream: no slash"),
        pytest.param(validation.upstream_path, "/v1?x", "without <…>, query or fragment", id="upstream: a query"),
        pytest.param(validation.upstream_path, "/<int:id>", "only a literal path", id="upstream: a placeholder"),
        pytest.param(validation.upstream_path, "/a//b", "single slashes", id="upstream: an empty segment"),
        pytest.param(validation.upstream_path, "/ü", "percent-encode", id="upstream: outside ASCII"),
        pytest.param(validation.upstream_path, "/a b", "percent-encode", id="upstream: a blank"),
        pytest.param(validation.upstream_path, "/a/%2e%2e", "a dot segment", id="upstream: encoded dots"),
        pytest.param(validation.upstream_path, "/a%2fb", "an encoded slash", id="upstream: an encoded slash"),
        pytest.param(validation.upstream_path, "/a\r\nX: y", "a line break", id="upstream: a header smuggled in"),
        pytest.param(validation.health_path, "up", "'up' must begin with a slash: '/up'", id="health: no slash"),
        pytest.param(validation.health_path, "/up#x", "a fragment", id="health: a fragment"),
        pytest.param(validation.health_path, "/up?a b", "percent-encode", id="health: a blank in the query"),
        pytest.param(
            validation.methods, "GET POST", "'GET POST' is not a method; write for example GET, POST", id="no comma"
        ),
        pytest.param(validation.methods, "GET,CONNECT", "CONNECT is never relayed; remove it", id="CONNECT"),
        pytest.param(validation.methods, "GET, BREW", "BREW is a method that the server does not know", id="BREW"),
        pytest.param(validation.methods, "trace", "TRACE is never relayed", id="TRACE in lowercase"),
        pytest.param(validation.roles, "a\nb", "a line break", id="a role with a line end"),
        pytest.param(validation.origin, "null", "it can't be allowed", id="null"),
        pytest.param(
            validation.origin, "app.example.com", "write for example 'https://app.example.com'", id="no scheme"
        ),
        pytest.param(validation.origin, "https://a.b/", "write 'https://a.b'", id="a slash at the end"),
        pytest.param(validation.origin, "https://a.b/c?d", "write 'https://a.b'", id="a path in an origin"),
        pytest.param(validation.origin, "https://*.a.b/", "write 'https://*.a.b'", id="a wildcard with a path"),
        pytest.param(validation.origin, "wss://a.b:1", "write 'https://a.b:1'", id="a WebSocket's scheme"),
        pytest.param(validation.origin, "ws://a.b", "write 'http://a.b'", id="a plain WebSocket's scheme"),
        pytest.param(validation.origin, "https://*", "'*' alone is any origin", id="a wildcard without a name"),
        pytest.param(validation.origin, "https://a*.b", "can only come first", id="a wildcard within a label"),
        pytest.param(validation.origin, "https://*.*.b", "can only come first", id="two wildcards"),
        pytest.param(validation.origin, "https://a.*.b", "can only come first", id="a wildcard in the middle"),
        pytest.param(validation.origin, "*.example.com", "has no scheme", id="a wildcard without a scheme"),
        pytest.param(validation.origin, "https://a b", "is not a valid origin", id="a blank in an origin"),
        pytest.param(validation.origin, "https://", "is not a valid origin", id="an origin without a host"),
        pytest.param(validation.origin, "https://a.b, https://c.d", "enter them one at a time", id="two origins"),
        pytest.param(validation.origin, "https://a.b http://c.d", "enter them one at a time", id="two with a blank"),
        pytest.param(validation.origin, "a.b,c.d", "enter them one at a time", id="two without a scheme"),
        pytest.param(validation.origin, "https://a:70000", "between 1 and 65535", id="an origin's port out of range"),
        pytest.param(validation.origin, "https://a:0", "between 1 and 65535", id="an origin's port 0"),
        pytest.param(validation.origin, "https://bücher.de", "is not a valid origin", id="an origin outside ASCII"),
        pytest.param(validation.websocket_origin, "none", "omit, forward or an origin", id="an unknown word"),
        pytest.param(
            validation.websocket_origin, "https://*.a.b", "can only come first", id="a wildcard is none to send"
        ),
        pytest.param(
            validation.websocket_origin, "https://a\r\nX: y", "a line break", id="a header smuggled into Origin"
        ),
        pytest.param(validation.rate, "fast", "is not a valid rate; write for example 50/s", id="no rate"),
        pytest.param(validation.rate, "0/s", "at least 1", id="a rate of nothing"),
        pytest.param(validation.rate, "5/d", "is not a valid rate", id="a rate's unknown unit"),
        pytest.param(validation.one_line, "a\u2028b", "a line break", id="a line separator in a note"),
    ],
)
def test_what_can_not_be_used_is_refused_with_the_mend(rule: Callable[[str], str], text: str, said: str) -> None:
    """One plain sentence, on one line, that an operator can act on."""
    sentence = refusal(rule, text)
    assert said in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        pytest.param(validation.url, "http://user:hunter2@h/", id="in a url"),
        pytest.param(validation.url, "http://user:hunter2@h:99999/", id="in a url that is wrong otherwise"),
        pytest.param(validation.url, "ftp://user:hunter2@h", id="in a url of another scheme"),
        pytest.param(validation.origin, "https://user:hunter2@h", id="in an origin"),
        pytest.param(validation.origin, "https://user:hunter2@h/path", id="in an origin with a path"),
        pytest.param(validation.websocket_origin, "https://u:hunter2@h", id="in a fixed origin"),
        pytest.param(validation.origin, "https://u:hunter2@h, https://i", id="in one of two origins"),
        pytest.param(
            validation.fingerprint, "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyIjoxfQ.hunter2", id="a token as a fingerprint"
        ),
        pytest.param(validation.revoked_id, "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyIjoxfQ.hunter2", id="a token as a jti"),
        pytest.param(validation.revoked_id, "hunter2\n.", id="a broken token as a jti"),
    ],
)
def test_a_secret_is_not_repeated(rule: Callable[[str], str], text: str) -> None:
    """A refusal is shown in pages and logs, so it must not hold what should not be there."""
    assert "hunter2" not in refusal(rule, text)


@pytest.mark.parametrize(
    ("rule", "number", "said"),
    [
        pytest.param(validation.size, -1, "-1 is below 0; use 0 for no limit", id="a negative size"),
        pytest.param(validation.count, -1, "-1 is below 0", id="a negative count"),
        pytest.param(validation.count, 2**31, "2147483648 is more than 2147483647", id="a count past 32 bits"),
        pytest.param(validation.seconds, -0.5, "-0.5 is not a time", id="a negative time"),
        pytest.param(validation.seconds, float("nan"), "nan is not a time", id="not a number"),
        pytest.param(validation.seconds, float("inf"), "or 0 for no limit", id="for ever"),
        pytest.param(validation.seconds, 1e9, "more than a year", id="milliseconds by mistake"),
        pytest.param(validation.some_seconds, 0, "0 would fail every connection", id="no time to connect"),
    ],
)
def test_a_number_is_within_its_range(rule: Callable[[float], object], number: float, said: str) -> None:
    """Zero means no limit, so nothing below it makes sense."""
    with pytest.raises(ValidationError, match=said):
        rule(number)


@given(st.text(max_size=40) | st.from_regex(r"\A(https?|ws|ftp)://[\w\[\]:.*@-]{0,20}(/[\w<>:%.-]{0,10}){0,3}\Z"))
def test_a_rule_answers_any_text(text: str) -> None:
    """Whatever is typed, a rule gives a normal form that it keeps and the relay can parse, or refuses in one line."""
    rules: list[tuple[Callable[[str], str], Callable[[str], object]]] = [
        (validation.name, str),
        (validation.url, Url.parse),
        (validation.urls, lambda normal: [Url.parse(line) for line in validation.lines(normal)]),
        (validation.route_path, compile_path),
        (validation.upstream_path, lambda normal: normal.encode("ascii")),
        (validation.health_path, lambda normal: normal.encode("ascii")),
        (validation.methods, lambda normal: normal.encode("ascii")),
        (validation.roles, str),
        (validation.origin, lambda normal: Snapshot().allows(normal)),
        (validation.websocket_origin, lambda normal: normal.encode("ascii")),
        (validation.rate, Rate.parse),
        (validation.one_line, str),
    ]
    for rule, use in rules:
        try:
            normal, said = rule(text), ""
        except ValidationError as exc:
            normal, (said,) = None, exc.messages
        assert "\n" not in said
        if normal is not None:
            assert rule(normal) == normal
            use(normal)
