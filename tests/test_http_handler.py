"""relay.http.handler on the bare ASGI interface: what a view may answer, and what a server may do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.http import Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from relay.entry import arrive
from relay.http.handler import RelayHandler
from relay.http.request import RelayRequest
from relay.identity.model import NOBODY
from relay.routing.snapshot import Snapshot
from relay.runtime import Runtime
from relay.settings import RelaySettings
from relay.typing import Message
from tests.conftest import Events

# Views


async def hello(request: RelayRequest) -> HttpResponse:
    response = HttpResponse("hello", content_type="text/plain", headers={"X-Own": "ä"})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


async def facts(request: RelayRequest) -> HttpResponse:
    return JsonResponse(
        {
            "get": request.GET.dict(),
            "cookies": request.COOKIES,
            "header": request.headers.get("X-Thing"),
            "url": request.build_absolute_uri(),
            "length": len(await request.whole_body(10)),
        }
    )


async def stream(request: RelayRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    return StreamingHttpResponse(parts())


async def broken(request: RelayRequest) -> HttpResponse:
    raise RuntimeError("the detail is ours")


async def missing(request: RelayRequest) -> HttpResponse:
    raise Http404("no such thing")


async def waits(request: RelayRequest) -> HttpResponse:
    request.scope["waiting"].set_result(asyncio.current_task())
    await asyncio.Event().wait()
    raise AssertionError


urlpatterns = [path(view.__name__, view) for view in (hello, facts, stream, broken, missing, waits)]


# A server


class Visit:
    """One request, as a server would give it to the handler; then what the handler did.

    Attributes:
        asked: How often it called ``receive()``.
        waiting: The task of `waits`, once it runs.
    """

    def __init__(self, target: str, method: str = "GET", *, extensions: tuple[str, ...] = (), **options: Any) -> None:
        route, _, query = target.partition("?")
        self.scope: dict[str, Any] = {
            "type": "http",
            "http_version": options.get("http_version", "1.1"),
            "method": method,
            "path": route,
            "raw_path": route.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"gateway.test"), *options.get("headers", [])],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "scheme": "http",
            "extensions": {name: {} for name in extensions},
            "identity": NOBODY,
        }
        self.scope["relay"] = arrive(self.scope, ())
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        for piece in options.get("body", ()):
            self.incoming.put_nowait({"type": "http.request", "body": piece, "more_body": True})
        if not options.get("unfinished"):
            self.incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.sent: list[Message] = []
        self.asked = 0
        self.waiting: asyncio.Future[asyncio.Task[object]] = asyncio.get_running_loop().create_future()
        self.scope["waiting"] = self.waiting

    async def receive(self) -> Message:
        self.asked += 1
        return await self.incoming.get()

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        assert [m["more_body"] for m in self.sent[1:]] == [True] * (len(self.sent) - 2) + [False]
        return b"".join(m["body"] for m in self.sent[1:])


@pytest.fixture
def handler(settings: Any) -> RelayHandler:
    settings.ROOT_URLCONF = __name__
    return RelayHandler(Runtime(RelaySettings(jwt_secret="x" * 32), Snapshot()))


@pytest.fixture(params=[(), ("relay.cancel",)], ids=["any server", "our server"])
def extensions(request: pytest.FixtureRequest) -> tuple[str, ...]:
    found: tuple[str, ...] = request.param
    return found


async def visit(handler: RelayHandler, target: str, *args: Any, **options: Any) -> Visit:
    made = Visit(target, *args, **options)
    await handler(made.scope, made.receive, made.send)
    return made


async def turn_over() -> None:
    """What ends in one turn of the loop is in the log with the next."""
    await asyncio.sleep(0)


# What a view may answer


async def test_an_ordinary_response(handler: RelayHandler, extensions: tuple[str, ...]) -> None:
    """Cookies stay apart (RFC 6265 §3), the length is told, the request has an id."""
    made = await visit(handler, "/hello", extensions=extensions)
    request_id = made.scope["relay"].request_id.encode()
    assert made.status == 200
    assert made.headers == [
        (b"x-own", "ä".encode("latin-1")),
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=1; Path=/"),
        (b"set-cookie", b"b=2; HttpOnly; Path=/"),
        (b"content-length", b"5"),
        (b"x-request-id", request_id),
        (b"vary", b"Origin"),
    ]
    assert made.body == b"hello"


async def test_head_has_the_length_and_no_body(handler: RelayHandler, extensions: tuple[str, ...]) -> None:
    """RFC 9110 §9.3.2."""
    made = await visit(handler, "/hello", "HEAD", extensions=extensions)
    assert (dict(made.headers)[b"content-length"], made.body) == (b"5", b"")


async def test_a_streaming_response(handler: RelayHandler, extensions: tuple[str, ...]) -> None:
    """Part by part, without a length."""
    made = await visit(handler, "/stream", extensions=extensions)
    assert [message["body"] for message in made.sent[1:]] == [b"one ", b"two", b""]
    assert b"content-length" not in dict(made.headers)


async def test_a_request_is_djangos_when_a_view_asks(handler: RelayHandler) -> None:
    """Lazily: nothing of it is computed before."""
    headers = [(b"cookie", b"a=1; b=2"), (b"x-thing", b"thing"), (b"content-length", b"4")]
    made = await visit(handler, "/facts?q=1&r=%20", "POST", headers=headers, body=[b"bo", b"dy"])
    assert made.body == (
        b'{"get": {"q": "1", "r": " "}, "cookies": {"a": "1", "b": "2"}, "header": "thing", '
        b'"url": "http://gateway.test/facts?q=1&r=%20", "length": 4}'
    )


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param([(b"content-length", b"11")], [], id="announced"),
        pytest.param([(b"transfer-encoding", b"chunked")], [b"123456", b"78901"], id="grown"),
    ],
)
async def test_a_body_over_a_pages_limit(handler: RelayHandler, headers: Any, body: list[bytes]) -> None:
    """413, as on relayed paths."""
    made = await visit(handler, "/facts", "POST", headers=headers, body=body)
    assert (made.status, b'"body_too_large"' in made.body) == (413, True)


async def test_http_2_needs_no_length(handler: RelayHandler) -> None:
    """RFC 9113 §8.1.1: a body ends with its stream; an ASGI server says so the same way."""
    headers = [(b"x-thing", b"thing")]
    made = await visit(handler, "/facts", "POST", headers=headers, body=[b"four"], http_version="2")
    assert b'"length": 4' in made.body


async def test_a_page_that_fails(
    handler: RelayHandler, extensions: tuple[str, ...], events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    """500 in the contract's shape; what happened is in the log, and only there."""
    made = await visit(handler, "/broken", extensions=extensions)
    await turn_over()
    assert made.status == 500
    assert b'"code": "internal_error"' in made.body
    assert b"ours" not in made.body
    assert "the detail is ours" in caplog.text
    assert events.one("http.refused")["code"] == "internal_error"


@pytest.mark.parametrize("target", ["/missing", "/nowhere", "*"])
async def test_a_page_that_is_not_there(handler: RelayHandler, target: str) -> None:
    """404 in the contract's shape."""
    made = await visit(handler, target)
    assert (made.status, b'"no_route"' in made.body) == (404, True)


# What a server may do


async def test_our_server_is_not_listened_to(handler: RelayHandler) -> None:
    """It cancels us when the client leaves; asking would cost a task per request."""
    made = await visit(handler, "/hello", extensions=("relay.cancel",))
    assert made.asked == 0


async def test_a_client_that_leaves_another_server(handler: RelayHandler, events: Events) -> None:
    """The view is cancelled, nothing is answered, and the log says that the client left."""
    made = Visit("/waits")
    serving = asyncio.create_task(handler(made.scope, made.receive, made.send))
    view = await made.waiting
    made.leave()
    await serving
    await turn_over()
    assert view.cancelled()
    assert made.sent == []
    assert events.one("http.request")["status"] == 499


async def test_a_server_that_cancels_us(handler: RelayHandler, extensions: tuple[str, ...], events: Events) -> None:
    """The view ends with us, under any server."""
    made = Visit("/waits", extensions=extensions)
    serving = asyncio.create_task(handler(made.scope, made.receive, made.send))
    view = await made.waiting
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await turn_over()
    assert view.done()
    assert events.one("http.request")["status"] == 499


async def test_a_client_that_leaves_inside_its_upload(
    handler: RelayHandler, extensions: tuple[str, ...], events: Events
) -> None:
    """The view does not get half a body for a whole one."""
    headers = [(b"content-length", b"9"), (b"x-thing", b"thing")]
    made = Visit("/facts", "POST", headers=headers, body=[b"half"], unfinished=True, extensions=extensions)
    made.leave()
    await handler(made.scope, made.receive, made.send)
    await turn_over()
    assert made.sent == []
    assert events.one("http.request")["status"] == 499
