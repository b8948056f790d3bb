"""Requests that two programs could read differently, or that want too much: refused, and the connection closed."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.refusals import Refused
from relay.server.body import ChunkedBody
from relay.server.head import HeadReader
from relay.server.limits import Limits
from tests.server_helpers import (
    GET,
    POST,
    QUICK,
    Client,
    Recorder,
    echo,
    serving,
    until,
)

if TYPE_CHECKING:
    from tests.conftest import Events

HOST = b"Host: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def get(line: bytes = b"GET / HTTP/1.1\r\n", fields: bytes = HOST, end: bytes = b"\r\n") -> bytes:
    return line + fields + end


def post(fields: bytes) -> bytes:
    """With a body that one reading would take for a second request."""
    return POST + fields + b"\r\n\r\n" + b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


AMBIGUOUS = [
    pytest.param(post(b"Content-Length: 5\r\nTransfer-Encoding: chunked"), id="CL with TE"),
    pytest.param(post(b"Transfer-Encoding: chunked\r\nContent-Length: 5"), id="TE with CL"),
    pytest.param(post(b"Content-Length: 5\r\nContent-Length: 6"), id="differing CLs"),
    pytest.param(post(b"Content-Length: 5\r\nContent-Length: 5"), id="equal CLs"),
    pytest.param(post(b"Content-Length: 5, 5"), id="a list of CLs"),
    pytest.param(post(b"Content-Length: +5"), id="CL with a sign"),
    pytest.param(post(b"Content-Length: -5"), id="a negative CL"),
    pytest.param(post(b"Content-Length: 0x5"), id="CL in hex"),
    pytest.param(post(b"Content-Length: 5 6"), id="CL with a space inside"),
    pytest.param(post(b"Content-Length:"), id="an empty CL"),
    pytest.param(post(b"Content-Length: 9999999999999999999"), id="a CL over 18 digits"),
    pytest.param(post(b"Content-Length : 5"), id="a space before the colon"),
    pytest.param(post(b"Transfer-Encoding : chunked"), id="a space before the colon of TE"),
    pytest.param(post(b"Transfer-Encoding: gzip, chunked"), id="a coding before chunked"),
    pytest.param(post(b"Transfer-Encoding: chunked, identity"), id="a coding behind chunked"),
    pytest.param(post(b"Transfer-Encoding: chunked, chunked"), id="chunked twice"),
    pytest.param(post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), id="two TEs"),
    pytest.param(post(b"Transfer-Encoding: identity"), id="TE identity"),
    pytest.param(post(b"Transfer-Encoding: xchunked"), id="TE xchunked"),
    pytest.param(post(b"Transfer-Encoding:"), id="an empty TE"),
    pytest.param(post(b"Transfer-Encoding: \x0bchunked"), id="TE behind a vertical tab"),
    pytest.param(post(b'Transfer-Encoding: "chunked"'), id="TE in quotes"),
    pytest.param(post(b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0", 1), id="TE in HTTP/1.0"),
    pytest.param(post(b"X: y\r\n Transfer-Encoding: chunked"), id="obs-fold"),
    pytest.param(post(b"X: y\r\n\tz"), id="obs-fold by a tab"),
    pytest.param(post(b"X: y\nTransfer-Encoding: chunked"), id="a bare LF in a value"),
    pytest.param(post(b"X: y\rTransfer-Encoding: chunked"), id="a bare CR in a value"),
    pytest.param(post(b"X: y\0z"), id="NUL in a value"),
    pytest.param(post(b"X: y\x01z"), id="a control character in a value"),
    pytest.param(post(b"X y: z"), id="a space in a name"),
    pytest.param(post(b"X\xc3: z"), id="a name that is not ASCII"),
    pytest.param(post(b": z"), id="no name"),
    pytest.param(post(b"X"), id="no colon"),
    pytest.param(get(fields=b" X: y\r\n" + HOST), id="a space before the first field"),
    pytest.param(get(fields=b"Host: a\r\nHost: a\r\n"), id="two Hosts"),
    pytest.param(get(fields=b""), id="no Host"),
    pytest.param(get(fields=b"Host: a, b\r\n"), id="a list as Host"),
    pytest.param(get(fields=b"Host: a b\r\n"), id="a space in Host"),
    pytest.param(get(fields=b"Host: a/b\r\n"), id="a path in Host"),
    pytest.param(get(fields=b"Host: u@a\r\n"), id="a user in Host"),
    pytest.param(get(fields=b"Host: a:b\r\n"), id="a port that is no number"),
    pytest.param(get(b"GET / HTTP/2.0\r\n"), id="HTTP/2.0"),
    pytest.param(get(b"GET / HTTP/1.2\r\n"), id="HTTP/1.2"),
    pytest.param(get(b"GET / HTTP/0.9\r\n"), id="HTTP/0.9"),
    pytest.param(get(b"GET /\r\n"), id="no version"),
    pytest.param(get(b"GET / RTSP/1.0\r\n"), id="RTSP"),
    pytest.param(get(b"SOURCE / ICE/1.0\r\n"), id="ICE"),
    pytest.param(get(b"GET / http/1.1\r\n"), id="a version in lower case"),
    pytest.param(get(b"GET  / HTTP/1.1\r\n"), id="two spaces"),
    pytest.param(get(b"GET / HTTP/1.1 \r\n"), id="a space behind the version"),
    pytest.param(get(b"GET\t/ HTTP/1.1\r\n"), id="a tab"),
    pytest.param(get(b"GET /a b HTTP/1.1\r\n"), id="a space in the target"),
    pytest.param(get(b"GET /\x7f HTTP/1.1\r\n"), id="a control character in the target"),
    pytest.param(get(b"GET /\xc3\xa9 HTTP/1.1\r\n"), id="a target that is not ASCII"),
    pytest.param(get(b"GET /#x HTTP/1.1\r\n"), id="a fragment"),
    pytest.param(get(b"GET * HTTP/1.1\r\n"), id="an asterisk for GET"),
    pytest.param(get(b"GET x HTTP/1.1\r\n"), id="a target without a slash"),
    pytest.param(get(b"GET ftp://a/ HTTP/1.1\r\n"), id="a scheme that is not http"),
    pytest.param(get(b"GET http:///x HTTP/1.1\r\n"), id="a URL without a host"),
    pytest.param(get(b"GET http://u:p@a/ HTTP/1.1\r\n"), id="a URL with a user"),
    pytest.param(get(b"get / HTTP/1.1\r\n"), id="a method in lower case"),
    pytest.param(get(b"NONSENSE / HTTP/1.1\r\n"), id="an unknown method"),
    pytest.param(get(b"GET / HTTP/1.1\n"), id="a bare LF behind the request line"),
    pytest.param(get(end=b"\n"), id="a bare LF at the end"),
    pytest.param(b"\r\n\r\n" + GET, id="two empty lines before the request line"),
    pytest.param(b" " + GET, id="a space before the method"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
]


async def assert_refused(client: Client, status: int = 400, code: str = "bad_request") -> None:
    response = await client.response()
    assert (response.status, response.get(b"connection")) == (status, b"close")
    assert response.get(b"content-type") == b"application/json"
    assert response.json["success"] is False
    assert response.json["code"] == code
    assert response.json["request_id"].encode() == response.get(b"x-request-id")
    assert await client.ended() == b""


@pytest.mark.parametrize("request_", AMBIGUOUS)
async def test_ambiguous_requests_are_refused(request_: bytes, events: Events) -> None:
    """RFC 9112 §11.2: the contract's JSON, then the end; nothing behind it is read as a request."""
    application = Recorder()
    async with serving(application) as served, served.client() as client:
        client.send(request_)
        await assert_refused(client)
        assert served.refusals == ["bad_request"]
    assert application.scopes == []
    event = events.one("http.refused")
    assert (event["code"], event["client"], event["status"]) == ("bad_request", "127.0.0.1", 400)
    assert event["detail"]


@pytest.mark.parametrize("request_", AMBIGUOUS)
def test_ambiguous_requests_are_refused_byte_by_byte(request_: bytes) -> None:
    """However they arrive, and no later than at their end."""
    reader = HeadReader(Limits())
    with pytest.raises(Refused):
        next(byte for byte in request_ if reader.feed(bytes((byte,))) >= 0)


@pytest.mark.parametrize("method", [b"TRACE", b"CONNECT"])
@pytest.mark.parametrize("target", [b"/", b"a:443", b"http://a/"])
async def test_methods_that_are_never_served(method: bytes, target: bytes) -> None:
    """The contract, section 4."""
    if method == b"TRACE" and target == b"a:443":
        target = b"*"
    async with serving(echo) as served, served.client() as client:
        client.send(b"%b %b HTTP/1.1\r\nHost: a\r\n\r\n" % (method, target))
        await assert_refused(client, 405, "method_not_allowed")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"x\r\n", id="no number"),
        pytest.param(b"\r\n", id="no size"),
        pytest.param(b"-1\r\n", id="negative"),
        pytest.param(b"+1\r\n", id="a sign"),
        pytest.param(b"0x1\r\n", id="0x"),
        pytest.param(b" 1\r\n", id="a space before"),
        pytest.param(b"1 \r\n", id="a space behind"),
        pytest.param(b"1 ;x\r\n", id="a space before the extension"),
        pytest.param(b"1_0\r\n", id="an underscore"),
        pytest.param(b"1" * 16 + b"\r\n", id="too large"),
        pytest.param(b"1\nx\r\n", id="a bare LF behind the size"),
        pytest.param(b"1\rx\r\n", id="a bare CR behind the size"),
        pytest.param(b"1;a\nb\r\nx\r\n", id="a bare LF in an extension"),
        pytest.param(b"1;\x00\r\nx\r\n", id="NUL in an extension"),
        pytest.param(b"1\r\nxy\r\n", id="more data than announced"),
        pytest.param(b"1\r\nx\n0\r\n\r\n", id="a bare LF behind the data"),
        pytest.param(b"1\r\nx0\r\n\r\n", id="nothing behind the data"),
        pytest.param(b"0\r\nx y: z\r\n\r\n", id="a malformed trailer"),
        pytest.param(b"0\r\n folded\r\n\r\n", id="a folded trailer"),
        pytest.param(b"0\r\nX: y\n\r\n", id="a bare LF in a trailer"),
        pytest.param(b"1;" + b"x" * 20_000 + b"\r\n", id="a huge extension"),
        pytest.param(b"1;" + b"x" * 20_000, id="a huge extension without an end"),
        pytest.param(b"1;xxxxxxx\r\ny\r\n" * 3000, id="many extensions"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 6000, id="many trailers"),
    ],
)
async def test_malformed_chunks_are_refused(body: bytes) -> None:
    """RFC 9112 §7.1; extensions and trailers are bounded together. The application is not left waiting."""
    async with serving(echo) as served, served.client() as client:
        client.send(CHUNKED + body)
        await assert_refused(client)
        await until(lambda: not served.host.applications)


async def test_malformed_chunks_behind_the_response_head_break_it_off() -> None:
    """A status can't be sent twice."""
    ended = asyncio.Event()

    async def application(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(application) as served, served.client() as client:
        client.send(CHUNKED)
        await client.head()
        client.send(b"oops\r\n")
        assert await client.ended() == b""
        await ended.wait()


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET /" + b"x" * 70_000, id="a request line"),
        pytest.param(get(fields=HOST + b"X: " + b"y" * 70_000 + b"\r\n"), id="a field"),
        pytest.param(get(fields=HOST + b"X: %b\r\n" % (b"y" * 1000) * 70), id="fields"),
        pytest.param(get(fields=HOST + b"X:\r\n" * 200), id="more than 200 fields"),
    ],
)
async def test_heads_that_are_too_large(request_: bytes) -> None:
    """`Limits.head_size` and `head_fields`; RFC 6585 §5."""
    async with serving(echo) as served, served.client() as client:
        client.send(request_)
        await assert_refused(client, 431)


async def test_a_large_head_within_the_limits_is_served() -> None:
    """Cookies add up."""
    async with serving(echo) as served:
        fields = HOST + b"X: %b\r\n" % (b"y" * 300) * 199
        assert (await served.ask(get(fields=fields))).status == 200


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"\r\n" + GET, id="an empty line before the request line"),
        pytest.param(get(b"GET / HTTP/1.0\r\n", b""), id="HTTP/1.0 without Host"),
        pytest.param(get(fields=b"Host:\r\n"), id="an empty Host"),
        pytest.param(get(fields=b"Host: [::1]:8000\r\n"), id="an IPv6 Host"),
        pytest.param(get(fields=b"Host: a\r\nConnection: a\r\nConnection: b, keep-alive\r\n"), id="two Connections"),
        pytest.param(get(fields=b"HOST:a\r\nX:\r\n"), id="no white space, no value"),
        pytest.param(POST + b"Content-Length: 00\r\n\r\n", id="CL 00"),
        pytest.param(get(b"PROPFIND / HTTP/1.1\r\n"), id="a registered method"),
        pytest.param(get(fields=HOST + b"Upgrade: websocket\r\n"), id="Upgrade without Connection"),
    ],
)
async def test_what_is_odd_but_clear_is_served(request_: bytes) -> None:
    """Strict where it matters."""
    async with serving(echo) as served, served.client() as client:
        for byte in request_:
            client.send(bytes((byte,)))
        assert (await client.response()).status == 200


async def test_no_value_of_a_field_reaches_the_log(events: Events) -> None:
    """A malformed request may carry a token."""
    async with serving(echo) as served, served.client() as client:
        client.send(b"GET /?token=s3cret HTTP/1.1\r\nHost: s3cret?\r\nAuthorization: Bearer s3cret\r\n\r\n")
        await assert_refused(client)
        client.vanish()
    async with serving(echo) as served, served.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cret\x01\r\n\r\n")
        await assert_refused(client)
    assert "s3cret" not in json.dumps(events.all, default=str)


async def test_a_client_that_sends_on_behind_a_refusal_can_read_it() -> None:
    """A reset on its unread bytes would destroy the answer; after a while it comes all the same."""
    async with serving(echo, linger_time=0.2, **QUICK) as served, served.client() as client:
        client.send(post(b"Content-Length: x") + bytes(10_000_000))
        assert (await client.response()).status == 400
        await until(lambda: not served.host.connections)


# --- the readers by themselves ----------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_no_bytes_make_the_head_reader_fail(data: bytes) -> None:
    """It judges or refuses, whatever comes."""
    for stream in (data, b"GET / HTTP/1.1\r\n" + data, b"GET /" + data + b" HTTP/1.1\r\nHost: a\r\n\r\n"):
        reader = HeadReader(Limits())
        with suppress(Refused):
            reader.feed(stream)


@given(st.data())
def test_a_body_in_chunks_reads_the_same_however_it_is_split(data: st.DataObject) -> None:
    """What comes out is what went in, and what lies behind is left."""
    pieces = data.draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5))
    stream = b"".join(b"%x;e\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nT: 1\r\n\r\nnext"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader, body, at = ChunkedBody(16_384), b"", 0
    for cut in [*cuts, len(stream)]:
        if reader.done:
            break
        body += reader.feed(stream[at:cut])
        at = cut
    assert reader.done
    assert body == b"".join(pieces)
    assert b"next".startswith(reader.rest)
    assert reader.rest + stream[at:] == b"next"
