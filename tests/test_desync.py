"""Request smuggling through the whole gateway: what a raw backend on kept connections is made to read."""

from __future__ import annotations

import asyncio

import pytest

from tests import stack
from tests.stack import bearer

AUTH = f"Authorization: {bearer()['Authorization']}\r\n"
INNER = "GET /api/smuggled HTTP/1.1\r\nHost: a\r\nX-User-ID: 666\r\n\r\n"


def post(*fields: str, body: str = "", target: str = "/api/x", version: str = "1.1") -> bytes:
    """A POST with those field lines as they are, and what follows its head."""
    lines = "".join(line + "\r\n" for line in fields)
    return f"POST {target} HTTP/{version}\r\nHost: a\r\n{AUTH}{lines}\r\n{body}".encode("latin-1")


CHUNKED_INNER = "0\r\n\r\n" + INNER
HOSTILE = [
    pytest.param(post("Content-Length: 5", "Transfer-Encoding: chunked", body=CHUNKED_INNER), id="CL with TE"),
    pytest.param(post("Transfer-Encoding: chunked", "Content-Length: 5", body=CHUNKED_INNER), id="TE with CL"),
    pytest.param(post("Content-Length: 0", f"Content-Length: {len(INNER)}", body=INNER), id="two lengths"),
    pytest.param(post(f"Content-Length: 0, {len(INNER)}", body=INNER), id="a list of lengths"),
    pytest.param(post("Content-Length: +0", body=INNER), id="a signed length"),
    pytest.param(post("Content-Length: 0x0", body=INNER), id="a hexadecimal length"),
    pytest.param(post("Content-Length : 0", body=INNER), id="a space before the colon"),
    pytest.param(post("Transfer-Encoding: xchunked", body=CHUNKED_INNER), id="an unknown coding"),
    pytest.param(post("Transfer-Encoding: chunked, identity", body=CHUNKED_INNER), id="chunked is not the last coding"),
    pytest.param(post("Transfer-Encoding: identity", body=INNER), id="identity"),
    pytest.param(post("Transfer-Encoding:\x0bchunked", body=CHUNKED_INNER), id="a vertical tab"),
    pytest.param(post("Transfer-Encoding: chunked\r\n Content-Length: 5", body=CHUNKED_INNER), id="a folded line"),
    pytest.param(post("X: a\nTransfer-Encoding: chunked", body=CHUNKED_INNER), id="a bare line feed"),
    pytest.param(post("X: a\rContent-Length: 0", body=INNER), id="a bare carriage return"),
    pytest.param(post("Transfer-Encoding: chunked", body=CHUNKED_INNER, version="1.0"), id="chunked in HTTP/1.0"),
    pytest.param(
        post("Transfer-Encoding: chunked", body="5;\nx\r\nhello\r\n0\r\n\r\n"), id="a line feed in an extension"
    ),
    pytest.param(post("Transfer-Encoding: chunked", body="-1\r\n" + INNER), id="a negative chunk"),
    pytest.param(post("Transfer-Encoding: chunked", body="0x5\r\nhello\r\n0\r\n\r\n"), id="a chunk size with 0x"),
    pytest.param(post("Transfer-Encoding: chunked", body="3\r\nhello\r\n0\r\n\r\n"), id="a chunk longer than it says"),
    pytest.param(
        post("Transfer-Encoding: chunked", body="10000000000000005\r\nhello"), id="a chunk size that overflows"
    ),
    pytest.param(post("Transfer_Encoding: chunked", "Content-Length: 5", body="0\r\n\r\n"), id="an underscored coding"),
    pytest.param(post("Content_Length: 99", "Content-Length: 2", body="ok"), id="an underscored length"),
    pytest.param(post("Connection: Content-Length", "Content-Length: 2", body="ok"), id="a length named by Connection"),
    pytest.param(
        post("Connection: close, Transfer-Encoding", "Transfer-Encoding: chunked", body="2\r\nok\r\n0\r\n\r\n"),
        id="a coding named by Connection",
    ),
    pytest.param(post("Upgrade: h2c", "Connection: Upgrade", "Content-Length: 2", body="ok"), id="an upgrade to h2c"),
    pytest.param(post("Host: b", "Content-Length: 0"), id="two hosts"),
    pytest.param(
        post("Content-Length: 0", target="/api/x HTTP/1.1\r\nX: y\r\n\r\nGET /api/smuggled"), id="CRLF in the target"
    ),
    pytest.param(
        post("Expect: 100-continue", "Content-Length: 2", body="ok"), id="a body that does not wait for its 100"
    ),
    pytest.param(b"GET http://a@evil/api/x HTTP/1.1\r\nHost: a\r\n" + AUTH.encode() + b"\r\n", id="an absolute target"),
]


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_a_hostile_request_is_refused_or_arrives_as_one(
    backend: stack.BackendServer, gateway: stack.Stack, hostile: bytes
) -> None:
    """400 and close, or exactly one well-formed request; the next user of the kept connection gets their own answer."""
    assert (await gateway.request("/api/before", headers=bearer(user_id=7))).status == 200
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(hostile)
    async with asyncio.timeout(10):
        answer = await stack.read_answer(reader)
    after = await gateway.request("/api/after", headers=bearer(user_id=8))
    writer.close()
    assert after.json["target"] == "/api/after"
    assert dict(map(tuple, after.json["headers"]))["x-user-id"] == "8"
    between = [seen for seen in backend.seen if seen.target not in ("/api/before", "/api/after")]
    assert all(seen.get("x-user-id") == "1" and seen.target == "/api/x" for seen in between)
    if answer.status >= 400:
        assert between == []
        assert answer.get("connection") == "close" or await reader.read() == b""
    else:
        assert len(between) == 1
        lengths = between[0].get("content-length"), between[0].get("transfer-encoding")
        assert None in lengths, "one framing, not two"


async def test_what_follows_a_request_is_a_request_of_its_own(
    backend: stack.BackendServer, gateway: stack.Stack
) -> None:
    """Pipelining: the second request is judged like the first, with no identity but its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(post("Content-Length: 2", body="ok" + INNER))
    async with asyncio.timeout(10):
        first, second = await stack.read_answer(reader), await stack.read_answer(reader)
    writer.close()
    assert (first.status, second.status, second.code) == (200, 401, "no_token")
    assert [seen.target for seen in backend.seen] == ["/api/x"]
